"""What the engine alone would have said, as the table in docs/analyzer.md has it: the reason to probe the PC's CPU.

A failure here means that the engine has learnt something: the row of the table can go.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
import unicorn
from unicorn import x86_const

CODE, GDT, DATA, STACK, ENTER = 0x1000, 0x2000, 0x3000, 0x4800, 0x5000
UMIP = 1 << 11
_DESCRIPTORS = (0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00CFFA000000FFFF, 0x00CFF2000000FFFF)


def _in_ring_3(code: bytes, *, cr4: int = 0) -> tuple[int, list[int], bool]:
    """One instruction at CPL 3 with IOPL 0: how far EIP went, the vectors handed over, and was it no instruction?"""
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
    engine.mem_map(0, 0x10000)
    engine.mem_write(CODE, code)
    engine.mem_write(GDT, struct.pack("<5Q", *_DESCRIPTORS))
    engine.reg_write(x86_const.UC_X86_REG_GDTR, (0, GDT, 5 * 8 - 1, 0))
    engine.reg_write(x86_const.UC_X86_REG_CR4, cr4)
    for register in (x86_const.UC_X86_REG_DS, x86_const.UC_X86_REG_ES):
        engine.reg_write(register, 0x23)
    engine.mem_write(ENTER, b"\xcf")  # IRETD, the way to ring 3
    engine.mem_write(STACK, struct.pack("<5I", CODE, 0x1B, 2, STACK, 0x23))
    engine.reg_write(x86_const.UC_X86_REG_ESP, STACK)
    engine.emu_start(ENTER, CODE)
    assert engine.reg_read(x86_const.UC_X86_REG_CS) & 3 == 3
    vectors: list[int] = []

    def interrupted(machine: Any, vector: int, _data: object) -> None:
        vectors.append(vector)
        machine.emu_stop()

    engine.hook_add(unicorn.UC_HOOK_INTR, interrupted)
    invalid = False
    try:
        engine.emu_start(CODE, CODE + len(code), count=1)
    except unicorn.UcError as error:
        invalid = error.errno == unicorn.UC_ERR_INSN_INVALID
    return int(engine.reg_read(x86_const.UC_X86_REG_EIP)) - CODE, vectors, invalid


@pytest.mark.parametrize(
    ("code", "cr4"),
    [
        (b"\xec", 0),  # in al, dx
        (b"\xee", 0),  # out dx, al
        (b"\x0f\x01\x05" + struct.pack("<I", DATA), UMIP),  # sgdt
        (b"\x0f\x01\x0d" + struct.pack("<I", DATA), UMIP),  # sidt
        (b"\x0f\x00\xc0", UMIP),  # sldt eax
        (b"\x0f\x00\xc8", UMIP),  # str eax
        (b"\x0f\x01\xe0", UMIP),  # smsw eax
        (b"\x0f\x34", 0),  # sysenter
    ],
    ids=lambda value: value.hex() if isinstance(value, bytes) else "",
)
def test_it_runs_where_the_processor_traps(code: bytes, cr4: int) -> None:
    assert _in_ring_3(code, cr4=cr4) == (len(code), [], False)


@pytest.mark.parametrize(("code", "vector"), [(b"\xcd\x80", 0x80), (b"\xcc", 3)])
def test_it_hands_over_a_vector_without_a_look_at_the_gate(code: bytes, vector: int) -> None:
    assert _in_ring_3(code)[1] == [vector]  # and there is no IDT


@pytest.mark.parametrize("code", [b"\x0f\x33", b"\xf1"], ids=["rdpmc", "int1"])
def test_it_takes_for_no_instruction(code: bytes) -> None:
    _, vectors, invalid = _in_ring_3(code)
    assert invalid or vectors == [6]
