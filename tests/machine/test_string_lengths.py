"""PCMPESTRI and PCMPESTRM with lengths that have no absolute value in the engine: found by the comparison with QEMU."""

from __future__ import annotations

import pytest

from simvirt.x86.flags import Cr4
from simvirt.x86.registers import GeneralRegister
from tests.support.pc import CODE, DATA, Pc, flat_pc, long_pc

_EQUAL_EACH: str = "08"
_CODE = {
    "pcmpestri": f"66 0f 3a 61 06 {_EQUAL_EACH} ; pcmpestri xmm0, [rsi], 8",
    "pcmpestrm": f"66 0f 3a 60 06 {_EQUAL_EACH} ; pcmpestrm xmm0, [rsi], 8",
    "wide": f"66 48 0f 3a 61 06 {_EQUAL_EACH} ; pcmpestri64",
}


def _run(pc: Pc, code: str, rax: int, rdx: int) -> tuple[int, int]:
    """The index or mask, and the arithmetic flags. Both strings are the same, without a zero."""
    state = pc.state
    state.set_control_register(4, state.cr4 | int(Cr4.OSFXSR))
    state.refresh()
    pc.write(DATA, bytes(range(1, 17)))
    pc.load(f"f3 0f 6f 06 ; movdqu\n 90 ; nop\n {_CODE[code]}\n f4 ; hlt")
    state[GeneralRegister.RSI] = DATA
    state[GeneralRegister.RAX], state[GeneralRegister.RDX] = rax, rdx
    pc.run()
    assert state.rip in range(CODE, CODE + 16)
    assert (state[GeneralRegister.RAX], state[GeneralRegister.RDX]) == (rax, rdx)
    return state[GeneralRegister.RCX], state.eflags & 0x8D5


@pytest.mark.parametrize("length", [0x8000_0000, 0x7FFF_FFFF, 0x8000_0001, 16, 0xFFFF_FFF0])
def test_every_length_above_16_is_16(length: int) -> None:
    """#31 is -2**31, which has no absolute value in 32 bits; a negative length made the engine write anywhere."""
    index, flags = _run(flat_pc(), "pcmpestri", length, length)
    assert index == 0
    assert flags & 0xC0 == 0  # ZF and SF: neither string ends within its register
    _run(flat_pc(), "pcmpestrm", length, length)


def test_the_other_length_stays_what_it_is() -> None:
    index, flags = _run(flat_pc(), "pcmpestri", 0x8000_0000, 0xFFFF_FFFB)
    assert index == 0
    assert flags & 0xC0 == 0x40  # ZF: the second string has 5 bytes


@pytest.mark.parametrize("length", [0x1_8000_0000, 1 << 63, 0x1_0000_0000])
def test_lengths_of_64_bits(length: int) -> None:
    """Cut to 32 bits they would be negative, or 0."""
    _, flags = _run(long_pc(), "wide", length, length)
    assert flags & 0xC0 == 0
