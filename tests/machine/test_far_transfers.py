"""Far transfers: the order of checks, error codes, accessed flags (SDM Vol. 2A "CALL", "IRET", "JMP", Vol. 2B "RET").

The bare PC here; `tests/vmm/test_guest_far_transfers.py` has every selector, and trap-and-emulate beside it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.x86.registers import SegmentRegister
from tests.support import tables as t
from tests.support.assembler import d16, d32
from tests.support.twins import (
    ABSENT_CODE,
    CODE,
    CS0,
    CS3,
    DS3,
    GATE_CONFORMING,
    GATE_INNER,
    GDT,
    INNER_STACK,
    SHORT_CODE,
    TASK,
    TSS,
    USER,
    USER_STACK,
    Twins,
    loaded,
    start,
    vector,
)

CS, FS = SegmentRegister.CS, SegmentRegister.FS


@pytest.fixture(scope="module")
def built() -> Twins:
    return Twins()


@pytest.fixture
def pc(built: Twins) -> Twins:
    built.renew()
    return built


def bare(pc: Twins, code: bytes, state: ArchitecturalState | None = None, steps: int = 1) -> ArchitecturalState:
    """The bare PC alone, after some instructions."""
    pc.begin(code, state)
    pc.bare.machine.run_to(steps)
    return pc.bare.machine.processor.guest_state()


def error_code(pc: Twins, state: ArchitecturalState) -> int:
    return int.from_bytes(pc.memory(pc.bare.machine)[state.general[4] :][:4], "little")


def _push(*values: int) -> bytes:
    return b"".join(b"\x68" + d32(value) for value in values)


def test_the_accessed_flag_is_set(pc: Twins) -> None:
    """Vol. 3A §3.4.5.1: in the descriptors of CS and SS, in memory too."""
    body = _push(DS3, USER_STACK, 0x202, CS3, CODE + 0x40) + b"\xcf"
    state = bare(pc, body, steps=6)
    assert state.segments[CS].selector == CS3
    memory = pc.memory(pc.bare.machine)
    assert memory[GDT + (CS3 & ~7) + 5] == t.CODE_R3 | 1
    assert memory[GDT + (DS3 & ~7) + 5] == t.DATA_R3 | 1
    bare(pc, b"\xea" + d32(CODE + 0x40) + d16(CS0))
    assert pc.memory(pc.bare.machine)[GDT + CS0 + 5] == t.CODE_R0 | 1


@pytest.mark.parametrize("code", [_push(SHORT_CODE, 0x2000) + b"\xcb", _push(2, SHORT_CODE, 0x2000) + b"\xcf"])
def test_returns_beyond_the_limit_are_gp_0(pc: Twins, code: bytes) -> None:
    state = bare(pc, code, steps=code.count(b"\x68") + 1)
    assert (vector(state), error_code(pc, state)) == (13, 0)


@pytest.mark.parametrize("opcode", [b"\x9a", b"\xea"])
def test_a_target_beyond_the_limit_is_gp_0_and_nothing_is_pushed(pc: Twins, opcode: bytes) -> None:
    before = start()
    state = bare(pc, opcode + d32(0x2000) + d16(SHORT_CODE), before)
    assert (vector(state), error_code(pc, state)) == (13, 0)
    assert state.general[4] == before.general[4] - 16, "the frame of #GP and nothing else"


def test_a_gate_to_a_conforming_segment_keeps_the_cpl(pc: Twins) -> None:
    state = bare(pc, b"\x9a" + bytes(4) + d16(GATE_CONFORMING), start(cs=USER))
    assert (state.segments[CS].selector & 3, state.cpl) == (3, 3)


def test_a_jump_through_a_gate_to_absent_code_is_np(pc: Twins) -> None:
    pc.write(GDT + GATE_INNER, t.gate(t.CALL_GATE_32, ABSENT_CODE, 0, 3))
    state = bare(pc, b"\xea" + bytes(4) + d16(GATE_INNER))
    assert (vector(state), error_code(pc, state)) == (11, ABSENT_CODE)


def test_an_absent_inner_stack_is_ss(pc: Twins) -> None:
    pc.write(TSS + 8, d16(0x78))  # ABSENT_DATA
    pc.write(TSS + 4, d32(INNER_STACK))
    bare(pc, b"\x9a" + bytes(4) + d16(GATE_INNER), start(cs=USER))
    # The handlers of #SS need that stack too: the double fault and the triple one follow.
    assert [record.vector for record in pc.bare.cpu.fault_chain][-3] == 12


def test_an_absent_outer_stack_is_ss(pc: Twins) -> None:
    pc.write(GDT + 0x60, t.segment(t.DATA_R3 & 0x7F))
    state = bare(pc, _push(0x63, USER_STACK, CS3, CODE) + b"\xcb", steps=5)
    assert (vector(state), error_code(pc, state)) == (12, 0x60)


@pytest.mark.parametrize(("limit", "expected"), [(0x8, 10), (0x9, None), (0xB, None)])
def test_a_call_gate_needs_six_bytes_of_the_tss(pc: Twins, limit: int, expected: int | None) -> None:
    state = replace(start(cs=USER), tr=replace(loaded(TASK), limit=limit, flags=0x8900))
    pc.begin(b"\x9a" + bytes(4) + d16(GATE_INNER), state)
    pc.bare.cpu.fault_chain.clear()
    pc.bare.machine.run_to(1)
    met = [record.vector for record in pc.bare.cpu.fault_chain][:1]
    assert met == ([] if expected is None else [expected])


def test_null_segments_lose_their_rpl_on_the_way_out(pc: Twins) -> None:
    state = bare(pc, _push(DS3, USER_STACK, CS3, CODE + 0x40) + b"\xcb", start(fs=3), steps=5)
    assert state.segments[FS].selector == 0


def test_iret_in_ring_3_does_not_look_at_vm(pc: Twins) -> None:
    body = _push(0x2_3202, USER, CODE + 0x40) + b"\xcf"
    state = bare(pc, body, start(cs=USER), steps=4)
    assert (state.eflags & 0x2_3000, state.rip) == (0, CODE + 0x40)
