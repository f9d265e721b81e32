"""A debugger that writes control registers: what the processor derives from them follows, as behind MOV to CR."""

from __future__ import annotations

import pytest

from simvirt.errors import UsageError
from simvirt.gdb.registers import I386, RegisterFile
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.x86.exceptions import Vector
from tests.support.pc import CODE, EAX, Pc, flat_pc

FIRST, SECOND, DIRECTORY, PAGE = 0x10_0000, 0x10_1000, 0x10_2000, 0x40_0000


def pae_pc() -> Pc:
    """PAE paging by FIRST; SECOND maps PAGE elsewhere."""
    pc = flat_pc()
    for number in range(4):
        pc.write64(DIRECTORY + 8 * number, number << 21 | 0x83)
        pc.write64(DIRECTORY + 0x1000 + 8 * number, (number if number != 2 else 3) << 21 | 0x83)
    pc.write64(FIRST, DIRECTORY | 1)
    pc.write64(SECOND, DIRECTORY + 0x1000 | 1)
    pc.set_paging(FIRST, cr4=0x20)
    pc.write32(PAGE, 0x1111)
    pc.write32(PAGE + 0x20_0000, 0x2222)
    return pc


def write(pc: Pc, name: str, value: int) -> None:
    """As gdb's `set $name = value` comes through."""
    register = next(row for row in I386.registers if row.name == name)
    file = RegisterFile(ArchitecturalState.of(pc.state), lambda _at, _size: b"")
    register.decode(file, value.to_bytes(register.size, "little"))
    pc.cpu.take_up_state(file.result())
    pc.engine.flush_tlb()


def test_writing_cr3_under_pae_paging_loads_the_pdpte_registers() -> None:
    pc = pae_pc()
    write(pc, "cr3", SECOND)
    assert pc.state.pdptes[0] == DIRECTORY + 0x1000 | 1
    pc.load("a1 00 00 40 00 ; mov eax, [0x400000]")
    pc.step()
    assert pc.state[EAX] == 0x2222


def test_a_table_that_no_processor_loads_is_refused_and_nothing_changes() -> None:
    pc = pae_pc()
    pc.write64(SECOND + 8, 0x1F)
    before = ArchitecturalState.of(pc.state)
    with pytest.raises(UsageError, match=r"CR3 = 0x101000 names .* reserved bit in a present entry"):
        write(pc, "cr3", SECOND)
    assert ArchitecturalState.of(pc.state) == before
    assert pc.state.cr3 == FIRST


def test_writing_another_register_leaves_them() -> None:
    """PDPTEs are registers: the table in memory may say something else by now (SDM Vol. 3A §4.4.1)."""
    pc = pae_pc()
    pc.write64(FIRST, 0)
    write(pc, "eax", 5)
    assert pc.state.pdptes[0] == DIRECTORY | 1
    write(pc, "cr3", FIRST)
    pc.load("90 ; nop")
    event = pc.event()
    assert getattr(event, "vector", None) is Vector.PF
    assert pc.state.rip == CODE
