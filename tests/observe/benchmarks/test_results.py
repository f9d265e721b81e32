"""The table as text, JSON and picture: kinds of numbers are never mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simvirt.errors import UsageError
from simvirt.observe.benchmarks.plot import plot
from simvirt.observe.benchmarks.results import BenchmarkTable
from simvirt.observe.benchmarks.session import compare_benchmarks
from simvirt.strategies.registry import STRATEGIES


def test_json_keeps_the_kinds_apart(micro: BenchmarkTable) -> None:
    table = json.loads(micro.to_json())
    assert table["schema"] == "simvirt.benchmarks/1"
    assert table["strategies"] == [strategy.info.name for strategy in STRATEGIES]
    for row in table["benchmarks"]:
        assert {"published", "counted", "modelled", "measured", "not_applicable"} <= set(row)
        assert set(row["modelled"]) == {preset.name for preset in micro.presets}
        applicable = set(row["counted"])
        assert applicable | set(row["not_applicable"]) == set(table["strategies"])
        assert set(row["measured"]) == applicable
        for counted in row["counted"].values():
            assert set(counted) == {"instructions", "emulated_instructions", "exits", "exits_by_reason"}
            assert sum(counted["exits_by_reason"].values()) == pytest.approx(counted["exits"])
        for measured in row["measured"].values():
            assert set(measured) == {"host_seconds"}


def test_text_has_a_table_for_each_kind(micro: BenchmarkTable) -> None:
    text = str(micro)
    assert max(map(len, text.splitlines())) <= 110
    assert "…" not in text  # nothing is cut off
    flat = " ".join(text.split())
    for title in (
        "counted: one operation",
        "published, and modelled by pentium4-672-2005: cycles of one operation",
        "modelled: cycles of one operation under vtx",
        "measured: µs of this host's processor for one operation",
        "Where they differ, and why",
    ):
        assert title in flat
    assert "Adams & Agesen 2006 §6.3" in flat
    assert (
        "trap-and-emulate cannot do syscall, cr8wr, mov_from_cr8, wr_kernel_gs_base: the guest turns long mode on"
        in flat
    )
    assert flat.count("stand in the same order as in the paper's column") == 2
    for preset in micro.presets:
        assert preset.vm_exit.source in flat


def test_a_strategy_left_out_is_told_of() -> None:
    text = " ".join(str(compare_benchmarks(["pgfault"], ["vtx"], rounds=5)).split())
    assert "trap-and-emulate was not run" in text
    assert "order as in the paper's column" not in text  # one row has no order


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_picture(micro: BenchmarkTable, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"benchmarks{suffix}"
    plot(micro, file)
    assert file.stat().st_size > 10_000


def test_pictures_of_other_kinds_are_refused(micro: BenchmarkTable, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png"):
        plot(micro, tmp_path / "benchmarks.bmp")
    with pytest.raises(UsageError, match="cannot be written"):
        plot(micro, tmp_path / "nowhere" / "benchmarks.png")


@pytest.mark.parametrize("rounds", [0, 4, 100_000])
def test_rounds_that_there_are_not(rounds: int) -> None:
    with pytest.raises(UsageError, match="rounds: 5 to 90,000 can be looked at"):
        compare_benchmarks(["in"], rounds=rounds)
