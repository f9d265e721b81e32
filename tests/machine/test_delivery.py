"""Exceptions on the way to a handler: one after the other, double fault, shutdown (SDM Vol. 3A §6.15, Table 6-5)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from simvirt.machine.delivery import Shutdown
from simvirt.machine.interrupts import Interruption, Source
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.paging import PRESENT, paged_pc, protect
from tests.support.pc import CODE, CS0, EBX, HANDLERS, IDT, NOT_PRESENT_CODE, SPARE, STACK, TSS, Pc, flat_pc

BENIGN, CONTRIBUTORY, PAGE = "benign", "contributory", "page fault"
CLASSES = {
    BENIGN: [
        Vector.DB,
        Vector.BP,
        Vector.OF,
        Vector.BR,
        Vector.UD,
        Vector.NM,
        Vector.MF,
        Vector.AC,
        Vector.MC,
        Vector.XM,
    ],
    CONTRIBUTORY: [Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP],
    PAGE: [Vector.PF],
}
"""Table 6-4."""
SERIAL, DOUBLE = "serially", "double fault"
TABLE = {
    (BENIGN, CONTRIBUTORY): SERIAL, (BENIGN, PAGE): SERIAL,
    (CONTRIBUTORY, CONTRIBUTORY): DOUBLE, (CONTRIBUTORY, PAGE): SERIAL,
    (PAGE, CONTRIBUTORY): DOUBLE, (PAGE, PAGE): DOUBLE,
}  # fmt: skip
"""Table 6-5, for the second exceptions that a delivery can meet."""
ABSENT = 0x60_0000


def break_delivery(pc: Pc, vector: int, second: str) -> tuple[int, int | None, int | None]:
    """Make the delivery of `vector` meet an exception of class `second`: its vector, error code and CR2."""
    if second == CONTRIBUTORY:
        pc.set_gate(vector, tables.gate(tables.INT_GATE, NOT_PRESENT_CODE, HANDLERS))
        return Vector.NP, NOT_PRESENT_CODE | 1, None
    # A code segment of the LDT whose descriptor lies on an absent page.
    pc.set_gate(vector, tables.gate(tables.INT_GATE, 0x0C, HANDLERS))
    pc.state.ldtr = Segment(SPARE, ABSENT, 0x3F, 0x8200)
    return Vector.PF, 0, ABSENT + 8


PAIRS = [(vector, second, outcome) for (first, second), outcome in TABLE.items() for vector in CLASSES[first]]


@pytest.mark.parametrize(("vector", "second", "outcome"), PAIRS)
def test_two_exceptions_in_a_row(vector: Vector, second: str, outcome: str) -> None:
    pc = paged_pc()
    protect(pc, ABSENT, clear=PRESENT)
    met, error_code, cr2 = break_delivery(pc, vector, second)
    if outcome == SERIAL and met == vector:
        pytest.skip("the same gate cannot be broken and whole")
    pc.cpu.raise_exception(vector, 0 if vector.has_error_code else None, 0x1234 if vector is Vector.PF else None)
    if outcome == SERIAL:
        assert pc.vector == met
        assert pc.stack(2) == [error_code, CODE]
        if cr2 is not None:
            assert pc.state.cr2 == cr2
    else:
        assert pc.vector == Vector.DF
        assert pc.stack(2) == [0, CODE], "the error code of a double fault is 0"


@pytest.mark.parametrize("second", [CONTRIBUTORY, PAGE])
def test_an_exception_while_a_double_fault_is_delivered_is_a_shutdown(second: str) -> None:
    pc = paged_pc()
    protect(pc, ABSENT, clear=PRESENT)
    break_delivery(pc, Vector.DF, second)
    pc.set_gate(Vector.GP, tables.gate(tables.INT_GATE, NOT_PRESENT_CODE, HANDLERS))
    with pytest.raises(Shutdown):
        pc.cpu.raise_exception(Vector.GP, 0)
    assert [record.vector for record in pc.cpu.fault_chain] == [
        Vector.GP,
        Vector.DF,
        Vector.NP if second == CONTRIBUTORY else Vector.PF,
    ]


@pytest.mark.parametrize("source", [Source.EXTERNAL, Source.SOFTWARE])
def test_interrupts_are_benign(source: Source) -> None:
    pc = paged_pc()
    protect(pc, ABSENT, clear=PRESENT)
    vector, error_code, _ = break_delivery(pc, 0x40, CONTRIBUTORY)
    pc.cpu.deliver(Interruption(0x40, source, CODE + 2))
    assert pc.vector == vector
    assert error_code is not None
    ext = source is Source.EXTERNAL
    assert pc.stack(2) == [error_code & ~1 | ext, CODE], "the saved EIP is the interrupted instruction, not behind it"


def test_a_handler_that_was_reached_ends_the_chain() -> None:
    """A second #GP inside the handler of the first is a new exception, not a double fault."""
    pc = flat_pc()
    pc.cpu.raise_exception(Vector.GP, 0)
    pc.cpu.raise_exception(Vector.GP, 0)
    assert pc.vector == Vector.GP
    assert pc.state.rsp == STACK - 32


def test_three_protection_violations_in_a_row_by_guest_code() -> None:
    """Each is handled and returned from; the engine must not remember the one before."""
    pc = flat_pc()
    handler = CODE + 0x100
    pc.set_gate(13, tables.gate(tables.INT_GATE, CS0, handler))
    pc.load("""
        8e d8               ; mov ds, ax
        8e d8               ; mov ds, ax
        8e d8               ; mov ds, ax
        f4                  ; hlt
    """)
    pc.load("""
        43                  ; inc ebx
        83 04 24 00         ; add dword ptr [esp], 0
        83 c4 04            ; add esp, 4
        83 04 24 02         ; add dword ptr [esp], 2
        cf                  ; iretd
    """, handler)  # fmt: skip
    pc.state[0] = 0xFFF8
    pc.run()
    assert pc.state[EBX] == 3
    assert pc.cpu.count == 15


def test_page_fault_sets_cr2_and_others_do_not() -> None:
    pc = flat_pc()
    pc.cpu.raise_exception(Vector.PF, 2, 0xDEAD_BEE0)
    assert pc.state.cr2 == 0xDEAD_BEE0
    pc.cpu.raise_exception(Vector.GP, 0)
    assert pc.state.cr2 == 0xDEAD_BEE0


def test_empty_idt_is_a_shutdown() -> None:
    pc = flat_pc()
    pc.state.idtr = DescriptorTable(IDT, 0)
    pc.load("0f 0b ; ud2")
    with pytest.raises(Shutdown):
        pc.run()
    assert [record.vector for record in pc.cpu.fault_chain] == [Vector.UD, Vector.GP, Vector.DF, Vector.GP]


def test_stack_overflow_into_an_absent_page_is_a_shutdown() -> None:
    """#PF, its delivery meets #PF, and so does the double fault's: no stack left in ring 0."""
    pc = paged_pc()
    protect(pc, STACK - 0x1000, clear=PRESENT)
    pc.load("50 ; push eax")
    with pytest.raises(Shutdown):
        pc.run()
    assert [record.vector for record in pc.cpu.fault_chain] == [Vector.PF, Vector.DF, Vector.PF]
    assert pc.state.cr2 == STACK - 16  # the frame of the double fault: error code, EIP, CS, EFLAGS


def test_stack_overflow_of_a_ring_3_program_reaches_its_kernel() -> None:
    pc = paged_pc()
    pc.user()
    protect(pc, 0x2_F000, clear=PRESENT)
    pc.load("50 ; push eax")
    pc.run()
    assert pc.vector == Vector.PF
    assert pc.state.cpl == 0
    assert pc.stack(2) == [6, CODE]


def test_the_fault_chain_tells_where_each_struck() -> None:
    pc = flat_pc()
    pc.load("90 ; nop\n0f 0b ; ud2")
    pc.run()
    record = pc.cpu.fault_chain[-1]
    assert (record.instruction, record.vector, record.selector, record.rip, record.cpl) == (
        1,
        Vector.UD,
        CS0,
        CODE + 1,
        0,
    )


# ------------------------------------------------------------------------------------------------ counting


def test_a_software_interrupt_counts_when_it_is_delivered_and_not_when_it_faults() -> None:
    pc = flat_pc()
    pc.load("cd 40 ; int 0x40")
    pc.run()
    assert (pc.vector, pc.cpu.count) == (0x40, 1)
    pc = flat_pc()
    pc.set_gate(0x40, b"\0" * 8)
    pc.load("cd 40 ; int 0x40")
    pc.run()
    assert (pc.vector, pc.cpu.count) == (Vector.GP, 0)
    assert pc.stack(2) == [0x40 << 3 | 2, CODE]


@pytest.mark.parametrize(
    ("listing", "vector"),
    [
        ("0f 0b ; ud2", 6), ("f7 f1 ; div ecx", 0), ("0f ff c0 ; raw ud0", 6), ("0f 30 ; wrmsr", 13),
        ("0f 07 ; raw sysret", 6), ("8e c9 ; raw mov cs, cx", 6), ("f0 90 ; raw lock nop", 6),
    ],
)  # fmt: skip
def test_faulting_instructions_do_not_count(listing: str, vector: int) -> None:
    pc = flat_pc()
    pc.load("41 ; inc ecx\n49 ; dec ecx\n" + listing)
    pc.run()
    assert (pc.vector, pc.cpu.count) == (vector, 2)


@dataclass
class _Seen:
    vector: int
    error_code: int | None
    during: int | None


def test_the_exception_filter_sees_each_exception_before_its_delivery() -> None:
    pc = flat_pc()
    pc.set_gate(Vector.GP, tables.gate(tables.INT_GATE, NOT_PRESENT_CODE, HANDLERS))
    seen: list[_Seen] = []
    pc.cpu.exception_filter = lambda vector, error_code, _cr2, during: seen.append(
        _Seen(vector, error_code, during.vector if during else None)
    )
    pc.cpu.raise_exception(Vector.GP, 0x10)
    assert seen == [
        _Seen(Vector.GP, 0x10, None),
        _Seen(Vector.NP, NOT_PRESENT_CODE | 1, Vector.GP),
        _Seen(Vector.DF, 0, None),
    ]


def test_stack_of_the_tss_in_an_absent_page_is_a_double_fault_for_ring_3() -> None:
    """#GP in ring 3, no inner stack: #PF during #GP is serial, #PF during that #PF is double, and that has no stack."""
    pc = paged_pc()
    pc.user()
    pc.write(TSS, tables.tss_32(ABSENT + 0x100, 0x10))
    protect(pc, ABSENT, clear=PRESENT)
    pc.load("f4 ; hlt")
    with pytest.raises(Shutdown):
        pc.step()
    assert [record.vector for record in pc.cpu.fault_chain] == [Vector.GP, Vector.PF, Vector.DF, Vector.PF]
