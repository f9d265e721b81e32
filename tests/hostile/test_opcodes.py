"""The whole opcode map: what is no instruction is #UD, and nothing harms the engine.

The decoder (iced-x86) is the judge of what is an instruction. Each opcode is tried with each register field, with a
memory and a register operand, alone and behind each prefix that may change its meaning.
"""

from __future__ import annotations

import pytest

from simvirt.machine.events import Event, ExceptionRaised
from simvirt.x86.decode import decode
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr4
from simvirt.x86.registers import GeneralRegister
from tests.support.pc import CODE, DATA, STACK, Pc, flat_pc, long_pc

_MAPS = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
_PREFIXES = {b"\x0f", b"\x26", b"\x2e", b"\x36", b"\x3e", b"\x64", b"\x65", b"\x66", b"\x67", b"\xf0", b"\xf2", b"\xf3"}
_ESCAPES = {b"\x0f\x38", b"\x0f\x3a"}
_MODRM = [register << 3 | operand for register in range(8) for operand in (0x00, 0xC1)]
_FENCES = {b"\x0f\xae\xe9", b"\x0f\xae\xf1", b"\x0f\xae\xf9"}
"""Fences with another number in their last field: whether a prefix is allowed there, decoders do not agree."""


class _Bench:
    def __init__(self, bits: int) -> None:
        self.pc: Pc = flat_pc() if bits == 32 else long_pc()
        self.bits = bits
        state = self.pc.state
        state.set_control_register(4, state.cr4 | int(Cr4.OSFXSR))
        for register in GeneralRegister:
            state[register] = STACK if register is GeneralRegister.RSP else DATA
        state.rip = CODE
        state.refresh()
        self._image = self.pc.engine.save_image()

    def first_event(self, code: bytes) -> Event:
        """What one instruction meets."""
        pc = self.pc
        pc.engine.restore_image(self._image)
        pc.write(CODE, code.ljust(16, b"\x90"))
        return pc.cpu.run(pc.cpu.count + 1)

    def is_undefined(self, code: bytes) -> bool:
        event = self.first_event(code)
        return isinstance(event, ExceptionRaised) and event.vector is Vector.UD


def _encodings(prefix: bytes) -> list[bytes]:
    tail = b"\x01".ljust(9, b"\0")
    return [
        prefix + opcode + bytes((modrm,)) + tail
        for table in _MAPS
        for opcode in (table + bytes((last,)) for last in range(256))
        if opcode not in _PREFIXES | _ESCAPES
        for modrm in _MODRM
    ]


def _wrongly_run(bits: int, prefix: bytes) -> list[str]:
    bench = _Bench(bits)
    return [
        code.hex()
        for code in _encodings(prefix)
        if not decode(code, CODE, bits).is_valid
        and not bench.is_undefined(code)
        and code[len(prefix) : len(prefix) + 3] not in _FENCES
    ]


@pytest.mark.parametrize("prefix", ["", "f0"])
def test_what_is_no_instruction_is_undefined(prefix: str) -> None:
    assert not _wrongly_run(32, bytes.fromhex(prefix))


@pytest.mark.long
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("prefix", ["", "66", "f2", "f3", "f0", "66f0", "f2f0"])
def test_what_is_no_instruction_is_undefined_with_all_prefixes(bits: int, prefix: str) -> None:
    assert not _wrongly_run(bits, bytes.fromhex(prefix))


@pytest.mark.parametrize("bits", [32, 64])
def test_avx_is_undefined(bits: int) -> None:
    """No CPU model has AVX. The engine would run VEX-coded instructions as their SSE forms."""
    bench = _Bench(bits)
    vex = [bytes((0xC5, 0xC0 | low, opcode, 0xC1)) for low in (0x38, 0x39, 0x3A, 0x3B) for opcode in range(256)]
    vex += [
        bytes((0xC4, 0xC0 | 0x20 | table, 0x78, opcode, 0xC1, 1))
        for table in (1, 2, 3)
        for opcode in range(256)
        if (table, opcode) not in {(2, 0xF2), (2, 0xF3), (2, 0xF5), (2, 0xF6), (2, 0xF7), (3, 0xF0)}
    ]
    vex += [bytes((0x62, 0xF1, 0x7C, 0x48, 0x58, 0xC1))]
    assert not [code.hex() for code in vex if not bench.is_undefined(code)]


@pytest.mark.parametrize("code", ["c4 e2 70 f2 c1", "c4 e2 73 f5 c1", "c4 e3 7b f0 c1 05", "c4 e2 70 f3 c9"])
def test_bmi_is_not_avx(code: str) -> None:
    """ANDN, PDEP, RORX, BLSR: VEX-coded, on general registers, and available."""
    bench = _Bench(32)
    assert decode(bytes.fromhex(code), CODE, 32).is_valid
    assert not bench.is_undefined(bytes.fromhex(code))


@pytest.mark.parametrize("code", ["c5 00", "c4 00", "62 00"])
def test_les_lds_and_bound_are_not_vector_instructions(code: str) -> None:
    assert not _Bench(32).is_undefined(bytes.fromhex(code))


def test_undefined_in_the_middle_of_a_block_after_a_fault_and_in_a_loop() -> None:
    """The instructions before it are executed and counted, whether the block was translated before or not."""
    pc = flat_pc()
    pc.write(CODE, bytes.fromhex("40 43 f0 89 c0 f4"))  # inc eax; inc ebx; lock mov eax, eax; hlt
    for turn in range(1, 4):
        pc.state.rip = CODE
        start = pc.cpu.count
        event = pc.cpu.run(start + 100)
        assert isinstance(event, ExceptionRaised)
        assert event.vector is Vector.UD
        assert (pc.state.rip, pc.cpu.count - start) == (CODE + 2, 2)
        assert pc.state[GeneralRegister.RAX] == turn
        assert pc.engine.code_bytes[:3] == bytes.fromhex("f0 89 c0")
