"""Interrupts and exceptions through the 64-bit IDT (SDM Vol. 3A §6.14)."""

from __future__ import annotations

import struct

import pytest

from simvirt.machine.faults import ProcessorFault
from simvirt.machine.interrupts import Source
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.delivery import EXCEPTION, EXTERNAL, SOFTWARE, deliver, failure
from tests.support.pc import (
    CODE,
    CS,
    CS0,
    CS0_64,
    CS3,
    CS3_64,
    DS0,
    DS3,
    DS3_64,
    HANDLERS,
    IDT,
    INNER_STACK,
    NOT_PRESENT_CODE,
    SPARE,
    SS,
    STACK,
    TR,
    TSS,
    USER_STACK,
    Pc,
    long_pc,
)  # fmt: skip

RIP = 0x1234
HANDLER = HANDLERS + 16 * 0x40
RF = 1 << 16


def user_pc() -> Pc:
    pc = long_pc()
    pc.ring(3, CS3_64, DS3_64, USER_STACK)
    return pc


def frame(pc: Pc, count: int = 5) -> list[int]:
    return [pc.read(pc.state.rsp + 8 * i, 8) for i in range(count)]


def test_same_privilege_pushes_five_words_from_an_aligned_stack() -> None:
    """SS and RSP are pushed unconditionally, RSP is aligned to 16 first (§6.14.2)."""
    pc = long_pc()
    pc.state.rsp = STACK - 5
    pc.state.eflags = 0x246
    deliver(pc, 0x40)
    assert pc.state.rsp == STACK - 16 - 40
    assert frame(pc) == [RIP, CS0_64, 0x246, STACK - 5, DS0]
    assert pc.state.selector(SS) == DS0
    assert (pc.state.rip, pc.state.code_64) == (HANDLER, True)


def test_error_code() -> None:
    pc = long_pc()
    deliver(pc, 14, EXCEPTION, error_code=7)
    assert frame(pc, 6) == [7, RIP, CS0_64, 2 | RF, STACK, DS0]
    assert pc.state.rsp == STACK - 48


def test_inner_privilege_uses_rsp0_and_a_null_ss() -> None:
    pc = user_pc()
    deliver(pc, 0x40)
    assert (pc.state.cpl, pc.state.selector(SS), pc.state.rsp) == (0, 0, INNER_STACK - 40)
    assert frame(pc) == [RIP, CS3_64, 2, USER_STACK, DS3_64]


def test_ring_1_handler_gets_a_null_ss_with_its_rpl() -> None:
    """§6.14.2: SS is forced to NULL and its RPL is set to the new CPL."""
    pc = user_pc()
    pc.set_descriptor(SPARE, tables.segment(tables.CODE_R1, tables.FLAT_64))
    pc.write(TSS, tables.tss_64(INNER_STACK, rsp1=INNER_STACK - 0x800))
    pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, SPARE, HANDLER))
    deliver(pc, 0x40)
    assert (pc.state.cpl, pc.state.selector(SS), pc.state.rsp) == (1, 1, INNER_STACK - 0x800 - 40)
    assert pc.state.segment(SS).dpl == 1, "CPL is the DPL of SS (Vol. 3C §25.4.1)"


@pytest.mark.parametrize("ist", [1, 2])
@pytest.mark.parametrize("from_user", [False, True])
def test_interrupt_stack_table(ist: int, from_user: bool) -> None:
    pc = user_pc() if from_user else long_pc()
    pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, CS0_64, HANDLER, ist=ist))
    deliver(pc, 0x40)
    assert pc.state.rsp == INNER_STACK - 0x1000 * ist - 40
    assert pc.state.selector(SS) == (0 if from_user else DS0)
    assert frame(pc)[3:] == ([USER_STACK, DS3_64] if from_user else [STACK, DS0])


def test_an_odd_stack_of_the_tss_is_aligned() -> None:
    pc = user_pc()
    pc.write(TSS, tables.tss_64(INNER_STACK - 3))
    deliver(pc, 0x40)
    assert pc.state.rsp == INNER_STACK - 16 - 40


def test_from_compatibility_mode() -> None:
    pc = long_pc()
    pc.ring(3, CS3, DS3, USER_STACK)
    assert not pc.state.code_64
    deliver(pc, 0x40)
    assert pc.state.code_64
    assert frame(pc) == [RIP, CS3, 2, USER_STACK, DS3]


@pytest.mark.parametrize(("kind", "cleared"), [(tables.INT_GATE, 0x3_4300 & ~0x2_0000), (tables.TRAP_GATE, 0x1_4100)])
def test_flags(kind: int, cleared: int) -> None:
    pc = long_pc()
    pc.set_gate(0x40, tables.gate_64(kind, CS0_64, HANDLER))
    flags = 0x5_7FD7  # AC, RF, NT, IOPL 3 and everything below
    pc.state.eflags = flags
    deliver(pc, 0x40)
    assert frame(pc)[2] == flags
    assert pc.state.eflags == flags & ~cleared


@pytest.mark.parametrize(("source", "ext"), [(SOFTWARE, 0), (EXTERNAL, 1), (EXCEPTION, 1)])
class TestRefusals:
    def test_beyond_the_limit(self, source: Source, ext: int) -> None:
        pc = long_pc()
        pc.state.idtr = DescriptorTable(IDT, 16 * 0x40 + 14)
        assert failure(pc, 0x40, source) == (Vector.GP, 0x40 << 3 | 2 | ext)

    @pytest.mark.parametrize("kind", [tables.INT_GATE_16, tables.TRAP_GATE_16, tables.TASK_GATE, tables.CALL_GATE_32])
    def test_gates_that_do_not_exist_in_64_bit_mode(self, source: Source, ext: int, kind: int) -> None:
        pc = long_pc()
        pc.set_gate(0x40, tables.gate_64(kind, CS0_64, HANDLER))
        assert failure(pc, 0x40, source) == (Vector.GP, 0x40 << 3 | 2 | ext)

    def test_not_present(self, source: Source, ext: int) -> None:
        pc = long_pc()
        pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, CS0_64, HANDLER, present=False))
        assert failure(pc, 0x40, source) == (Vector.NP, 0x40 << 3 | 2 | ext)

    def test_handler_in_a_32_bit_code_segment(self, source: Source, ext: int) -> None:
        pc = long_pc()
        pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, CS0, HANDLER))
        assert failure(pc, 0x40, source) == (Vector.GP, CS0 | ext)

    def test_code_segment_with_both_l_and_d(self, source: Source, ext: int) -> None:
        pc = long_pc()
        pc.set_descriptor(SPARE, tables.segment(tables.CODE_R0, 0xE))
        pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, SPARE, HANDLER))
        assert failure(pc, 0x40, source) == (Vector.GP, SPARE | ext)

    def test_code_segment_not_present(self, source: Source, ext: int) -> None:
        pc = long_pc()
        pc.set_descriptor(NOT_PRESENT_CODE, tables.segment(tables.CODE_R0 & 0x7F, tables.FLAT_64))
        pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, NOT_PRESENT_CODE, HANDLER))
        assert failure(pc, 0x40, source) == (Vector.NP, NOT_PRESENT_CODE | ext)

    def test_null_code_selector(self, source: Source, ext: int) -> None:
        pc = long_pc()
        pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, 0, HANDLER))
        assert failure(pc, 0x40, source) == (Vector.GP, ext)

    def test_non_canonical_handler(self, source: Source, ext: int) -> None:
        pc = long_pc()
        pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, CS0_64, 0x8000_0000_0000))
        assert failure(pc, 0x40, source) == (Vector.GP, ext)

    def test_tss_too_short_for_its_stack(self, source: Source, ext: int) -> None:
        pc = user_pc()
        pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, CS0_64, HANDLER, 3))
        pc.state.tr = Segment(TR, TSS, 4 + 7 - 1, 0x8900)
        assert failure(pc, 0x40, source) == (Vector.TS, TR | ext)
        pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, CS0_64, HANDLER, 3, ist=7))
        pc.state.tr = Segment(TR, TSS, 84 + 7 - 1, 0x8900)
        assert failure(pc, 0x40, source) == (Vector.TS, TR | ext)

    def test_non_canonical_stack_pointer(self, source: Source, ext: int) -> None:
        pc = user_pc()
        pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, CS0_64, HANDLER, 3))
        pc.write(TSS, tables.tss_64(0x1234_5678_9ABC_DEF0))
        assert failure(pc, 0x40, source) == (Vector.SS, ext)


def test_gate_dpl() -> None:
    pc = user_pc()
    assert failure(pc, 0x40, SOFTWARE) == (Vector.GP, 0x40 << 3 | 2)
    deliver(pc, 0x40, EXTERNAL)


def test_upper_half_of_the_handlers_address() -> None:
    pc = long_pc()
    high = 0xFFFF_8000_0000_1000
    pc.set_gate(0x40, tables.gate_64(tables.INT_GATE, CS0_64, high))
    deliver(pc, 0x40)
    assert pc.state.rip == high


def test_frame_on_an_absent_page() -> None:
    """RSP0 in the second GiB, which is not mapped: #PF as a supervisor write, nothing changed."""
    pc = user_pc()
    pc.write(TSS, tables.tss_64(0x4000_1000))
    before = pc.state.rip, pc.state.rsp, pc.state.cpl
    with pytest.raises(ProcessorFault) as fault:
        deliver(pc, 0x40)
    assert (fault.value.vector, fault.value.error_code, fault.value.cr2) == (Vector.PF, 2, 0x4000_1000 - 40)
    assert (pc.state.rip, pc.state.rsp, pc.state.cpl) == before


def test_int_and_iretq_round_trip_from_ring_3() -> None:
    pc = user_pc()
    pc.set_gate(0x80, tables.gate_64(tables.INT_GATE, CS0_64, HANDLER, 3))
    pc.load("cd 80 ; int 0x80\neb fe ; jmp $")
    pc.load("48 cf ; iretq", HANDLER, bits=64)
    pc.step(2)
    assert (pc.state.rip, pc.state.cpl, pc.state.rsp) == (CODE + 2, 3, USER_STACK)
    assert (pc.state.selector(CS), pc.state.selector(SS)) == (CS3_64, DS3_64)


def test_64_bit_return_address_is_kept_whole() -> None:
    pc = long_pc()
    deliver(pc, 0x40, rip=0xFFFF_8000_1234_5678)
    assert struct.pack("<Q", 0xFFFF_8000_1234_5678) == bytes(pc.memory[pc.state.rsp : pc.state.rsp + 8])
