"""Where the engine's far transfers are not the manual's (docs/deviations.md)."""

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


def test_the_accessed_flag_is_left_alone(pc: Twins) -> None:
    body = _push(DS3, USER_STACK, 0x202, CS3, CODE + 0x40) + b"\xcf"
    state = bare(pc, body, steps=6)
    assert state.segments[CS].selector == CS3
    assert pc.memory(pc.bare.machine)[GDT + (CS3 & ~7) + 5] == t.CODE_R3
    bare(pc, b"\xea" + d32(CODE + 0x40) + d16(CS0))
    assert pc.memory(pc.bare.machine)[GDT + CS0 + 5] == t.CODE_R0


@pytest.mark.parametrize("code", [_push(SHORT_CODE, 0x2000) + b"\xcb", _push(2, SHORT_CODE, 0x2000) + b"\xcf"])
def test_returns_do_not_look_at_the_limit(pc: Twins, code: bytes) -> None:
    state = bare(pc, code, steps=code.count(b"\x68") + 1)
    assert (state.segments[CS].selector, state.rip) == (SHORT_CODE, 0x2000)


def test_a_call_beyond_the_limit_has_pushed_and_names_the_segment(pc: Twins) -> None:
    state = bare(pc, b"\x9a" + d32(0x2000) + d16(SHORT_CODE))
    assert vector(state) == 13
    assert error_code(pc, state) == SHORT_CODE
    pc.begin(b"\xea" + d32(0x2000) + d16(SHORT_CODE))
    pc.bare.machine.run_to(1)
    assert error_code(pc, pc.bare.machine.processor.guest_state()) == 0


def test_a_gate_to_a_conforming_segment_shows_its_dpl(pc: Twins) -> None:
    state = bare(pc, b"\x9a" + bytes(4) + d16(GATE_CONFORMING), start(cs=USER))
    assert (state.segments[CS].selector & 3, state.cpl) == (0, 3)


def test_a_jump_through_a_gate_to_absent_code_is_gp(pc: Twins) -> None:
    pc.write(GDT + GATE_INNER, t.gate(t.CALL_GATE_32, ABSENT_CODE, 0, 3))
    assert vector(bare(pc, b"\xea" + bytes(4) + d16(GATE_INNER))) == 13


def test_an_absent_inner_stack_is_ts(pc: Twins) -> None:
    pc.write(TSS + 8, d16(0x78))  # ABSENT_DATA
    pc.write(TSS + 4, d32(INNER_STACK))
    state = bare(pc, b"\x9a" + bytes(4) + d16(GATE_INNER), start(cs=USER))
    # The handlers of #TS need that stack too: the double fault and the triple one follow.
    assert state.segments[CS].selector == CS3
    assert [record.vector for record in pc.bare.cpu.fault_chain][-3] == 10


def test_an_absent_outer_stack_is_np(pc: Twins) -> None:
    pc.write(GDT + 0x60, t.segment(t.DATA_R3 & 0x7F))
    assert vector(bare(pc, _push(0x63, USER_STACK, CS3, CODE) + b"\xcb", steps=5)) == 11


@pytest.mark.parametrize(("limit", "expected"), [(0x9, 10), (0xA, 10), (0xB, None)])
def test_a_call_gate_wants_twelve_bytes_of_tss(pc: Twins, limit: int, expected: int | None) -> None:
    state = replace(start(cs=USER), tr=replace(loaded(TASK), limit=limit, flags=0x8900))
    pc.begin(b"\x9a" + bytes(4) + d16(GATE_INNER), state)
    pc.bare.cpu.fault_chain.clear()
    pc.bare.machine.run_to(1)
    met = [record.vector for record in pc.bare.cpu.fault_chain][:1]
    assert met == ([] if expected is None else [expected])


def test_null_fs_and_gs_keep_their_rpl_on_the_way_out(pc: Twins) -> None:
    state = bare(pc, _push(DS3, USER_STACK, CS3, CODE + 0x40) + b"\xcb", start(fs=3), steps=5)
    assert state.segments[FS].selector == 3


def test_lldt_of_null_leaves_the_attributes(pc: Twins) -> None:
    state = bare(pc, b"\x0f\x00\xd0")
    assert (state.ldtr.selector, state.ldtr.limit, state.ldtr.flags) == (0, 0, 0x8200)


def test_iret_in_ring_3_heeds_vm(pc: Twins) -> None:
    """The engine goes to virtual-8086 mode from any ring, with the IOPL of the image. Trap-and-emulate keeps it from
    that (tests/vmm/test_far_transfers.py)."""
    body = _push(0, 0, 0, 0, 0, 0x1000, 0x2_3202, 0, 0x100) + b"\xcf"
    state = bare(pc, body, start(cs=USER), steps=10)
    assert state.eflags & 0x2_3000 == 0x2_3000
