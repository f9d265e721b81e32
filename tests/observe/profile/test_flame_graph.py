"""The picture: well-formed whatever the guest's names are, and as wide as the cycles say."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from simvirt.observe.profile.flame_graph import flame_graph
from simvirt.observe.profile.profile import Profile
from simvirt.observe.session import profile

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def rings() -> Profile:
    return profile("rings", "vtx")


def _boxes(result: Profile) -> dict[str, tuple[float, float, float]]:
    """Each box by what it says when it is pointed at: left edge, bottom, width."""
    found = {}
    for group in ET.fromstring(flame_graph(result)).iter(f"{SVG}g"):
        title, box = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert box is not None
        found[str(title.text)] = float(box.attrib["x"]), float(box.attrib["y"]), float(box.attrib["width"])
    return found


def test_widths_are_cycles(rings: Profile) -> None:
    total = sum(rings.stacks.values())
    boxes = _boxes(rings)
    _, _, whole = boxes[f"rings: {total:,} cycles, 100%"]
    exits = {text: width for text, (_, _, width) in boxes.items() if text.startswith("exit: IO_INSTRUCTION")}
    for text, width in exits.items():
        cycles = int(text.split(": ")[2].split(" cycles")[0].replace(",", ""))
        assert width == pytest.approx(whole * cycles / total, abs=1.0)
    assert exits


def test_boxes_lie_on_the_row_below(rings: Profile) -> None:
    rows = sorted({y for _, y, _ in _boxes(rings).values()})
    assert {round(b - a, 3) for a, b in pairwise(rows)} == {19.0}


def test_it_says_where_stacks_are_cut(rings: Profile) -> None:
    assert "call stacks: whole in 50.00% of the samples" in flame_graph(replace(rings, samples=10, whole_stacks=5))
    assert "call stacks" not in flame_graph(replace(rings, samples=10, whole_stacks=10))


def test_hostile_names(rings: Profile) -> None:
    odd = replace(rings, stacks={("guest kernel", "<script>&\"'"): 10})
    assert any("<script>&" in text for text in _boxes(odd))


def test_nothing_ran(rings: Profile) -> None:
    assert ET.fromstring(flame_graph(replace(rings, stacks={}))).tag == f"{SVG}svg"
