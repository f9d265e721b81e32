from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Simvirt


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_few_forms_with_their_witnesses(simvirt: Simvirt) -> None:
    result = simvirt("analyze", "x86-32", "--form", "popf*")
    assert (result.status, result.err) == (0, "")
    assert "POPFD  (popfd)" in result.out
    assert "popfd/mode-sensitive/" in result.out
    assert "not-met" in result.out


def test_a_whole_instruction_set_by_group(simvirt: Simvirt) -> None:
    result = simvirt("analyze", "third-generation+jrst1", "--jobs", "1")
    assert result.status == 0
    rows = [line for line in result.out.splitlines() if line.startswith(("1, ", "3, "))]
    assert [("not-met" in row, "met" in row) for row in rows][:1] == [(True, True)]
    assert "met" in rows[1]
    assert "not-met" not in rows[1]


def test_a_kept_result_is_taken(simvirt: Simvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    first = simvirt("analyze", "third-generation", "--jobs", "1", "--json")
    monkeypatch.setattr("simvirt.analyzer.session.sweep", None)
    assert simvirt("analyze", "third-generation", "--json").out == first.out
    assert simvirt("analyze", "third-generation", "--json", "--no-cache").status == 3


def test_json(simvirt: Simvirt) -> None:
    analysis = simvirt("analyze", "x86-32", "--form", "s[gm]*", "--json").json()
    assert (analysis["schema"], analysis["isa"]) == ("simvirt.analysis/1", "x86-32")
    form = next(form for form in analysis["forms"] if form["id"] == "sgdt-m1632")
    assert form["bytes"] == "0f010500500000"
    assert form["privileged"] == {"letter": False, "repaired": False, "under_c0": False}
    assert form["critical"] is True
    assert "configuration-sensitive" in form["classes"]
    assert form["evidence"] == "witnessed"
    assert form["coverage"]["observations"] > 50
    assert all(identifier.startswith("sgdt-m1632/") for identifier in form["witnesses"])
    assert analysis["theorems"]["1"]["hypothesis"] == "not-met"
    assert "sgdt-m1632" in analysis["theorems"]["1"]["critical"]
    assert set(analysis["theorems"]) == {"1", "2", "3", "root-mode"}
    assert analysis["theorems"]["root-mode"]["hypothesis"] == "undecided", "of some forms only"
    assert analysis["strategies"][0]["trap-and-emulate"]["copes"] is False
    assert {"form", "observed", "declared", "source", "reason", "right"} == analysis["disagreements"][0].keys()


def test_only_critical(simvirt: Simvirt) -> None:
    analysis = simvirt("analyze", "x86-32", "--form", "cli", "--only", "critical", "--format", "json").json()
    assert analysis["forms"] == []
    assert "No form is critical" in simvirt("analyze", "x86-32", "--form", "cli", "--only", "critical").out
    assert "SMSW" in simvirt("analyze", "x86-32", "--form", "smsw", "--only", "critical").out


def test_html_is_a_page(simvirt: Simvirt) -> None:
    page = simvirt("analyze", "x86-32", "--form", "smsw", "--format", "html").out
    assert page.startswith("<!doctype html>")
    assert "smsw-rm16/configuration-sensitive/" in page


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture(simvirt: Simvirt, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / f"picture.{suffix}"
    assert simvirt("analyze", "third-generation", "--jobs", "1", "--plot", str(file)).status == 0
    assert file.read_bytes()[:5] in {b"\x89PNG\r", b"<?xml"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x68-32",), "did you mean 'x86-32'"),
        (("x86-32", "--form", "pofp"), "unknown form 'pofp'"),
        (("x86-32", "--executor", "localhost:1"), "dask://HOST:PORT"),
        (("third-generation", "--plot", "picture.doc"), ".png, .svg"),
    ],
)
def test_bad_input(simvirt: Simvirt, words: tuple[str, ...], message: str) -> None:
    result = simvirt("analyze", *words)
    assert result.status == 2
    assert message in result.err


def test_the_page_of_another_machine_whose_holes_are_declared_in_part(simvirt: Simvirt) -> None:
    out = " ".join(simvirt("analyze", "arm", "--only", "critical").out.split())
    assert "CPS 1 x x x CPSR.M, SP" in out
    assert "not seen, declared: Penneman et al." in out
    assert simvirt("analyze", "arm", "--only", "critical", "--format", "html").status == 0
