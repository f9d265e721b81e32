"""The chain of faults that bad tables lead to (SDM Vol. 3A Tables 6-4 and 6-5): each exception, and the shutdown."""

from __future__ import annotations

from contextlib import suppress

import pytest

from simvirt.machine.delivery import Shutdown
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.exceptions import Vector
from tests.support import tables as t
from tests.support.pc import CODE, CS0, CS1, DATA, DS1, IDT, INNER_STACK, MEMORY, PAGE_TABLES, TR, TSS, Pc, flat_pc

UD, DF, TS, NP, SS, GP, PF = (Vector(n) for n in (6, 8, 10, 11, 12, 13, 14))
_CR3 = PAGE_TABLES


def _chain(pc: Pc, code: str = "0f 0b ; ud2") -> list[tuple[Vector, int | None]]:
    """What is raised on the way to HLT or to the shutdown."""
    pc.load(code + "\n f4 ; hlt")
    with suppress(Shutdown):
        pc.run(100)
    return [(Vector(record.vector), record.error_code) for record in pc.cpu.fault_chain]


def _paging(pc: Pc) -> None:
    """The first 4 MiB to themselves in 4 KiB pages, for everybody."""
    pc.write32(_CR3, _CR3 + 0x1000 | 7)
    for page in range(1024):
        pc.write32(_CR3 + 0x1000 + 4 * page, page << 12 | 7)
    pc.set_paging(_CR3)


def _unmap(pc: Pc, address: int) -> None:
    pc.write32(_CR3 + 0x1000 + 4 * (address >> 12), 0)
    pc.engine.flush_tlb()


def test_no_handler_at_all() -> None:
    """An IDT of limit 0: #UD's gate is beyond it (#GP with EXT), so is #GP's (#DF), so is #DF's."""
    pc = flat_pc()
    pc.state.idtr = DescriptorTable(IDT, 0)
    assert _chain(pc) == [(UD, None), (GP, 6 * 8 + 3), (DF, 0), (GP, 8 * 8 + 3)]


def test_an_idt_that_ends_before_the_vector_has_a_handler_for_gp() -> None:
    pc = flat_pc()
    pc.state.idtr = DescriptorTable(IDT, 0x20 * 8 - 1)
    assert _chain(pc, "cd 40 ; int") == [(GP, 0x40 * 8 + 2)]
    assert pc.vector == GP


@pytest.mark.parametrize("vector", [UD, GP])
def test_an_absent_gate(vector: Vector) -> None:
    """#NP of a benign exception is handled; of a contributory one it is a double fault."""
    pc = flat_pc()
    pc.set_gate(vector, t.gate(t.INT_GATE, CS0, 0, present=False))
    if vector is UD:
        assert _chain(pc) == [(UD, None), (NP, 6 * 8 + 3)]
    else:
        assert _chain(pc, "66 b8 ff ff ; mov ax\n 8e d8 ; mov ds") == [(GP, 0xFFFC), (DF, 0)]


def test_a_stack_that_is_not_mapped() -> None:
    """In ring 0 nothing can be pushed: #PF, #DF and its #PF all want the same stack."""
    pc = flat_pc()
    _paging(pc)
    pc.state.rsp = 0x50_0000
    assert _chain(pc) == [(UD, None), (PF, 2), (DF, 0), (PF, 2)]


def test_an_inner_stack_that_is_not_mapped() -> None:
    pc = flat_pc()
    _paging(pc)
    _unmap(pc, INNER_STACK - 0x1000)
    pc.user()
    assert [vector for vector, _ in _chain(pc)] == [UD, PF, DF, PF]


def test_an_idt_that_is_not_mapped() -> None:
    pc = flat_pc()
    _paging(pc)
    _unmap(pc, IDT)
    assert _chain(pc) == [(UD, None), (PF, 0), (DF, 0), (PF, 0)]


@pytest.mark.parametrize("base", [MEMORY, 0xFFFF_F000])
def test_an_idt_outside_of_memory(base: int) -> None:
    """What nobody answers reads as ones: a present gate of type 15 with S set is none, so #GP."""
    pc = flat_pc()
    pc.state.idtr = DescriptorTable(base, 0x7FF)
    assert _chain(pc)[:3] == [(UD, None), (GP, 6 * 8 + 3), (DF, 0)]


@pytest.mark.parametrize("directory", [MEMORY, 0xFFFF_F000])
def test_a_page_directory_outside_of_memory(directory: int) -> None:
    """What nobody answers reads as ones: entries that are present and lead to the top of memory, whose code is ones."""
    pc = flat_pc()
    pc.set_paging(directory)
    assert [vector for vector, _ in _chain(pc)] == [UD, GP, DF, GP]


def test_a_page_directory_that_is_its_own_page_table() -> None:
    """Entry 0 leads to the directory itself, so page 0 is the directory, and the code's page is nowhere."""
    pc = flat_pc()
    pc.write32(_CR3, _CR3 | 7)
    pc.set_paging(_CR3)
    assert [vector for vector, _ in _chain(pc)] == [PF, DF, PF]


def test_a_page_directory_that_maps_itself() -> None:
    """The usual trick: the last entry leads to the directory, whose entries are then to be seen at the top."""
    pc = flat_pc()
    _paging(pc)
    pc.write32(_CR3 + 4 * 1023, _CR3 | 7)
    pc.engine.flush_tlb()
    assert _chain(pc, "a1 00 f0 ff ff ; mov eax, [0xfffff000]") == []
    assert pc.state[0] & ~0x60 == _CR3 + 0x1000 | 7


@pytest.mark.parametrize("limit", [0, 7])
def test_a_task_without_a_stack_for_ring_0(limit: int) -> None:
    """#TS names the TSS; the handlers of #TS and #DF need the same stack."""
    pc = flat_pc()
    pc.state.tr = Segment(TR, TSS, limit, 0x8900)
    pc.user()
    assert [vector for vector, _ in _chain(pc)] == [UD, TS, DF, TS]


def test_a_task_without_a_stack_for_ring_1() -> None:
    """#TS(TR) is handled in ring 0, whose stack the TSS has."""
    pc = flat_pc()
    pc.state.tr = Segment(TR, TSS, 0x10, 0x8900)
    pc.set_gate(0x40, t.gate(t.INT_GATE, CS1, CODE, dpl=3))
    pc.user()
    assert _chain(pc, "cd 40 ; int") == [(TS, TR)]
    assert pc.vector == TS


@pytest.mark.parametrize("access", [*range(0x80, 0x90), 0x90, 0x92, 0x9A, 0xFA])
def test_an_inner_stack_segment_of_every_wrong_type(access: int) -> None:
    """What is no writable data segment of DPL 1 is #TS with its selector."""
    pc = flat_pc()
    pc.set_descriptor(DS1, t.segment(access))
    pc.write(TSS, t.tss_32(INNER_STACK, 0x10, esp1=INNER_STACK - 0x1000, ss1=DS1))
    pc.set_gate(0x40, t.gate(t.INT_GATE, CS1, DATA, dpl=3))
    pc.user()
    assert _chain(pc, "cd 40 ; int") == [(TS, DS1 & ~3)]
