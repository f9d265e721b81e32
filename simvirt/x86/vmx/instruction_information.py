"""The VM-exit instruction-information field: how the exiting instruction addressed memory.

SDM Vol. 3C §28.2.5, Tables 28-8 to 28-11.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from simvirt.x86.registers import GeneralRegister, SegmentRegister

_ADDRESS_WIDTHS: Final = (16, 32, 64)


@dataclass(frozen=True, slots=True)
class MemoryAddressing:
    """The part that these tables share: scale, address size, segment, index and base."""

    segment: SegmentRegister
    base: GeneralRegister | None = None
    index: GeneralRegister | None = None
    scale: int = 1
    address_width: int = 32
    """Bits: 16, 32 or 64."""

    def encode(self) -> int:
        """The shared bits."""
        return (
            (self.scale.bit_length() - 1)
            | _ADDRESS_WIDTHS.index(self.address_width) << 7
            | self.segment << 15
            | (1 << 22 if self.index is None else self.index << 18)
            | (1 << 27 if self.base is None else self.base << 23)
        )

    @classmethod
    def decode(cls, value: int) -> MemoryAddressing:
        """Take the shared bits apart.

        Raises:
            ValueError: an address size or segment that does not exist.
        """
        if (size := value >> 7 & 7) > 2:
            raise ValueError(f"address size {size} is not defined")
        has_index = not value & 1 << 22
        return cls(
            SegmentRegister(value >> 15 & 7),
            None if value & 1 << 27 else GeneralRegister(value >> 23 & 0xF),
            GeneralRegister(value >> 18 & 0xF) if has_index else None,
            1 << (value & 3) if has_index else 1,
            _ADDRESS_WIDTHS[size],
        )


@dataclass(frozen=True, slots=True)
class StringIoInformation:
    """Of INS and OUTS (SDM Vol. 3C Table 28-8)."""

    address_width: int
    segment: SegmentRegister = SegmentRegister.DS
    """Of OUTS; INS always uses ES and leaves this undefined."""

    def encode(self) -> int:
        """The field."""
        return _ADDRESS_WIDTHS.index(self.address_width) << 7 | self.segment << 15

    @classmethod
    def decode(cls, value: int) -> StringIoInformation:
        """Take the field apart."""
        return cls(_ADDRESS_WIDTHS[value >> 7 & 7], SegmentRegister(value >> 15 & 7))


class DescriptorTableInstruction(IntEnum):
    """Instruction identity in SDM Vol. 3C Table 28-10, bits 29:28."""

    SGDT = 0
    SIDT = 1
    LGDT = 2
    LIDT = 3


@dataclass(frozen=True, slots=True)
class DescriptorTableInformation:
    """Of LGDT, LIDT, SGDT and SIDT (SDM Vol. 3C Table 28-10)."""

    instruction: DescriptorTableInstruction
    memory: MemoryAddressing
    operand_32: bool = True
    """Operand size 32 bits rather than 16; undefined in 64-bit mode."""

    def encode(self) -> int:
        """The field."""
        return self.memory.encode() | self.operand_32 << 11 | self.instruction << 28

    @classmethod
    def decode(cls, value: int) -> DescriptorTableInformation:
        """Take the field apart."""
        return cls(DescriptorTableInstruction(value >> 28 & 3), MemoryAddressing.decode(value), bool(value & 1 << 11))


class LocalTableInstruction(IntEnum):
    """Instruction identity in SDM Vol. 3C Table 28-11, bits 29:28."""

    SLDT = 0
    STR = 1
    LLDT = 2
    LTR = 3


@dataclass(frozen=True, slots=True)
class LocalTableInformation:
    """Of LLDT, LTR, SLDT and STR (SDM Vol. 3C Table 28-11): the operand is a register or lies in memory."""

    instruction: LocalTableInstruction
    operand: GeneralRegister | MemoryAddressing

    def encode(self) -> int:
        """The field."""
        if isinstance(self.operand, GeneralRegister):
            return self.operand << 3 | 1 << 10 | self.instruction << 28
        return self.operand.encode() | self.instruction << 28

    @classmethod
    def decode(cls, value: int) -> LocalTableInformation:
        """Take the field apart."""
        identity = LocalTableInstruction(value >> 28 & 3)
        if value & 1 << 10:
            return cls(identity, GeneralRegister(value >> 3 & 0xF))
        return cls(identity, MemoryAddressing.decode(value))
