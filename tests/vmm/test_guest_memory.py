"""The guest's linear memory for the VMM's own accesses."""

from __future__ import annotations

import pytest

from simvirt.x86.addresses import Gpa
from tests.support.twins import HOLE, MEMORY, VMM, Twins, start


@pytest.fixture
def begun(twins: Twins) -> Twins:
    twins.begin(b"\xf4", start())
    return twins


def test_holes_and_the_vmm_s_part_read_ones(begun: Twins) -> None:
    memory = begun.virtual_cpu.memory
    for address in (HOLE, MEMORY, VMM, VMM + 8, 0xFFFF_FFF0):
        assert memory.read(address, 8) == b"\xff" * 8
        memory.write(address, b"\0" * 8)
        assert memory.read(address, 8) == b"\xff" * 8


def test_the_address_space_wraps(begun: Twins) -> None:
    memory = begun.virtual_cpu.memory
    memory.write(0xFFFF_FFFE, b"\x01\x02\x03\x04")
    assert memory.read(0, 2) == b"\x03\x04"
    assert memory.read(0x1_0000_0000, 2) == b"\x03\x04"
    assert memory.read(0xFFFF_FFFE, 4) == b"\xff\xff\x03\x04"


def test_accesses_cross_into_holes(begun: Twins) -> None:
    memory = begun.virtual_cpu.memory
    memory.write_integer(MEMORY - 2, 4, 0x1122_3344)
    assert memory.read_integer(MEMORY - 2, 4) == 0xFFFF_3344
    assert begun.virtual.machine.read_physical(Gpa(MEMORY - 2), 2) == b"\x44\x33"


def test_writes_are_told(begun: Twins) -> None:
    told: list[tuple[int, int]] = []
    memory = begun.virtual_cpu.memory
    follow, memory.on_write = memory.on_write, lambda gpa, size: told.append((gpa, size))  # type: ignore[attr-defined]
    try:
        memory.write(0x1_0000_0010, b"abc")
        memory.write_integer(0x20, 2, 1)
    finally:
        memory.on_write = follow  # type: ignore[attr-defined]
    assert told == [(0x10, 3), (0x20, 2)]
