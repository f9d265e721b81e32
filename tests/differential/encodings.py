"""Every encoding that the CPU model claims, found by asking the decoder about the whole opcode map."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import iced_x86
from iced_x86 import Code, CpuidFeature, Decoder, Mnemonic

if TYPE_CHECKING:
    from simvirt.x86.forms import EncodingForm

_F, _M = CpuidFeature, Mnemonic
FEATURES: Final = frozenset(
    {
        *(_F.INTEL8086, _F.INTEL186, _F.INTEL286, _F.INTEL386, _F.INTEL486, _F.X64, _F.CPUID),
        *(_F.CMOV, _F.CX8, _F.CMPXCHG16B, _F.FPU, _F.FPU287, _F.FPU387, _F.FXSR, _F.MMX, _F.SSE, _F.SSE2, _F.SSE3),
        *(_F.SSSE3, _F.SSE4_1, _F.SSE4_2, _F.POPCNT, _F.AES, _F.PCLMULQDQ, _F.MOVBE, _F.LZCNT, _F.PREFETCHW, _F.BMI1),
        *(_F.BMI2, _F.ADX, _F.FSGSBASE, _F.SMAP, _F.SEP, _F.SYSCALL, _F.MULTIBYTENOP, _F.PAUSE, _F.CLFSH, _F.TSC),
        *(_F.MSR, _F.RDTSCP, _F.RDPMC),
    }
)
_NOT_COMPARABLE: Final = {
    "what it tells differs between two machines by right": (_M.CPUID, _M.RDTSC, _M.RDTSCP, _M.RDPMC),
    "undefined, or of other processors": (_M.UD0, _M.JMPE, _M.LOADALL, _M.FRSTPM, _M.FSETPM),
    "QEMU enters virtual-8086 mode at any CPL, and keeps VIF and VIP for ever": (_M.IRETD, _M.IRETQ),
    "QEMU does not wake from HLT by a single-step trap": (_M.HLT,),
}
_NOT_IN_RING_0: Final = {
    "changes what the bench stands on": (_M.LGDT, _M.LIDT, _M.LLDT, _M.LTR, _M.LMSW, _M.WRMSR),
    "not every MSR exists on both machines": (_M.RDMSR,),
}
"""Faults at CPL 3."""
PORTS: Final = frozenset({_M.IN, _M.OUT, _M.INSB, _M.INSW, _M.INSD, _M.OUTSB, _M.OUTSW, _M.OUTSD})
SCRATCH_PORT: Final = 0x3FF
"""The scratch register of COM1, which both machines have; QEMU ends at an access of more than a byte."""
_NAMES: Final = {number: name for name, number in vars(Mnemonic).items() if isinstance(number, int)}
_LEFT_OUT: Final = {each: why for why, mnemonics in _NOT_COMPARABLE.items() for each in mnemonics}
_LEFT_OUT_IN_RING_0: Final = {each: why for why, mnemonics in _NOT_IN_RING_0.items() for each in mnemonics}
_WHY: Final = {_NAMES[each].lower(): why for each, why in _LEFT_OUT.items()}
_WHY_IN_RING_0: Final = {_NAMES[each].lower(): why for each, why in _LEFT_OUT_IN_RING_0.items()}


def why_left_out(form: EncodingForm, *, kernel: bool) -> str:
    """Why no case has an instruction of this form, of ring 0 or another; empty if they do."""
    mnemonic = form.mnemonic.lower()
    if mnemonic in _WHY or not kernel:
        return _WHY.get(mnemonic, "")
    if form.name.startswith(("mov-cr-", "mov-dr-")):
        return "changes what the bench stands on"
    if form.name in ("mov-r32-dr", "mov-r64-dr"):
        return "the debug registers are not those of the case"
    if form.name.startswith(("in-", "out-", "ins", "outs")) and form.name not in _BYTES_BY_DX:
        return "no port that both machines have alike is so wide, or has so small a number"
    return _WHY_IN_RING_0.get(mnemonic, "")


_BYTES_BY_DX: Final = frozenset({"in-al-dx", "out-dx-al", "insb-m8-dx", "outsb-dx-m8"})


@dataclass(frozen=True, slots=True)
class Template:
    """One way to begin an instruction: a prefix that is part of its opcode, the opcode, and what is fixed of ModRM."""

    prefix: bytes
    opcode: bytes
    modrm: int | None
    """None where there is no ModRM byte."""
    any_register: bool
    """Is the reg field an operand, free to choose?"""
    any_rm: bool

    @property
    def is_memory(self) -> bool:
        """Does ModRM name memory?"""
        return self.modrm is not None and self.modrm < 0xC0


def is_allowed(instruction: iced_x86.Instruction, *, kernel: bool) -> bool:
    """May this instruction stand in a case?"""
    code = instruction.code
    if code == Code.INVALID or instruction.mnemonic in _LEFT_OUT:
        return False
    if not set(instruction.cpuid_features()) <= FEATURES:
        return False
    if kernel:
        if instruction.mnemonic in _LEFT_OUT_IN_RING_0:
            return False
        if instruction.mnemonic == _M.MOV and _touches_control(instruction):
            return False
    return True


def _touches_control(instruction: iced_x86.Instruction) -> bool:
    """MOV to CR or DR, and from DR: not for random values."""
    kinds = [instruction.op_register(i) for i in range(instruction.op_count) if instruction.op_kind(i) == 0]
    first = 0 if not kinds else kinds[0]
    names = iced_x86.Register
    is_control = names.CR0 <= first <= names.DR15
    reads_debug = len(kinds) > 1 and names.DR0 <= kinds[1] <= names.DR15
    # CR2 is what an earlier case has left there.
    reads_fault_address = len(kinds) > 1 and kinds[1] == names.CR2
    return is_control or reads_debug or reads_fault_address


@cache
def templates(bits: int) -> dict[int, tuple[Template, ...]]:
    """The templates of every instruction code in 16, 32 or 64-bit code."""
    found: dict[int, set[Template]] = {}
    tail = bytes(12)
    prefixes = (b"", b"\x66", b"\xf3", b"\xf2", b"\x66\xf3", b"\x66\xf2")
    maps = (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a")
    legacy = {0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3}
    for prefix in prefixes:
        for table in maps:
            for last in range(256):
                if table == b"" and (last in legacy or last == 0x0F or (bits == 64 and 0x40 <= last < 0x50)):
                    continue
                if table == b"\x0f" and last in (0x38, 0x3A):
                    continue
                opcode = table + bytes((last,))
                _explore(found, bits, prefix, opcode, tail)
    for vex_map in (2, 3):
        for pp in range(4):
            for w in (0, 0x80) if bits == 64 else (0,):
                for opcode_byte in range(0xF0, 0xF8):
                    vex = bytes((0xC4, 0xE0 | vex_map, w | 0x78 | pp, opcode_byte))
                    _explore(found, bits, b"", vex, tail)
    return {code: tuple(sorted(each, key=repr)) for code, each in found.items()}


def _code(bits: int, data: bytes) -> tuple[int, int]:
    instruction = Decoder(bits, data).decode()
    return instruction.code, instruction.len


def _explore(found: dict[int, set[Template]], bits: int, prefix: bytes, opcode: bytes, tail: bytes) -> None:
    memory = 0x06 if bits == 16 else 0x05
    fields = [register << 3 | rm for register in range(8) for rm in (memory, 0xC0)]
    results = {_code(bits, prefix + opcode + bytes((modrm,)) + tail) for modrm in fields}
    if len(results) == 1:
        ((code, _),) = results
        if code != Code.INVALID:
            found.setdefault(code, set()).add(Template(prefix, opcode, None, False, False))
        return
    for register in range(8):
        modrm = register << 3 | memory
        code, _ = _code(bits, prefix + opcode + bytes((modrm,)) + tail)
        if code != Code.INVALID:
            found.setdefault(code, set()).add(Template(prefix, opcode, register << 3, False, True))
        for rm in range(8):
            modrm = 0xC0 | register << 3 | rm
            code, _ = _code(bits, prefix + opcode + bytes((modrm,)) + tail)
            if code != Code.INVALID:
                found.setdefault(code, set()).add(Template(prefix, opcode, modrm, False, False))
