"""Interrupts and exceptions in real-address mode (SDM Vol. 3B §21.1.4; Vol. 2A "INT n", REAL-ADDRESS-MODE)."""

from __future__ import annotations

import pytest

from simvirt.machine.delivery import Shutdown
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.exceptions import Vector
from tests.support.delivery import EXCEPTION, EXTERNAL, SOFTWARE, deliver, failure
from tests.support.pc import CODE, CS, EAX, HANDLERS, SS, STACK, Pc, real_pc

TOP = 0x1000
FRAME = STACK + TOP - 6


def frame(pc: Pc) -> list[int]:
    return pc.stack(3, 2)


def test_pushes_flags_cs_and_ip_as_words() -> None:
    pc = real_pc()
    pc.state.eflags = 0x3_0A97 & 0xFFFF | 1 << 18
    deliver(pc, 0x21)
    assert pc.state.selector(CS) == HANDLERS >> 4
    assert pc.state.segment_base(CS) == HANDLERS
    assert pc.state.rip == 16 * 0x21
    assert pc.state.rsp == TOP - 6
    assert frame(pc) == [0x1234, CODE >> 4, 0x0A97]


def test_clears_if_tf_and_ac() -> None:
    pc = real_pc()
    pc.state.eflags = 2 | 1 << 8 | 1 << 9 | 1 << 18 | 1 << 10 | 1 << 14
    deliver(pc, 0x21)
    assert pc.state.eflags == 2 | 1 << 10 | 1 << 14


@pytest.mark.parametrize("source", [SOFTWARE, EXTERNAL, EXCEPTION])
def test_vector_beyond_the_table(source: object) -> None:
    pc = real_pc()
    pc.state.idtr = DescriptorTable(0, 4 * 0x21 + 2)
    assert failure(pc, 0x21, source)[0] is Vector.GP  # type: ignore[arg-type]
    pc.state.idtr = DescriptorTable(0, 4 * 0x21 + 3)
    deliver(pc, 0x21, source)  # type: ignore[arg-type]


def test_the_table_can_be_elsewhere() -> None:
    """IDTR has a base in real-address mode too."""
    pc = real_pc()
    pc.state.idtr = DescriptorTable(0x4_0000, 0x3FF)
    pc.write(0x4_0000 + 4 * 0x21, bytes.fromhex("3412 0050"))
    deliver(pc, 0x21)
    assert (pc.state.rip, pc.state.selector(CS)) == (0x1234, 0x5000)


def test_stack_pointer_wraps_in_16_bits() -> None:
    pc = real_pc()
    pc.state.rsp = 0xABCD_0002
    deliver(pc, 0x21)
    assert pc.state.rsp == 0xABCD_FFFC
    assert [pc.read(STACK + at, 2) for at in (0x0000, 0xFFFE, 0xFFFC)] == [2, CODE >> 4, 0x1234]


def test_no_room_on_the_stack() -> None:
    """A word at offset FFFFH runs past the segment's limit: #SS, with nothing written."""
    pc = real_pc()
    pc.state.rsp = 1
    pc.write(STACK, b"\xcc" * 8)
    assert failure(pc, 0x21)[0] is Vector.SS
    assert bytes(pc.memory[STACK : STACK + 8]) == b"\xcc" * 8


def test_no_room_for_any_handler_is_a_shutdown() -> None:
    pc = real_pc()
    pc.state.rsp = 1
    with pytest.raises(Shutdown):
        pc.cpu.deliver_external_interrupt(0x21)


def test_exceptions_push_no_error_code() -> None:
    """#GP in real-address mode: the frame is three words."""
    pc = real_pc()
    pc.cpu.raise_exception(Vector.GP, 0)
    assert pc.state.rip == 16 * 13
    assert pc.state.rsp == TOP - 6


def test_int_n_and_iret_round_trip() -> None:
    pc = real_pc()
    pc.load("""
        b8 05 00        ; mov ax, 5
        cd 21           ; int 0x21
        05 01 00        ; add ax, 1
        f4              ; hlt
    """)
    pc.load("d1 e0 ; shl ax, 1\ncf ; iret", HANDLERS + 16 * 0x21)
    pc.run()
    assert pc.state.register(EAX, 2) == 11
    assert pc.state.rsp == TOP
    assert pc.cpu.count == 5


def test_division_by_zero_returns_to_the_instruction() -> None:
    pc = real_pc()
    pc.load("40 ; inc ax\nf7 f1 ; div cx")
    pc.run()
    assert pc.state.selector(CS) == HANDLERS >> 4
    assert pc.state.rip == 0
    assert frame(pc)[0] == 1


def test_idt_without_room_for_anything_is_a_shutdown() -> None:
    pc = real_pc()
    pc.state.idtr = DescriptorTable(0, 0)
    pc.load("cd 21 ; int 0x21")
    with pytest.raises(Shutdown):
        pc.run()


def test_stack_segment_with_a_large_limit() -> None:
    """Unreal mode: the hidden part of SS decides about the width of the stack pointer."""
    pc = real_pc()
    pc.state.set_segment(SS, Segment(0, 0, 0xFFFF_FFFF, 0x00CF_9300))
    pc.state.rsp = 0x21_0000
    pc.state.refresh()
    deliver(pc, 0x21)
    assert pc.state.rsp == 0x21_0000 - 6
    assert pc.read(0x21_0000 - 2, 2) == 2
