"""One step of a case in both logs, with the instruction that led to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import iced_x86
import numpy as np
from iced_x86 import (
    CodeSize,
    CpuidFeature,
    InstructionInfoFactory,
    MemorySizeExt,
    OpAccess,
    OpKind,
    Register,
    RegisterExt,
)

from tests.differential.layout import FLOATING_POINT, GDT, LDT, LOG_RANGE, PAGE_TABLES, Mode

if TYPE_CHECKING:
    from tests.differential.batch import Batch
    from tests.differential.generator import Case

_DB: Final = 1
_READS: Final = frozenset({OpAccess.READ, OpAccess.COND_READ, OpAccess.NO_MEM_ACCESS, OpAccess.NONE})
_INFO: Final = InstructionInfoFactory()


@dataclass(frozen=True, slots=True)
class Access:
    """An access to memory, by linear addresses."""

    first: int
    end: int
    writes: bool

    @property
    def crosses_page(self) -> bool:
        """Does it lie in two pages or more?"""
        return self.first >> 12 != self.end - 1 >> 12 and self.end > self.first

    def meets(self, first: int, end: int) -> bool:
        """Has it to do with these addresses?"""
        return self.first < end and first < self.end


class Step:
    """What an instruction did on this machine ("here") and on the other.

    :ivar fields: the fields that differ and are not explained yet.
    :ivar places: the bytes of the FXSAVE image that do.
    """

    def __init__(self, batch: Batch, log: np.ndarray, row: int, theirs: Any) -> None:
        self.batch = batch
        self.ours: Any = log[row]
        self.theirs = theirs
        self.case: Case = batch.cases[int(self.ours["case"])]
        start = int.from_bytes(self.case.record[0x80:0x88], "little")
        self.before: Any = None if self.ours["step"] == 0 else log[row - 1]
        self.ip = start if self.before is None else int(self.before["rip"])
        offset = self.ip - start
        code = self.case.code[offset : offset + 15] if 0 <= offset < len(self.case.code) else b""
        self.bits = self.case.flavour.bits
        self.instruction = iced_x86.Decoder(self.bits, code, ip=self.ip).decode()
        self.here = int(self.ours["vector"])
        if self._blocks_trap and not (self.here != _DB and int(self.ours["rip"]) == self.ip):
            # No single-step trap comes behind it (SDM Vol. 3A 6.8.3): the step is that of the next one.
            code = code[self.instruction.len :]
            self.ip += self.instruction.len
            self.instruction = iced_x86.Decoder(self.bits, code, ip=self.ip).decode()
        self.code = code[: self.instruction.len]
        self.mnemonic = self.instruction.mnemonic
        self.there = int(self.theirs["vector"])
        self.fields = {name for name in self.ours.dtype.names if not np.array_equal(self.ours[name], self.theirs[name])}
        self.places: set[int] = set(np.flatnonzero(self.ours["fx"] != self.theirs["fx"]).tolist())

    def differs_in(self, *names: str) -> bool:
        """Does it differ in these fields alone?"""
        return self.fields <= set(names)

    # ------------------------------------------------------------------------------------------------ state

    @property
    def in_long_mode(self) -> bool:
        """IA-32e mode, compatibility mode included."""
        return self.batch.mode is Mode.LONG

    @property
    def is_v86(self) -> bool:
        """Virtual-8086 mode."""
        return self.case.flavour.v86

    @property
    def ours_is_null_where_theirs_is(self) -> bool:
        """Do the data segment registers differ in the RPL of null selectors alone?"""
        pairs = zip(self.ours["segments"].tolist(), self.theirs["segments"].tolist(), strict=True)
        return all(ours == theirs or (ours == 0 and theirs < 4) for ours, theirs in pairs)

    @property
    def stores_null_selector(self) -> bool:
        """Does it store a data segment register in which they have a null selector with an RPL?"""
        names = (Register.DS, Register.ES, Register.FS, Register.GS)
        null = {
            name for name, selector in zip(names, self.theirs["segments"].tolist(), strict=True) if 0 < selector < 4
        }
        is_store = self.mnemonic in (iced_x86.Mnemonic.PUSH, iced_x86.Mnemonic.MOV)
        return is_store and bool(null.intersection(self.registers[-1:]))

    @property
    def error_counts_gates_of_16(self) -> bool:
        """Is their error code that of an IDT whose gates count twice?"""
        ours, theirs = int(self.ours["error"]), int(self.theirs["error"])
        return bool(ours & 2) and (ours >> 3) * 16 | 2 == theirs

    @property
    def flags_difference(self) -> int:
        """Bits of RFLAGS."""
        return int(self.ours["rflags"]) ^ int(self.theirs["rflags"])

    def byte_difference(self, place: int) -> int:
        """Bits of a byte of the FXSAVE image."""
        return int(self.ours["fx"][place]) ^ int(self.theirs["fx"][place])

    @property
    def fx_before(self) -> bytes:
        """The FXSAVE image before the instruction; for a case's first, what it was loaded from."""
        if self.before is not None:
            return bytes(self.before["fx"])
        number = int.from_bytes(self.case.record[0xB0:0xB4], "little")
        return self.batch.memory[FLOATING_POINT][512 * number : 512 * number + 512]

    @property
    def has_unmasked_sse_exception(self) -> bool:
        """Was any exception of MXCSR unmasked?"""
        return int.from_bytes(self.fx_before[24:26], "little") & 0x1F80 != 0x1F80

    @property
    def has_unmasked_invalid_operation(self) -> bool:
        """Was an invalid operation or a division by zero of the x87 unmasked, and is one reported now?"""
        return bool(~self.fx_before[0] & int(self.ours["fx"][2]) & 5)

    @property
    def has_odd_number(self) -> bool:
        """Was any x87 register a denormal or an unsupported encoding?"""
        image = self.fx_before
        for start in range(32, 160, 16):
            mantissa = int.from_bytes(image[start : start + 8], "little")
            exponent = int.from_bytes(image[start + 8 : start + 10], "little") & 0x7FFF
            if (exponent == 0 and mantissa) or (exponent and not mantissa >> 63):
                return True
        return False

    @property
    def repeats(self) -> bool:
        """Has it a REP prefix?"""
        return bool(self.instruction.has_rep_prefix or self.instruction.has_repne_prefix)

    @property
    def _counter(self) -> Any:
        sizes = {use.address_size for use in _INFO.info(self.instruction).used_memory()}
        return {CodeSize.CODE16: Register.CX, CodeSize.CODE32: Register.ECX}.get(min(sizes), Register.RCX)

    @property
    def repeats_zero_times(self) -> bool:
        """Is it a repeated instruction whose count is 0?"""
        return self.repeats and not self._general(self._counter)

    # ------------------------------------------------------------------------------------------------ the instruction

    @property
    def _blocks_trap(self) -> bool:
        """Is it MOV SS or POP SS?"""
        i = self.instruction
        is_load = i.mnemonic in (iced_x86.Mnemonic.MOV, iced_x86.Mnemonic.POP)
        return is_load and i.op_kind(0) == OpKind.REGISTER and i.op_register(0) == Register.SS

    @property
    def undefined_flags(self) -> int:
        """The flags that the instruction leaves undefined, as bits of RFLAGS."""
        bits = self.instruction.rflags_undefined
        names = iced_x86.RflagsBits
        places = {names.OF: 0x800, names.SF: 0x80, names.ZF: 0x40, names.AF: 0x10, names.CF: 1, names.PF: 4}
        return sum(bit for name, bit in places.items() if bits & name)

    @cached_property
    def features(self) -> set[int]:
        """The CPUID features that it belongs to."""
        return set(self.instruction.cpuid_features())

    @cached_property
    def registers(self) -> list[Any]:
        """Its register operands."""
        i = self.instruction
        return [i.op_register(n) for n in range(i.op_count) if i.op_kind(n) == OpKind.REGISTER]

    @property
    def is_mmx(self) -> bool:
        """Does it name an MMX register?"""
        return any(Register.MM0 <= register <= Register.MM7 for register in self.registers)

    @property
    def is_sse(self) -> bool:
        """Does it name an XMM register?"""
        return any(Register.XMM0 <= register <= Register.XMM15 for register in self.registers)

    @property
    def is_x87(self) -> bool:
        """Is it an instruction of the x87?"""
        return bool({CpuidFeature.FPU, CpuidFeature.FPU287, CpuidFeature.FPU387} & self.features)

    @property
    def is_segment_load(self) -> bool:
        """Does it load a segment register from memory?"""
        i = self.instruction
        return i.mnemonic in (
            iced_x86.Mnemonic.LFS,
            iced_x86.Mnemonic.LGS,
            iced_x86.Mnemonic.LSS,
        ) or (i.mnemonic == iced_x86.Mnemonic.MOV and Register.ES <= i.op0_register <= Register.GS)

    @property
    def loads_ss(self) -> bool:
        """Is it LSS or MOV to SS?"""
        return self.is_segment_load and Register.SS in (self.instruction.op0_register, self._pointer_register)

    @property
    def _pointer_register(self) -> Any:
        return Register.SS if self.mnemonic == iced_x86.Mnemonic.LSS else Register.NONE

    @property
    def agrees_in_32_bits(self) -> bool:
        """Do RIP and the general registers differ in their upper halves alone?"""
        rips = int(self.ours["rip"]) ^ int(self.theirs["rip"])
        differences = [int(a) ^ int(b) for a, b in zip(self.ours["general"], self.theirs["general"], strict=True)]
        return not any(difference & 0xFFFFFFFF for difference in (rips, *differences))

    @property
    def agrees_in_16_bits(self) -> bool:
        """Do the general registers differ above their low words alone?"""
        return not any(
            (int(a) ^ int(b)) & 0xFFFF for a, b in zip(self.ours["general"], self.theirs["general"], strict=True)
        )

    @property
    def has_high_stack(self) -> bool:
        """Does RSP lie beyond 4 GiB?"""
        return self._general(Register.RSP) >> 32 != 0

    @property
    def is_near_branch(self) -> bool:
        """A near jump, call or return, LOOP or JRCXZ."""
        i = self.instruction
        loop = i.is_loop or i.is_loopcc or i.is_jcx_short
        indirect = i.is_jmp_near_indirect or i.is_call_near_indirect or i.mnemonic == iced_x86.Mnemonic.RET
        return loop or indirect or i.is_jcc_short_or_near or i.is_jmp_short_or_near or i.is_call_near

    @property
    def has_word_register(self) -> bool:
        """Is its first operand a register of 16 bits?"""
        return bool(self.registers) and RegisterExt.size(self.registers[0]) == 2

    @property
    def is_register_with_itself(self) -> bool:
        """Are both operands the same register?"""
        return len(self.registers) == 2 and self.registers[0] == self.registers[1]

    @property
    def has_unaligned_16_bytes(self) -> bool:
        """Has it a memory operand of 16 bytes that is not aligned?"""
        return any(access.end - access.first == 16 and access.first % 16 for access in self.accesses)

    @property
    def has_moved_on(self) -> bool:
        """Does it stand behind the instruction here?"""
        return int(self.ours["rip"]) == self.ip + self.instruction.len

    @property
    def is_in_destination(self) -> bool:
        """Does an SSE register differ alone that is the first operand?"""
        start = 160 + 16 * (self.instruction.op0_register - Register.XMM0)
        return all(start <= place < start + 16 for place in self.places)

    def is_near(self, tolerance: float) -> bool:
        """Do the single-precision numbers in the first operand differ by so much at most, relatively?"""
        start = 160 + 16 * (self.instruction.op0_register - Register.XMM0)
        ours, theirs = (bytes(one["fx"][start : start + 16]) for one in (self.ours, self.theirs))
        return self.is_in_destination and bool(
            np.allclose(np.frombuffer(ours, "<f4"), np.frombuffer(theirs, "<f4"), tolerance, 0, equal_nan=True)
        )

    @property
    def override_base(self) -> int:
        """Base in the descriptor of the segment that a prefix names."""
        return self._descriptor_base(self._selector(self.instruction.segment_prefix))

    @property
    def writes_memory(self) -> bool:
        """Does it store anything, implicitly or not?"""
        return any(use.access not in _READS for use in _INFO.info(self.instruction).used_memory())

    @cached_property
    def accesses(self) -> tuple[Access, ...]:
        """The memory that it names, or uses without naming it."""
        return tuple(self._access(use) for use in _INFO.info(self.instruction).used_memory())

    def _access(self, use: Any) -> Access:
        address = self._general(use.base) + self._general(use.index) * use.scale + use.displacement
        address &= (1 << (16, 32, 64)[use.address_size - CodeSize.CODE16]) - 1
        size = MemorySizeExt.size(use.memory_size)
        first, last = address, address + size
        if self.instruction.is_string_instruction and self.repeats:
            rest = self._general(self._counter) * size
            first, last = first - rest, last + rest
        base = self._segment_base(use.segment)
        return Access(base + first, base + last, use.access not in _READS)

    def _general(self, register: Any) -> int:
        if register == Register.NONE:
            return 0
        number = RegisterExt.full_register(register) - Register.RAX
        if not 0 <= number < 16:
            return self.ip + self.instruction.len  # RIP
        value = int(self.before["general"][number]) if self.before is not None else self._word(8 * number, 8)
        return value & (1 << 8 * RegisterExt.size(register)) - 1

    def _word(self, at: int, size: int) -> int:
        return int.from_bytes(self.case.record[at : at + size], "little")

    def _selector(self, register: Any) -> int:
        if register in (Register.CS, Register.SS):
            at, name = (0x88, "cs") if register == Register.CS else (0xA0, "ss")
            return self._word(at, 2) if self.before is None else int(self.before[name])
        number = (Register.DS, Register.ES, Register.FS, Register.GS).index(register)
        return self._word(0xA8 + 2 * number, 2) if self.before is None else int(self.before["segments"][number])

    def _descriptor_base(self, selector: int) -> int:
        table = self.batch.memory[LDT if selector & 4 else GDT]
        descriptor = table[selector & ~7 : (selector & ~7) + 8].ljust(8, b"\0")
        return int.from_bytes(descriptor[2:5] + descriptor[7:8], "little")

    def _segment_base(self, register: Any) -> int:
        selector = self._selector(register)
        if self.case.flavour.low:
            return selector << 4
        if self.bits == 64 and register not in (Register.FS, Register.GS):
            return 0
        return self._descriptor_base(selector)

    @property
    def reaches_bench(self) -> bool:
        """Has it to do with memory of the bench itself, tables, stack, log, or with what is above 640 KiB?"""
        if self.case.flavour.low:
            return any(access.end > 0xA_0000 for access in self.accesses)
        if self.case.flavour.ring == 3:
            return False
        return any(access.meets(GDT - 64, PAGE_TABLES) or access.meets(*LOG_RANGE) for access in self.accesses)

    @property
    def has_void_override(self) -> bool:
        """Has it a prefix for a segment whose base does not count in 64-bit mode?"""
        return self.bits == 64 and self.instruction.segment_prefix in (
            Register.ES,
            Register.CS,
            Register.SS,
            Register.DS,
        )

    @property
    def has_66(self) -> bool:
        """Has it an operand-size prefix?"""
        return 0x66 in self.code[: self._prefixes]

    @property
    def rex(self) -> int:
        """Its REX prefix, or 0."""
        at = self._prefixes
        return self.code[at] if self.bits == 64 and at < len(self.code) and self.code[at] & 0xF0 == 0x40 else 0

    @property
    def has_rex_register(self) -> bool:
        """Has it REX.R or REX.B?"""
        return bool(self.rex & 5)

    @property
    def _prefixes(self) -> int:
        """How many legacy prefixes it has."""
        legacy = b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3"
        return len(self.code) - len(self.code.lstrip(legacy))
