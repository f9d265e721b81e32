"""What is not virtualized says so, and what is done by the manual where the bare PC is not (docs/deviations.md)."""

from __future__ import annotations

import pytest

from simvirt.errors import MonitorError, UnsupportedGuestError
from simvirt.machine.architectural_state import ArchitecturalState
from tests.support import tables as t
from tests.support.assembler import d16, d32
from tests.support.twins import (
    CODE,
    CS1,
    DS1,
    GATE_CONFORMING,
    GATE_INNER,
    GDT,
    IDT,
    TSS_FREE,
    USER,
    Twins,
    start,
)


def _iret(*frame: int) -> bytes:
    return b"".join(b"\x68" + d32(value) for value in frame) + b"\xcf"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (b"\xb8\x10\0\0\0\x0f\x22\xc0", "protected mode off"),
        (b"\xea" + bytes(4) + d16(TSS_FREE), "switches tasks by hardware"),
        (_iret(0x4002, 8, CODE + 16) + b"\xcf", "nested task"),
        (_iret(0x2_0002, 8, CODE), "virtual-8086 mode"),
    ],
)
def test_what_is_not_virtualized_says_so(twins: Twins, code: bytes, words: str) -> None:
    """The run ends as a fault of the monitor, and the message says what the guest did and which strategies can."""
    twins.begin(code)
    with pytest.raises(UnsupportedGuestError, match=rf"{words}.*use bare-metal or vtx") as raised:
        twins.virtual.machine.run(50)
    assert isinstance(raised.value, MonitorError)


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (_iret(DS1 | 1, 0x3_0000, 2, CS1 | 1, CODE), start()),
        (b"\x9a" + bytes(4) + d16(GATE_INNER), start(cs=USER)),
        (b"\xcd\x80", start(cs=USER)),
    ],
)
def test_rings_1_and_2_are_refused_by_name(twins: Twins, code: bytes, state: ArchitecturalState) -> None:
    """By IRET, through a call gate, and through the IDT: there are three rings for four (Uhlig et al. 2005)."""
    twins.write(GDT + GATE_INNER, t.gate(t.CALL_GATE_32, CS1, CODE, 3))
    twins.write(IDT + 8 * 0x80, t.gate(t.INT_GATE, CS1, CODE, 3))
    twins.begin(code, state)
    with pytest.raises(UnsupportedGuestError, match=r"enters ring 1.*ring compression.*use bare-metal or vtx"):
        twins.virtual.machine.run_to(8)


def test_a_segment_of_ring_1_becomes_one_of_ring_0(twins: Twins) -> None:
    difference = twins.compare(b"\x8e\xd8", start(eax=DS1), steps=1)
    assert difference is not None
    assert difference.what == "DS.attributes 0xc0b300 != 0xc09300"


def test_a_gate_to_a_conforming_segment_gives_cs_the_cpl(twins: Twins) -> None:
    assert twins.compare(b"\x9a" + bytes(4) + d16(GATE_CONFORMING), start(cs=USER), steps=1) is None


def test_lock_before_an_instruction_that_takes_none_is_undefined(twins: Twins) -> None:
    assert twins.compare(b"\xf0\xfb", steps=1) is None
    assert [twin.cpu.fault_chain[-1].vector for twin in (twins.bare, twins.virtual)] == [6, 6]
