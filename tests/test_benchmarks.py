"""The benchmarks run, and what they write is well-formed. No figure is judged: that needs an idle machine and time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def tiny(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """A run of everything in its smallest size: the JSON, and what was printed."""
    file = tmp_path_factory.mktemp("benchmarks") / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--tiny", "--json", str(file)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report, done.stdout


def test_report_names_the_machine_and_the_versions(tiny: tuple[dict[str, Any], str]) -> None:
    report, _ = tiny
    assert report["schema"] == "simvirt.bench/1"
    assert {"date", "processor", "system", "python", "simvirt", "unicorn", "qemu", "bochs"} <= report["host"].keys()


def test_every_benchmark_is_there(tiny: tuple[dict[str, Any], str]) -> None:
    report, _ = tiny
    names = [section["name"] for section in report["sections"]]
    *measured, linux = names
    assert measured == ["compute", "round-trips", "operations", "start-up", "control", "comparison", "virtual-machines"]
    assert linux == "linux"  # which is no part of this plan
    assert [section["name"] for section in report["sections"] if not section["figures"]] == [linux]


def test_every_figure_is_a_number_with_a_unit_and_a_verdict_where_it_has_a_target(
    tiny: tuple[dict[str, Any], str],
) -> None:
    report, _ = tiny
    for section in report["sections"]:
        for figure in section["figures"]:
            assert set(figure) == {"subject", "quantity", "value", "median", "unit", "target", "met"}
            assert isinstance(figure["value"], (int, float))
            assert figure["value"] >= 0
            assert figure["unit"]
            assert (figure["target"] is None) == (figure["met"] is None)


def test_the_wanted_figures_have_their_targets(tiny: tuple[dict[str, Any], str]) -> None:
    report, _ = tiny
    targets = {
        (figure["quantity"], figure["subject"]): figure["target"]
        for section in report["sections"]
        for figure in section["figures"]
    }
    assert targets["CPUID", "vtx"] == "≤ 8"
    assert targets["INT 0x80 and IRET", "bare-metal"] == "≤ 10"
    assert targets["simvirt run hello", "wall clock"] == "≤ 1"
    assert targets["import simvirt", "wall clock"] == "≤ 0.3"


def test_tables_are_printed_with_what_missed_its_target(tiny: tuple[dict[str, Any], str]) -> None:
    report, text = tiny
    for section in report["sections"]:
        assert f"## {section['title']}" in text
    missed = sum(figure["met"] is False for section in report["sections"] for figure in section["figures"])
    assert text.partition("## Targets missed")[2].count("\n- ") == missed


def test_a_wrong_option_is_refused(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--rounds", "0"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--rounds" in done.stderr
