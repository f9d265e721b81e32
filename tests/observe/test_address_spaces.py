"""Address spaces of a run: the same under every strategy, by every paging mode, and with tables that make no sense."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from simvirt.guests.flat import flat_image
from simvirt.observe.address_spaces import MOST_STRETCHES, address_spaces
from simvirt.observe.page_walk import walk
from simvirt.observe.plot_address_spaces import plot_address_spaces
from simvirt.observe.results import RunConfig
from simvirt.observe.trial import Trial
from simvirt.strategies.registry import find
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from pathlib import Path

    from simvirt.observe.address_spaces import AddressSpaces

ROOT, TABLE, OTHER = 0x20_0000, 0x20_1000, 0x20_2000
CR3 = bytes.fromhex("b8 00 00 20 00 0f 22 d8")
PG = bytes.fromhex("0f 20 c0 0d 00 00 00 80 0f 22 c0 eb fe")
PAE = bytes.fromhex("b8 20 00 00 00 0f 22 e0")
NXE = bytes.fromhex("b9 80 00 00 c0 0f 32 0d 00 08 00 00 0f 30")
LME = bytes.fromhex("b9 80 00 00 c0 0f 32 0d 00 09 00 00 0f 30")
STEPS = 40


def trial_of(code: bytes, tables: dict[int, bytes], strategy: str = "bare-metal") -> Trial:
    trial = Trial(flat_image(code, "paged"), find(strategy), RunConfig("x86-64", 16 << 20, 0, 1000))
    for at, data in tables.items():
        trial.machine.write_physical(Gpa(at), data)
    trial.advance(STEPS)
    assert trial.error is None
    return trial


def seen(spaces: AddressSpaces) -> list[tuple[int, int, int, str]]:
    return [
        (one.linear, one.gpa, one.size, "w" * one.writable + "u" * one.user + "x" * one.executable)
        for one in spaces.stretches
    ]


def identity_table() -> bytes:
    return b"".join(struct.pack("<I", page << 12 | 3) for page in range(1024))


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx", "trap-and-emulate"])
def test_stretches_are_told_apart_by_rights_and_by_where_they_lead(strategy: str) -> None:
    other = [0x30_0007, 0x30_1007, 0x30_2005, 0, 0x50_0005]
    tables = {
        ROOT: struct.pack("<3I", TABLE | 7, OTHER | 7, 0),
        TABLE: identity_table(),
        OTHER: struct.pack("<5I", *other).ljust(4096, b"\0"),
    }
    spaces = address_spaces(trial_of(CR3 + PG, tables, strategy))
    assert seen(spaces) == [
        (0, 0, 4 << 20, "wx"),
        (0x40_0000, 0x30_0000, 0x2000, "wux"),
        (0x40_2000, 0x30_2000, 0x1000, "ux"),
        (0x40_4000, 0x50_0000, 0x1000, "ux"),
    ]
    assert spaces.complete


def test_pae_paging_with_execute_disable() -> None:
    tables = {
        ROOT: struct.pack("<4Q", TABLE | 1, 0, OTHER | 1, 0),
        TABLE: struct.pack("<2Q", 0x83, 1 << 63 | 0x20_0083).ljust(4096, b"\0"),
        OTHER: struct.pack("<Q", 0x87).ljust(4096, b"\0"),
    }
    assert seen(address_spaces(trial_of(PAE + NXE + CR3 + PG, tables))) == [
        (0, 0, 2 << 20, "wx"),
        (2 << 20, 2 << 20, 2 << 20, "w"),
        (2 << 30, 0, 2 << 20, "wux"),
    ]


def test_high_addresses_are_canonical() -> None:
    tables = {
        ROOT: struct.pack("<Q", TABLE | 3).ljust(4088, b"\0") + struct.pack("<Q", TABLE | 3),
        TABLE: struct.pack("<Q", OTHER | 3).ljust(4096, b"\0"),
        OTHER: struct.pack("<Q", 0x83).ljust(4096, b"\0"),
    }
    assert seen(address_spaces(trial_of(PAE + LME + CR3 + PG, tables))) == [
        (0, 0, 2 << 20, "wx"),
        (0xFFFF_FF80_0000_0000, 0, 2 << 20, "wx"),
    ]


def test_tables_in_circles_have_an_end(tmp_path: Path) -> None:
    """All entries of the root lead to the root itself, at every level, but the one that maps the code."""
    tables = {
        ROOT: struct.pack("<Q", TABLE | 3) + struct.pack("<Q", ROOT | 3) * 511,
        TABLE: struct.pack("<Q", OTHER | 3).ljust(4096, b"\0"),
        OTHER: struct.pack("<Q", 0x83).ljust(4096, b"\0"),
    }
    spaces = address_spaces(trial_of(PAE + LME + CR3 + PG, tables))
    assert not spaces.complete
    assert len(spaces.stretches) == MOST_STRETCHES
    plot_address_spaces(spaces, tmp_path / "circles.png")


def test_each_stretch_is_what_the_walk_says() -> None:
    trial = trial_of(CR3 + PG, {ROOT: struct.pack("<2I", TABLE | 7, OTHER | 7), TABLE: identity_table()})
    for one in address_spaces(trial).stretches:
        for offset in (0, one.size - 1):
            found = walk(trial, one.linear + offset)
            assert found.gpa == one.gpa + offset
            assert (found.writable, found.user, found.executable) == (one.writable, one.user, one.executable)


def test_without_paging_nothing_is_mapped(tmp_path: Path) -> None:
    spaces = address_spaces(trial_of(b"\xeb\xfe", {}))
    assert (spaces.paging, spaces.stretches) == (None, ())
    plot_address_spaces(spaces, tmp_path / "flat.svg")
