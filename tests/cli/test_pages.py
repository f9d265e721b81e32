"""`simvirt pages`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import FlatGuest, Simvirt

# Page directory at 0x200000: a 4 MiB page maps itself; then paging goes on, and a loop.
_PAGING = bytes.fromhex(
    "c7 05 00 00 20 00 83 00 00 00  b8 00 00 20 00 0f 22 d8  b8 10 00 00 00 0f 22 e0"
    "0f 20 c0 0d 00 00 00 80 0f 22 c0  eb fe"
)


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("bare-metal", "1 memory reference with nothing cached"),
        ("vtx", "each guest-physical address by EPT"),
        ("trap-and-emulate", "the VMM's page tables, which the processor walks instead"),
    ],
)
def test_a_walk(simvirt: Simvirt, flat: FlatGuest, strategy: str, told: str) -> None:
    guest = flat(_PAGING)
    result = simvirt("pages", guest, "--at-instruction", "20", "--address", "100000", "--strategy", strategy)
    assert (result.status, result.err) == (0, "")
    assert "32-bit paging (SDM Vol. 3A §4.3)" in result.out
    assert "PDE 0" in result.out
    assert told in result.out


def test_without_paging(simvirt: Simvirt) -> None:
    result = simvirt("pages", "hello", "--at-instruction", "0", "--address", "guest_main")
    assert "no paging" in result.out
    assert "0 memory references" in result.out


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx", "trap-and-emulate"])
def test_the_address_spaces(simvirt: Simvirt, flat: FlatGuest, strategy: str) -> None:
    guest = flat(_PAGING)
    words = ("pages", guest, "--at-instruction", "20", "--strategy", strategy)
    result = simvirt(*words)
    assert (result.status, result.err) == (0, "")
    assert "0x00000000 - 0x003fffff -> 0x00000000  4,096 KiB, supervisor, writable" in result.out
    assert "RAM extended memory" in result.out
    assert ("shadow paging so far" in result.out) == (strategy == "trap-and-emulate")
    found = json.loads(simvirt(*words, "--json", "--address", "100000").out)
    assert found["schema"] == "simvirt.pages/1"
    assert found["address_spaces"]["stretches"] == [
        {"linear": 0, "guest_physical": 0, "size": 4 << 20, "writable": True, "user": False, "executable": True}
    ]
    assert found["translation"]["guest"]["guest_physical"] == 0x10_0000
    assert (
        found["translation"]["references"] == {"bare-metal": 1, "vtx": 9, "trap-and-emulate": 3}[strategy] or strategy
    )


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_a_picture(simvirt: Simvirt, flat: FlatGuest, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"spaces.{suffix}"
    result = simvirt("pages", flat(_PAGING), "--at-instruction", "20", "--plot", str(file))
    assert (result.status, result.err) == (0, "")
    assert file.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml", b"%PDF-")


def test_what_is_no_picture_is_refused_before_the_run(simvirt: Simvirt, tmp_path: Path) -> None:
    result = simvirt("pages", "spin", "--at-instruction", "1e18", "--plot", str(tmp_path / "spaces.doc"))
    assert result.status == 2
    assert "a picture is a file that ends in .png, .svg, .pdf" in result.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--at-instruction", "1e6", "--address", "0"), "retires only 267 instructions: finished"),
        (("--at-instruction", "1", "--address", "gest_main"), "did you mean guest_main"),
        (("--at-instruction", "x", "--address", "0"), "not a number of instructions"),
    ],
)
def test_bad_requests(simvirt: Simvirt, words: tuple[str, ...], told: str) -> None:
    result = simvirt("pages", "hello", *words)
    assert result.status == 2
    assert told in result.err
