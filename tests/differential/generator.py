"""Random cases: a state, and a few random instructions whose operands mostly lie where something can be seen.

A case is built instruction by instruction. Some registers point into the sandbox and are mostly left alone, so that
memory operands hit it; an instruction that leaves flags undefined is followed by CMP, which defines them all, so that
what is undefined does not spread. Where the bench has no stack of its own to fall back on (ring 0 of 32-bit mode, real
mode), ESP and SS change only in ways that keep the stack in the sandbox.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

import iced_x86
from iced_x86 import Code, Decoder, InstructionInfoFactory, Mnemonic, OpAccess, Register, RegisterExt

from tests.differential import layout
from tests.differential.encodings import PORTS, SCRATCH_PORT, Template, is_allowed, templates
from tests.differential.layout import CASE_CODE, HIGH_SANDBOX, LOW_SANDBOX, Mode, Sandbox

_R, _M = Register, Mnemonic
_WRITES: Final = frozenset({OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE})
_GENERAL: Final = frozenset(range(_R.RAX, _R.RAX + 16))
_RAX, _RCX, _RDX, _RBX, _RSP, _RBP, _RSI, _RDI = range(8)
STEPS: Final = 14


@dataclass(frozen=True, slots=True)
class Flavour:
    """What code a case is made of."""

    name: str
    bits: int
    ring: int
    cs: int
    ss: int
    low: bool = False
    """Real-address or virtual-8086 mode: the code and the sandbox are in low memory."""
    v86: bool = False
    own_stack: bool = True
    """Does the bench have a stack of its own when an exception comes?"""

    @property
    def sandbox(self) -> Sandbox:
        """The memory it plays with."""
        return LOW_SANDBOX if self.low else HIGH_SANDBOX


class Kind(Enum):
    """The kinds of code that are tried; the value is what `Flavour` says about each."""

    REAL = Flavour("real", 16, 0, 0, 0x5008, low=True, own_stack=False)
    V86 = Flavour("v86", 16, 3, 0, 0x5008, low=True, v86=True)
    RING_3 = Flavour("ring 3", 32, 3, layout.CODE_3, layout.DATA_3)
    RING_0 = Flavour("ring 0", 32, 0, layout.KERNEL_CODE, layout.KERNEL_DATA, own_stack=False)
    RING_3_16 = Flavour("ring 3, 16-bit", 16, 3, layout.CODE_3_16, layout.DATA_3_16)
    LONG_3 = Flavour("64-bit ring 3", 64, 3, layout.CODE_3_64, layout.DATA_3)
    LONG_0 = Flavour("64-bit ring 0", 64, 0, layout.KERNEL_CODE, layout.KERNEL_DATA)
    COMPATIBILITY = Flavour("compatibility", 32, 3, layout.CODE_3, layout.DATA_3)
    COMPATIBILITY_16 = Flavour("compatibility, 16-bit", 16, 3, layout.CODE_3_16, layout.DATA_3_16)


KINDS: Final = {
    Mode.REAL: ((Kind.REAL, 1),),
    Mode.PROTECTED: ((Kind.RING_3, 12), (Kind.RING_0, 7), (Kind.RING_3_16, 2), (Kind.V86, 4)),
    Mode.LONG: ((Kind.LONG_3, 10), (Kind.LONG_0, 6), (Kind.COMPATIBILITY, 5), (Kind.COMPATIBILITY_16, 1)),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A case as the bench takes it, and the code at its place."""

    flavour: Flavour
    record: bytes
    address: int
    code: bytes


_INTERESTING: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_INTERESTING_64: Final = (*_INTERESTING, 1 << 63, (1 << 63) - 1, (1 << 64) - 1, 0x7FFF_FFFF_FFFF, 0x8000_0000_0000)
_RARE: Final = frozenset(
    {_M.INT, _M.INT3, _M.UD2, _M.UD1, _M.BOUND, _M.IRET, _M.IRETD, _M.IRETQ, _M.SYSCALL, _M.SYSENTER}
)
_SEGMENTS: Final = frozenset({_R.ES, _R.DS, _R.FS, _R.GS})
_CODE: Final = frozenset({_R.CS})
_BIT_STRINGS: Final = frozenset({_M.BT, _M.BTS, _M.BTR, _M.BTC})
_POP_ALL: Final = frozenset({_M.POPA, _M.POPAD})
_BYTE_PORTS: Final = frozenset({_M.INSB, _M.OUTSB})


class Generator:
    """Makes cases of one mode from a seed."""

    def __init__(self, seed: int, mode: Mode) -> None:
        self.random = random.Random(f"{seed} {mode.name}")
        self.mode = mode
        self._selectors = layout.selectors(mode)
        self._codes: dict[int, list[tuple[int, tuple[Template, ...]]]] = {}
        self._info = InstructionInfoFactory()

    # ------------------------------------------------------------------------------------------------ data

    def masters(self, sandbox: Sandbox, count: int = 32) -> bytes:
        """Contents of the windows: noise, floating-point numbers, pointers into the sandbox, selectors, zeros."""
        r = self.random
        size = sandbox.window_size + sandbox.edge_size
        out = bytearray()
        for _ in range(count):
            data = bytearray()
            while len(data) < size:
                choice = r.random()
                if choice < 0.3:
                    data += r.randbytes(16)
                elif choice < 0.45:
                    data += struct.pack(
                        "<dd", r.uniform(-1e3, 1e3), r.choice((0.0, -0.0, 1.5, float("inf"), 2.0**-1070))
                    )
                elif choice < 0.55:
                    data += struct.pack("<ffff", *(r.uniform(-100, 100) for _ in range(4)))
                elif choice < 0.65:
                    data += self._extended() + r.randbytes(6)
                elif choice < 0.8:
                    data += struct.pack("<II", sandbox.window + r.randrange(256), r.choice(self._selectors)) * 2
                elif choice < 0.85:
                    data += self._far_pointer(sandbox)
                elif choice < 0.92:
                    data += struct.pack("<QQ", r.choice(_INTERESTING_64), r.choice(_INTERESTING_64))
                else:
                    data += bytes(16)
            out += data[:size]
        return bytes(out)

    def _far_pointer(self, sandbox: Sandbox) -> bytes:
        """A far pointer of any size to code that the case may enter, which is a frame of RETF, too."""
        r = self.random
        selector = r.choice((layout.CODE_3, layout.CODE_3_64, layout.CODE_3_16, layout.KERNEL_CODE))
        offset = sandbox.window + r.randrange(256)
        return r.choice(
            (
                struct.pack("<4H", offset & 0xFFFF, selector, offset & 0xFFFF, selector) * 2,
                struct.pack("<4I", offset, selector, offset, selector),
                struct.pack("<2Q", offset, selector),
            )
        )

    def _extended(self) -> bytes:
        """An 80-bit number: normal mostly, sometimes a special one or an unsupported encoding."""
        r = self.random
        choice = r.random()
        sign = r.randrange(2) << 15
        if choice < 0.6:
            return struct.pack("<QH", r.getrandbits(63) | 1 << 63, sign | 0x3FFF + r.randrange(-40, 40))
        if choice < 0.75:
            return struct.pack("<QH", r.getrandbits(63) | 1 << 63, sign | r.randrange(1, 0x7FFF))
        exponent = r.choice((0, 0x7FFF, 0x3FFF))
        return struct.pack("<QH", r.choice((0, 1 << 63, 3 << 62, r.getrandbits(64))), sign | exponent)

    def floating_point(self, count: int = 48) -> bytes:
        """Images for FXRSTOR."""
        r = self.random
        out = bytearray()
        for number in range(count):
            image = bytearray(512)
            control = 0x037F if number % 3 else 0x7F | r.randrange(16) << 8
            status, tags, mxcsr = 0, 0xFF, 0x1F80 | r.choice((0, 0, 0, 1, 2, 3)) << 13
            if number % 4 == 1:
                status, tags = r.randrange(8) << 11 | r.getrandbits(4) << 8 & 0x4700, r.getrandbits(8)
            if number % 16 == 5:
                control &= ~r.getrandbits(6)
            if number % 8 == 7:
                mxcsr |= r.choice((0x40, 0x8000, 0x8040, r.getrandbits(6)))
            struct.pack_into("<HHB", image, 0, control, status, tags)
            struct.pack_into("<I", image, 24, mxcsr)
            for i in range(8):
                image[32 + 16 * i : 42 + 16 * i] = self._extended()
            for i in range(16):
                choice = r.random()
                if choice < 0.4:
                    data = r.randbytes(16)
                elif choice < 0.65:
                    data = struct.pack("<dd", r.uniform(-1e4, 1e4), r.choice((0.5, -0.0, 3e9, float("nan"), 1e300)))
                elif choice < 0.9:
                    data = struct.pack(
                        "<ffff", *(r.choice((r.uniform(-9, 9), 1e-40, 3e9, -0.0, 1e38)) for _ in range(4))
                    )
                else:
                    data = struct.pack("<QQ", r.choice(_INTERESTING_64), r.choice(_INTERESTING_64))
                image[160 + 16 * i : 176 + 16 * i] = data
            out += image
        return bytes(out)

    # ------------------------------------------------------------------------------------------------ instructions

    def _pool(self, bits: int) -> list[tuple[int, tuple[Template, ...]]]:
        if bits not in self._codes:
            pool = []
            for code, each in templates(bits).items():
                template = each[0]
                modrm = b"" if template.modrm is None else bytes((template.modrm | (5 if template.is_memory else 0),))
                decoded = Decoder(bits, template.prefix + template.opcode + modrm + bytes(12)).decode()
                if is_allowed(decoded, kernel=False):
                    features = decoded.cpuid_features()
                    integer = not {iced_x86.CpuidFeature.FPU, iced_x86.CpuidFeature.MMX} & set(features) and (
                        decoded.op_count == 0
                        or not any(_is_vector(decoded.op_register(i)) for i in range(decoded.op_count))
                    )
                    weight = 3 if integer else 1
                    if decoded.mnemonic in _RARE:
                        weight = 1
                    pool += [(code, each)] * weight
            self._codes[bits] = pool
        return self._codes[bits]

    def case(self, number: int, flavour: Flavour) -> Case:
        """The case with this number."""
        return _CaseBuilder(self, number, flavour).build()


@cache
def _takes_lock(template: Template) -> bool:
    """May LOCK stand before it?"""
    if not template.is_memory or template.modrm is None:
        return False
    code = b"\xf0" + template.prefix + template.opcode + bytes((template.modrm | 1,)) + bytes(8)
    return bool(Decoder(32, code).decode().code != Code.INVALID)


def _is_vector(register: int) -> bool:
    return _R.XMM0 <= register <= _R.ZMM31 or _R.ST0 <= register <= _R.ST7 or _R.MM0 <= register <= _R.MM7


class _CaseBuilder:
    def __init__(self, generator: Generator, number: int, flavour: Flavour) -> None:
        self.g = generator
        self.r = generator.random
        self.flavour = flavour
        self.number = number
        self.strict = not flavour.own_stack
        box = flavour.sandbox
        self.reach = flavour.bits == 16
        """Are pointers offsets of 16 bits, two of which may be added?"""
        self.start = 0 if self.reach else box.base
        self.edge = box.edge + box.edge_size - (box.base if self.reach else 0)
        self.iopl = self.r.choice((0, 0, 0, 0, 1, 2, 3, 3))
        self.general = self._registers()
        self.pointers = {_RBX, _RSI, _RDI, _RBP, _RSP} | ({8, 9} if flavour.bits == 64 else set())
        self.clean = self.pointers | {_RCX, _RDX}
        self.wild_segments: set[int] = set()
        if flavour.low:
            base = layout.LOW_CODE + number * CASE_CODE
            self.cs, self.ip = base >> 4 & 0xF000, base & 0xFFFF
            self.address = base
        else:
            self.address = layout.CODE + number * CASE_CODE
            self.cs, self.ip = flavour.cs, self.address
            if flavour.bits == 16:
                segment, self.ip = divmod(number * CASE_CODE, 0x10000)
                self.cs += 8 * segment

    def _pointer(self) -> int:
        r = self.r
        choice = r.random()
        if choice < 0.93 or self.strict:
            pointer = self.start + 0x100 + 16 * r.randrange(0x14 if self.reach else 0x20)
        elif choice < 0.95:
            pointer = self.edge - r.choice((0, 1, 2, 4, 8, 16, 16, 32))
        elif choice < 0.97:
            pointer = self.start + 0x200 - r.choice((1, 2, 3, 4, 7, 8, 15))  # where a page ends
        else:
            pointer = self.edge + r.choice((0, 0xFF8, 0x1000, 0x1FFC, 0x2000))
        pointer += r.randrange(16) if r.random() < 0.25 else 0
        return pointer & 0xFFFF if self.reach else pointer

    def _value(self) -> int:
        r = self.r
        choice = r.random()
        if choice < 0.35:
            return r.choice(_INTERESTING_64)
        if choice < 0.5:
            return r.randrange(64)
        if choice < 0.6:
            return r.choice(self.g._selectors)
        return r.getrandbits(64)

    def _registers(self) -> list[int]:
        r = self.r
        mask = (1 << 64) - 1 if self.flavour.bits == 64 else 0xFFFFFFFF
        general = [self._value() & mask for _ in range(16)]
        if self.flavour.bits != 64:
            general[8:] = [0x1111_1111_1111_1111 * (i + 1) if self.g.mode is Mode.LONG else 0 for i in range(8)]
        if r.random() < 0.7:
            general[_RCX] = r.randrange(40)
        for number in (_RBX, _RSI, _RDI, _RBP) + ((8, 9) if self.flavour.bits == 64 else ()):
            general[number] = self._pointer()
        if self.reach:
            general[_RCX] &= 0xFF
        if r.random() < 0.15:
            general[_RDX] = general[_RDX] & ~0xFFFF | SCRATCH_PORT
        general[_RSP] = self.start + (0x2C0 if self.reach else 0x200) + 8 * r.randrange(16)
        return general

    # ------------------------------------------------------------------------------------------------ one instruction

    def _candidate(self, at: int) -> tuple[bytes, iced_x86.Instruction] | None:
        r = self.r
        bits = self.flavour.bits
        pool = self.g._pool(bits)
        _, choices = pool[r.randrange(len(pool))]
        template = choices[r.randrange(len(choices))]
        if template.modrm is not None and template.is_memory is False and len(choices) > 1 and r.random() < 0.3:
            memory = [choice for choice in choices[:8] if choice.is_memory]
            template = memory[r.randrange(len(memory))] if memory else template
        prefixes = bytearray(template.prefix)
        address_bits = bits
        if r.random() < 0.04:
            prefixes.insert(0, 0x67)
            address_bits = {16: 32, 32: 16, 64: 32}[bits]
        if r.random() < 0.06:
            prefixes.insert(0, r.choice((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x64, 0x65)))
        if r.random() < (0.1 if _takes_lock(template) else 0.005):
            prefixes.insert(0, 0xF0)
        if not template.prefix and r.random() < 0.1 and template.opcode[0] != 0xC4:
            prefixes.insert(0, r.choice((0x66, 0xF2, 0xF3)))
        is_vex = template.opcode[0] == 0xC4 and len(template.opcode) == 4
        rex_b = rex_x = 0
        opcode = bytearray(template.opcode)
        if bits == 64:
            if is_vex:
                flip = r.randrange(8) if r.random() < 0.5 else 0
                rex_x, rex_b = flip >> 1 & 1, flip & 1
                opcode[1] ^= flip << 5
            elif r.random() < 0.5:
                rex = 0x40 | r.randrange(16)
                rex_x, rex_b = rex >> 1 & 1, rex & 1
                prefixes.append(rex)
        if is_vex:
            opcode[2] ^= r.randrange(16 if bits == 64 else 8) << 3
        out = bytes(prefixes) + bytes(opcode)
        if template.modrm is not None:
            out += self._modrm(template, address_bits, rex_b, rex_x, at + len(out), bits)
        immediate = bytearray(r.randbytes(8))
        if r.random() < 0.4:
            immediate[1:] = b"\0" * 7 if immediate[0] < 128 else b"\xff" * 7
        if template.modrm is None and (0xA0 <= template.opcode[0] <= 0xA3) and len(template.opcode) == 1:
            immediate[:8] = struct.pack("<Q", self.start + r.randrange(0x3F0))
        out = (out + bytes(immediate) + bytes(16))[:32]
        instruction = Decoder(bits, out, ip=at).decode()
        if instruction.len > 15:
            return None
        return out[: instruction.len], instruction

    def _modrm(self, template: Template, address_bits: int, rex_b: int, rex_x: int, at: int, bits: int) -> bytes:
        r = self.r
        assert template.modrm is not None
        if not template.is_memory:
            return bytes((template.modrm,))
        register = template.modrm & 0x38
        displacement = r.randrange(-64, 64)
        if r.random() < 0.5:
            displacement &= ~15
        if address_bits == 16:
            rm = r.randrange(8)
            mod = r.randrange(3)
            if mod == 0:
                tail = struct.pack("<H", (self.start + r.randrange(0x3C0)) & 0xFFFF) if rm == 6 else b""
            else:
                tail = struct.pack("<b", displacement) if mod == 1 else struct.pack("<h", displacement)
            return bytes((mod << 6 | register | rm,)) + tail
        absolute = self.start + 16 * r.randrange(0x3C) + (r.randrange(16) if r.random() < 0.3 else 0)
        choice = r.random()
        if choice < 0.12:
            if bits == 64 and address_bits == 64 and r.random() < 0.7:  # relative to RIP, with a guess at the length
                return bytes((register | 5,)) + struct.pack("<i", (absolute & ~15) - at - 5 - r.choice((0, 0, 0, 1, 4)))
            if bits == 64:
                return bytes((register | 4, 0x25)) + struct.pack("<i", absolute)
            return bytes((register | 5,)) + struct.pack("<i", absolute)
        base = (
            r.choice((1, 0) if rex_b and bits == 64 else (_RBX, _RSI, _RDI, _RBP, _RBX, _RSP))
            if r.random() < 0.96
            else r.randrange(8)
        )
        mod = r.randrange(3)
        if base == 5 and mod == 0:
            mod = 1
        tail = b"" if mod == 0 else struct.pack("<b", displacement) if mod == 1 else struct.pack("<i", displacement)
        if base == _RSP or r.random() < 0.3:
            index = r.choice((4, 4, _RCX)) if r.random() < 0.95 else r.randrange(8)
            if rex_x and index == 4:
                index = _RCX if r.random() < 0.2 else index
            return bytes((mod << 6 | register | 4, r.randrange(4) << 6 | index << 3 | base)) + tail
        return bytes((mod << 6 | register | base,)) + tail

    def _refine(self, code: bytes, instruction: iced_x86.Instruction) -> bytes:
        """The code with the operands that are better not random."""
        r = self.r
        data = bytearray(code)
        mnemonic = instruction.mnemonic
        if instruction.op_count and instruction.op_kind(0) in (
            iced_x86.OpKind.FAR_BRANCH16,
            iced_x86.OpKind.FAR_BRANCH32,
        ):
            if self.flavour.low:
                data[-2:] = struct.pack("<H", r.choice((self.cs, r.getrandbits(16))))
            else:
                data[-2:] = struct.pack("<H", r.choice((self.cs, r.choice(self.g._selectors))))
            if r.random() < 0.5:
                size = 2 if instruction.op_kind(0) == iced_x86.OpKind.FAR_BRANCH16 else 4
                data[-2 - size : -2] = (self.ip & (1 << 8 * size) - 1).to_bytes(size, "little")
        elif mnemonic == _M.ENTER:
            data[-3:-1] = struct.pack("<H", r.randrange(0, 64, 4))
            if self.strict:
                data[-1] = data[-1] & 0xE0 | r.randrange(4)
        elif mnemonic in (_M.RET, _M.RETF) and instruction.op_count:
            data[-2:] = struct.pack("<H", r.randrange(0, 32, 4))
        elif mnemonic == _M.INT and self.flavour.low and not self.flavour.v86 and r.random() < 0.5:
            data[-1] = r.randrange(32)
        return bytes(data)

    def _acceptable(self, instruction: iced_x86.Instruction) -> bool:
        flavour = self.flavour
        if not is_allowed(instruction, kernel=flavour.ring == 0):
            return False
        mnemonic = instruction.mnemonic
        if mnemonic in _RARE and self.r.random() < 0.7:
            return False
        if mnemonic == _M.INT and instruction.immediate8 == 14:
            return False  # the bench would take it for a page fault, and CR2 for its address
        if mnemonic in PORTS and not self._port_is_safe(instruction):
            return False
        info = self.g._info.info(instruction)
        written = [use.register for use in info.used_registers() if use.access in _WRITES]
        if _R.SS in written and not self._may_load_ss(instruction):
            return False
        full = (RegisterExt.full_register(register) for register in written)
        writes = {register - _R.RAX for register in full if register in _GENERAL}
        if self.strict and _RSP in writes and not self._keeps_stack(instruction):
            return False
        if self._reaches_far(instruction) or self._loses_pointer(instruction, writes & self.pointers):
            return False
        if flavour.low and not self._stays_low(instruction, info):
            return False
        self.clean -= writes - {_RSP}
        if instruction.is_string_instruction and not instruction.has_rep_prefix and not instruction.has_repne_prefix:
            self.clean |= writes & {_RSI, _RDI}
        return True

    def _port_is_safe(self, instruction: iced_x86.Instruction) -> bool:
        """Does it fault, or access a port that is the same on both machines?"""
        if self.flavour.ring == 3 and (self.flavour.v86 or self.iopl < 3):
            return True
        kinds = [instruction.op_kind(number) for number in range(instruction.op_count)]
        is_byte = instruction.mnemonic in _BYTE_PORTS or _R.AL in (instruction.op0_register, instruction.op1_register)
        named = iced_x86.OpKind.IMMEDIATE8 in kinds
        return is_byte and not named and self.general[_RDX] & 0xFFFF == SCRATCH_PORT and _RDX in self.clean

    def _may_be_undefined(self, code: bytes) -> bool:
        """May this stand in a case? QEMU executes what has a LOCK that may not be there, or breaks off."""
        without = Decoder(self.flavour.bits, code.replace(b"\xf0", b"", 1), ip=self.ip).decode()
        if without.mnemonic in _BIT_STRINGS | PORTS:
            return False
        return without.code == Code.INVALID or is_allowed(without, kernel=self.flavour.ring == 0)

    def _loses_pointer(self, instruction: iced_x86.Instruction, written: set[int]) -> bool:
        """Would a pointer point elsewhere? Now and then that is as well, where most of memory is not mapped."""
        if self.reach and instruction.mnemonic in _POP_ALL:
            return False  # it is the last of its case
        rarely = self.reach or self.r.random() < 0.9
        if written - {_RSP} and not instruction.is_string_instruction and rarely:
            return True
        return _RSP in written and not instruction.is_stack_instruction and self.r.random() < 0.9

    def _reaches_far(self, instruction: iced_x86.Instruction) -> bool:
        """A bit test of memory, with a register for the bit's number: it may be anywhere."""
        kinds = [instruction.op_kind(number) for number in range(instruction.op_count)]
        if instruction.mnemonic not in _BIT_STRINGS or kinds != [iced_x86.OpKind.MEMORY, iced_x86.OpKind.REGISTER]:
            return False
        is_count = RegisterExt.full_register(instruction.op1_register) == _R.RCX
        return not (is_count and _RCX in self.clean and self.general[_RCX] < 64)

    def _may_load_ss(self, instruction: iced_x86.Instruction) -> bool:
        if instruction.mnemonic in (_M.IRET, _M.IRETD, _M.IRETQ, _M.RETF):
            return True
        return not (self.strict or self.flavour.low)

    def _keeps_stack(self, instruction: iced_x86.Instruction) -> bool:
        mnemonic = instruction.mnemonic
        if mnemonic == _M.LEAVE:
            return _RBP in self.clean and not self.flavour.low
        if mnemonic == _M.POP and instruction.op_kind(0) == iced_x86.OpKind.REGISTER:
            return RegisterExt.full_register(instruction.op0_register) != _R.RSP
        return instruction.is_stack_instruction

    def _stays_low(self, instruction: iced_x86.Instruction, info: iced_x86.InstructionInfo) -> bool:
        """In real mode and virtual-8086 mode nothing may reach what two PCs have differently above 640 KiB."""
        for use in info.used_memory():
            if use.segment in self.wild_segments:
                return False
            if use.access in _WRITES and use.segment in _CODE:  # the code of another case, which is not put back
                return False
            for register in (use.base, use.index):
                if register == _R.NONE or RegisterExt.size(register) <= 2:
                    continue
                number = RegisterExt.full_register(register) - _R.RAX
                if number == _RSP and use.segment == _R.SS and instruction.is_stack_instruction:
                    continue
                if number not in self.clean:
                    return False
        loads = {use.register for use in info.used_registers() if use.access in _WRITES}
        self.wild_segments |= loads & _SEGMENTS
        return True

    # ------------------------------------------------------------------------------------------------ the case

    def build(self) -> Case:
        """The whole case."""
        r = self.r
        out = bytearray()
        starts: list[int] = []
        forward: tuple[int, int] | None = None
        length = r.choice((2, 4, 6, 8, 10, 12))
        tries = 0
        while len(starts) < length and len(out) < CASE_CODE - 32 and tries < 400:
            tries += 1
            at = self.ip + len(out)
            found = self._candidate(at)
            if found is None:
                continue
            code = self._refine(*found)
            instruction = Decoder(self.flavour.bits, code, ip=at).decode()
            if instruction.code == Code.INVALID:
                if r.random() < 0.97 or not self._may_be_undefined(code):
                    continue
                starts.append(len(out))
                out += code
                break
            if not self._acceptable(instruction):
                continue
            if forward is not None:
                place, size = forward
                out[place : place + size] = len(code).to_bytes(size, "little")
                forward = None
            here = len(out)
            starts.append(here)
            out += code
            near = (
                instruction.is_jcc_short_or_near
                or instruction.is_jmp_short_or_near
                or instruction.is_call_near
                or (_M.LOOP <= instruction.mnemonic <= _M.LOOPNE or instruction.is_jcx_short)
            )
            if near and instruction.op_kind(0) in (
                iced_x86.OpKind.NEAR_BRANCH16,
                iced_x86.OpKind.NEAR_BRANCH32,
                iced_x86.OpKind.NEAR_BRANCH64,
            ):
                size = (
                    1
                    if instruction.is_jcc_short
                    or instruction.is_jmp_short
                    or instruction.is_jcx_short
                    or instruction.is_loop
                    or instruction.is_loopcc
                    else 2
                    if instruction.op_kind(0) == iced_x86.OpKind.NEAR_BRANCH16 and self.flavour.bits != 64
                    else 4
                )
                choice = r.random()
                place = len(out) - size
                if choice < 0.3 and not self.flavour.low and not self.strict:
                    target = r.choice(starts) - len(out)
                    out[place:] = (target & (1 << 8 * size) - 1).to_bytes(size, "little")
                elif choice < 0.95 or size == 1:
                    out[place:] = bytes(size)
                    forward = (place, size)
            if self.reach and instruction.mnemonic in _POP_ALL:
                break
            if instruction.rflags_undefined:
                out += b"\x39\xc8"  # cmp eax, ecx
                starts.append(len(out) - 2)
                if forward is not None:
                    forward = None
        code = bytes(out).ljust(CASE_CODE, b"\xcc")
        return Case(self.flavour, self._record(), self.address, code)

    def _record(self) -> bytes:
        r = self.r
        flavour = self.flavour
        flags = 0x102 | r.getrandbits(12) & 0x8D5
        if r.random() < 0.2:
            flags |= 0x400
        if r.random() < 0.3:
            flags |= 0x200
        flags |= self.iopl << 12
        if flavour.v86:
            flags |= 0x20000
        if flavour.ring == 0 and self.g.mode is Mode.REAL:
            flags &= 0xFFFF
        segments = [layout.DATA_3_16 if flavour.bits == 16 else layout.DATA_3] * 4
        if flavour.low:
            segments = [0x5000, 0x5004, 0x5001, 0x5002]
        else:
            for i in range(4):
                if r.random() < 0.1:
                    segments[i] = r.choice((layout.SHIFTED_3, layout.DATA_3, 0, layout.SHIFTED_3))
        record = bytearray(layout.CASE_SIZE)
        struct.pack_into("<16Q", record, 0, *self.general)
        struct.pack_into("<QQQ", record, 0x80, self.ip, self.cs, flags)
        struct.pack_into("<Q4H", record, 0xA0, flavour.ss, *segments)
        struct.pack_into("<IIIII", record, 0xB0, r.randrange(48), r.randrange(32), STEPS, self.ip, self.ip + CASE_CODE)
        return bytes(record)
