from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Simvirt


def test_text_json_and_picture(simvirt: Simvirt, tmp_path: Path) -> None:
    picture = tmp_path / "costs.png"
    words = ("compare", "--benchmarks", "in,bench-cpuid", "--rounds", "20", "--plot", str(picture))
    result = simvirt(*words)
    assert (result.status, result.err) == (0, "")
    for part in ("counted", "published", "modelled", "measured", "1 IO_INSTRUCTION", "1 CPUID", "15,826"):
        assert part in result.out
    assert picture.stat().st_size > 10_000
    table = simvirt(*words, "--json").json()
    assert table["schema"] == "simvirt.benchmarks/1"
    assert [row["name"] for row in table["benchmarks"]] == ["in", "cpuid"]


def test_quiet_is_the_exits_alone(simvirt: Simvirt) -> None:
    words = ("compare", "--benchmarks", "in,cr8wr", "--rounds", "20", "--quiet", "--strategy", "tae,vtx")
    assert simvirt(*words).out == (
        "in: exits trap-and-emulate 1.00, vtx 1.00\ncr8wr: exits trap-and-emulate n/a, vtx 0.00\n"
    )


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "name a guest to compare"),
        (["hello", "--rounds", "10"], "--rounds is for --benchmarks"),
        (["hello", "--plot", "x.png"], "--plot is for --benchmarks"),
        (["hello", "--benchmarks"], "--benchmarks has guests of its own"),
        (["--benchmarks", "--costs", "core2-2006"], "--costs is for one guest"),
        (["--benchmarks", "hello"], "unknown benchmark"),
        (["--benchmarks", "in", "--plot", "x.gif"], "ends in .png"),
        (["--benchmarks", "in", "--rounds", "3"], "5 to 90,000"),
    ],
)
def test_wrong_usage(simvirt: Simvirt, words: list[str], why: str) -> None:
    result = simvirt("compare", *words)
    assert (result.status, result.out) == (2, "")
    assert why in result.err
