"""`simvirt profile`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Simvirt


def test_text(simvirt: Simvirt) -> None:
    result = simvirt("profile", "rings", "--strategy", "vtx")
    assert (result.status, result.err) == (0, "")
    for heading in ("Functions", "exit reason", "Exit sites", "Guest instructions from one exit to the next"):
        assert heading in result.out


def test_on_bare_metal_there_are_no_exits(simvirt: Simvirt) -> None:
    out = simvirt("profile", "rings").out
    assert "Functions" in out
    assert "Exit sites" not in out


def test_json(simvirt: Simvirt) -> None:
    told = json.loads(simvirt("profile", "rings", "--strategy", "vtx", "--json").out)
    assert told["schema"] == "simvirt.profile/1"
    assert set(told) == {"schema", "run", "counted", "modelled"}
    assert sum(each["instructions"] for each in told["counted"]["functions"]) == told["run"]["counted"]["instructions"]
    assert told["modelled"]["guest_cycles"] + told["modelled"]["vmm_cycles"] == told["run"]["modelled"]["cycles"]


def test_files(simvirt: Simvirt, tmp_path: Path) -> None:
    picture, stacks = tmp_path / "flame.svg", tmp_path / "stacks.txt"
    result = simvirt(
        "profile", "hello", "--strategy", "vtx", "--quiet", "--flame-graph", str(picture), "--folded", str(stacks)
    )
    assert (result.status, result.out, result.err) == (0, "", "")
    assert ET.parse(picture).getroot().tag.endswith("svg")
    assert all(line.rsplit(" ", 1)[1].isdigit() for line in stacks.read_text().splitlines())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--every", "0"), "at least 1"),
        (("--flame-graph", "/nowhere/at/all.svg"), "cannot be written"),
        (("--symbols", "/nowhere/at/all"), "no such file"),
        (("--strategy", "vxt"), "did you mean 'vtx'"),
    ],
)
def test_bad_requests(simvirt: Simvirt, words: tuple[str, ...], told: str) -> None:
    result = simvirt("profile", "hello", *words)
    assert result.status == 2
    assert told in result.err
