"""The processor's own accesses to memory by linear address (SDM Vol. 3A §4.6, §4.7)."""

from __future__ import annotations

import pytest

from simvirt.machine.faults import ProcessorFault
from simvirt.x86.exceptions import Vector
from tests.support.paging import PRESENT, USER, WRITABLE, entry_address, paged_pc, protect, set_page
from tests.support.pc import DATA, MEMORY, Pc, flat_pc, long_pc

NEXT = DATA + 0x1000


def fault(pc: Pc, action: str, *arguments: object, **options: bool) -> tuple[Vector, int | None, int | None]:
    with pytest.raises(ProcessorFault) as caught:
        getattr(pc.cpu.memory, action)(*arguments, **options)
    return caught.value.vector, caught.value.error_code, caught.value.cr2


def test_reads_and_writes_across_pages_that_lie_apart() -> None:
    pc = paged_pc()
    set_page(pc, NEXT, 0x60_0000 | 7)
    pc.cpu.memory.write(DATA + 0xFFE, b"\x01\x02\x03\x04")
    assert bytes(pc.memory[DATA + 0xFFE : DATA + 0x1000]) == b"\x01\x02"
    assert bytes(pc.memory[0x60_0000:0x60_0002]) == b"\x03\x04"
    assert pc.cpu.memory.read_integer(DATA + 0xFFE, 4) == 0x0403_0201


def test_sets_accessed_and_dirty() -> None:
    pc = paged_pc()
    pc.cpu.memory.read(DATA, 1)
    assert pc.read(entry_address(DATA), 4) & 0x60 == 0x20
    pc.cpu.memory.write(DATA, b"x")
    assert pc.read(entry_address(DATA), 4) & 0x60 == 0x60


def test_write_is_all_or_nothing() -> None:
    pc = paged_pc()
    protect(pc, NEXT, clear=WRITABLE)
    assert fault(pc, "write", NEXT - 2, b"\x11\x22\x33\x44") == (Vector.PF, 3, NEXT)
    assert pc.read(NEXT - 2, 2) == 0


def test_user_and_supervisor() -> None:
    pc = paged_pc()
    protect(pc, DATA, clear=USER)
    assert pc.cpu.memory.read(DATA, 4) == b"\0\0\0\0"
    assert fault(pc, "read", DATA, 4, user=True) == (Vector.PF, 5, DATA)
    assert fault(pc, "write", DATA, b"x", user=True) == (Vector.PF, 7, DATA)


def test_smap_forbids_implicit_accesses_and_explicit_ones_unless_ac_is_set() -> None:
    for ac in (False, True):
        pc = paged_pc(cr4=1 << 21)
        pc.state.eflags = 2 | ac << 18
        assert fault(pc, "read", DATA, 4) == (Vector.PF, 1, DATA)
        if ac:
            pc.cpu.memory.read(DATA, 4, explicit=True)
        else:
            assert fault(pc, "read", DATA, 4, explicit=True) == (Vector.PF, 1, DATA)


def test_addresses_wrap_at_4_gib_outside_64_bit_mode() -> None:
    pc = paged_pc()
    assert fault(pc, "read", (1 << 32) - 2, 4) == (Vector.PF, 0, 0xFFFF_FFFE)
    protect(pc, 0, clear=PRESENT)
    pc.write32(0x10_0000 + 4 * 1023, 0x10_8000 | 7)
    pc.write32(0x10_8000 + 4 * 1023, 0x60_0000 | 7)
    assert fault(pc, "read", (1 << 32) - 2, 4) == (Vector.PF, 0, 0)


def test_non_canonical_addresses() -> None:
    pc = long_pc()
    for address in (0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF):
        assert fault(pc, "read", address, 1) == (Vector.GP, 0, None)
    assert fault(pc, "read", 0xFFFF_8000_0000_0000, 1) == (Vector.PF, 0, 0xFFFF_8000_0000_0000)


def test_outside_memory() -> None:
    pc = flat_pc()
    pc.cpu.memory.write(MEMORY, b"\0\0\0\0")
    assert pc.cpu.memory.read(MEMORY - 2, 4) == b"\0\0\xff\xff"
