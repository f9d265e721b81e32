"""Alignment checking: CR0.AM, EFLAGS.AC and CPL 3 (SDM Vol. 3A §6.15 Interrupt 17, Table 6-7)."""

from __future__ import annotations

import pytest

from simvirt.machine.events import ExceptionRaised, Halt
from simvirt.x86.exceptions import Vector
from tests.support.pc import CODE, DATA, EBX, ECX, EDI, ESI, ESP, Pc, flat_pc

AC, AM = 1 << 18, 1 << 18
UNALIGNED = ExceptionRaised(Vector.AC, 0)


def checked(listing: str, *, am: int = AM, ac: int = AC, cpl: int = 3) -> Pc:
    pc = flat_pc()
    pc.state.set_control_register(0, 0x11 | am)
    pc.state.set_control_register(4, 1 << 9)
    if cpl == 3:
        pc.user()
    pc.state.eflags = 2 | ac
    pc.state.refresh()
    pc.load("90 ; nop\n" + listing)
    return pc


@pytest.mark.parametrize(
    ("listing", "alignment"),
    [
        ("8b 03 ; mov eax, [ebx]", 4), ("66 8b 03 ; mov ax, [ebx]", 2), ("8a 03 ; mov al, [ebx]", 1),
        ("01 03 ; add [ebx], eax", 4), ("dd 03 ; fld qword [ebx]", 8), ("d9 03 ; fld dword [ebx]", 4),
        ("db 2b ; fld tbyte [ebx]", 8), ("0f 6f 03 ; movq mm0, [ebx]", 8), ("0f c7 0b ; cmpxchg8b [ebx]", 8),
        ("c4 03 ; les eax, [ebx]", 4), ("d9 33 ; fnstenv [ebx]", 4), ("0f 10 03 ; movups xmm0, [ebx]", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("offset", range(8))
def test_operands(listing: str, alignment: int, offset: int) -> None:
    pc = checked(listing)
    pc.state[EBX] = DATA + offset
    event = pc.event(2)
    if offset % alignment:
        assert event == UNALIGNED
        assert (pc.state.rip, pc.cpu.count) == (CODE + 1, 1)
    else:
        assert event != UNALIGNED
        assert pc.cpu.count == 2


def test_the_stack_and_strings() -> None:
    pc = checked("50 ; push eax")
    pc.state[ESP] += 2
    assert pc.event(2) == UNALIGNED
    pc = checked("f3 a5 ; rep movsd\n90 ; nop")
    pc.state[ESI], pc.state[EDI], pc.state[ECX] = DATA, DATA + 0x101, 0
    assert pc.event(3) != UNALIGNED, "no iteration, no access"


@pytest.mark.parametrize(("am", "ac", "cpl"), [(0, AC, 3), (AM, 0, 3), (AM, AC, 0)])
def test_all_three_are_needed(am: int, ac: int, cpl: int) -> None:
    pc = checked("8b 03 ; mov eax, [ebx]\nf4 ; hlt", am=am, ac=ac, cpl=cpl)
    pc.state[EBX] = DATA + 1
    event = pc.event()
    assert isinstance(event, Halt) or event == ExceptionRaised(Vector.GP, 0)
    assert pc.state.rip == CODE + 3


def test_it_begins_with_popf() -> None:
    """Setting AC at CPL 3 takes effect with the next instruction, and the handler runs unchecked at CPL 0."""
    pc = checked("68 02 00 04 00 ; push 0x40002\n9d ; popfd\n8b 03 ; mov eax, [ebx]", ac=0)
    pc.state[EBX] = DATA + 1
    pc.run()
    assert (pc.vector, pc.stack(2)) == (Vector.AC, [0, CODE + 7])
