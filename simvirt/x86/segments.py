"""Selectors, segment descriptors and gates: what the GDT, the LDT and the IDT hold.

A descriptor is eight bytes (sixteen for a system descriptor or a gate in IA-32e mode) whose fields lie scattered for
reasons of 1982; here they are put together. Layouts: SDM Vol. 3A §3.4.2 (selectors), §3.4.5 (segment descriptors),
§3.5 and Table 3-2 (system types), §5.8.3 (call gates), §6.11 (IDT gates), §6.14.1 (64-bit gates), §7.2.3 (TSS
descriptors in 64-bit mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from simvirt.x86.registers import Ring

DESCRIPTOR_SIZE: Final = 8
HIDDEN_FLAGS_MASK: Final = 0x00F0_FF00
"""The part of a descriptor's high doubleword that is no base: what CPU engines cache as a segment's "flags"."""


class Selector(int):
    """A segment selector: index, table indicator, requested privilege level (SDM Vol. 3A §3.4.2).

    >>> s = Selector(0x1B)
    >>> s.index, s.in_ldt, s.rpl, s
    (3, False, <Ring.RING3: 3>, Selector(0x001b))
    """

    __slots__ = ()

    @classmethod
    def build(cls, index: int, rpl: int = 0, *, in_ldt: bool = False) -> Selector:
        """The selector of entry `index` of the GDT or the LDT."""
        return cls(index << 3 | in_ldt << 2 | rpl)

    @property
    def index(self) -> int:
        """Number of the descriptor in its table."""
        return self >> 3

    @property
    def offset(self) -> int:
        """Offset of the descriptor in its table, in bytes."""
        return self & 0xFFF8

    @property
    def in_ldt(self) -> bool:
        """Table indicator: the LDT rather than the GDT."""
        return bool(self & 4)

    @property
    def rpl(self) -> Ring:
        """Requested privilege level."""
        return Ring(self & 3)

    @property
    def is_null(self) -> bool:
        """One of the values 0 to 3, which name no descriptor."""
        return self < 4

    def with_rpl(self, rpl: int) -> Selector:
        """The same descriptor with another RPL."""
        return Selector(self & ~3 | rpl)

    def __repr__(self) -> str:
        return f"Selector({int(self):#06x})"


class SystemDescriptorType(IntEnum):
    """Type of a descriptor with S=0 outside IA-32e mode (SDM Vol. 3A Table 3-2). 0, 8, 10 and 13 are reserved."""

    RESERVED_0 = 0
    AVAILABLE_TSS_16 = 1
    LDT = 2
    BUSY_TSS_16 = 3
    CALL_GATE_16 = 4
    TASK_GATE = 5
    INTERRUPT_GATE_16 = 6
    TRAP_GATE_16 = 7
    RESERVED_8 = 8
    AVAILABLE_TSS_32 = 9
    RESERVED_10 = 10
    BUSY_TSS_32 = 11
    CALL_GATE_32 = 12
    RESERVED_13 = 13
    INTERRUPT_GATE_32 = 14
    TRAP_GATE_32 = 15


LONG_MODE_TYPES: Final[dict[SystemDescriptorType, str]] = {
    SystemDescriptorType.LDT: "LDT",
    SystemDescriptorType.AVAILABLE_TSS_32: "64-bit TSS (Available)",
    SystemDescriptorType.BUSY_TSS_32: "64-bit TSS (Busy)",
    SystemDescriptorType.CALL_GATE_32: "64-bit Call Gate",
    SystemDescriptorType.INTERRUPT_GATE_32: "64-bit Interrupt Gate",
    SystemDescriptorType.TRAP_GATE_32: "64-bit Trap Gate",
}
"""What the types mean in IA-32e mode, by the manual's names; absent ones are reserved there (SDM Vol. 3A Table 3-2)."""

GATE_TYPES: Final = frozenset(
    {
        SystemDescriptorType.CALL_GATE_16,
        SystemDescriptorType.TASK_GATE,
        SystemDescriptorType.INTERRUPT_GATE_16,
        SystemDescriptorType.TRAP_GATE_16,
        SystemDescriptorType.CALL_GATE_32,
        SystemDescriptorType.INTERRUPT_GATE_32,
        SystemDescriptorType.TRAP_GATE_32,
    }
)
TSS_TYPES: Final = frozenset(
    {
        SystemDescriptorType.AVAILABLE_TSS_16,
        SystemDescriptorType.BUSY_TSS_16,
        SystemDescriptorType.AVAILABLE_TSS_32,
        SystemDescriptorType.BUSY_TSS_32,
    }
)

_CODE: Final = 8
_CONFORMING_OR_EXPAND_DOWN: Final = 4
_READABLE_OR_WRITABLE: Final = 2
_ACCESSED: Final = 1
_TSS_BUSY: Final = 2


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A segment descriptor, code, data or system (SDM Vol. 3A §3.4.5, Figure 3-8).

    `raw_limit` is the 20-bit field as stored; `limit` is the last valid offset that it means. `base` has 32 bits, or
    64 for the sixteen-byte descriptors of an LDT or a TSS in IA-32e mode.

    >>> flat = Descriptor.decode(0x0000FFFF, 0x00CF9A00)
    >>> flat.is_code, hex(flat.limit), flat.dpl, flat.default_size, str(flat)
    (True, '0xffffffff', <Ring.RING0: 0>, True, 'code 32-bit DPL 0 base 0x0 limit 0xffffffff execute/read')
    """

    base: int
    raw_limit: int
    type_field: int
    """The four type bits; their meaning depends on `is_code_or_data`."""
    is_code_or_data: bool = True
    """The S flag: 1 is a code or data segment, 0 a system descriptor."""
    dpl: Ring = Ring.RING0
    present: bool = True
    available: bool = False
    long: bool = False
    default_size: bool = True
    """D/B: operands, addresses and stack pointer of 32 bits rather than 16; expand-down limit of 4 GiB."""
    granularity: bool = True

    @classmethod
    def decode(cls, low: int, high: int, upper: int = 0) -> Descriptor:
        """From its doublewords; `upper` is the third one (base 63:32) of a sixteen-byte descriptor."""
        return cls(
            base=low >> 16 & 0xFFFF | (high & 0xFF) << 16 | high & 0xFF00_0000 | upper << 32,
            raw_limit=low & 0xFFFF | high & 0xF_0000,
            type_field=high >> 8 & 0xF,
            is_code_or_data=bool(high & 1 << 12),
            dpl=Ring(high >> 13 & 3),
            present=bool(high & 1 << 15),
            available=bool(high & 1 << 20),
            long=bool(high & 1 << 21),
            default_size=bool(high & 1 << 22),
            granularity=bool(high & 1 << 23),
        )

    @classmethod
    @lru_cache(maxsize=4096)  # a machine has few, and reads them at every delivery
    def from_bytes(cls, data: bytes) -> Descriptor:
        """From its 8 bytes, or the 16 of a system descriptor of IA-32e mode.

        Raises:
            ValueError: any other length.
        """
        if len(data) not in (8, 16):
            raise ValueError(f"a descriptor has 8 or 16 bytes, not {len(data)}")
        return cls.decode(*(int.from_bytes(data[i : i + 4], "little") for i in range(0, min(len(data), 12), 4)))

    @property
    def flags(self) -> int:
        """The high doubleword without the base, limit 19:16 kept: `HIDDEN_FLAGS_MASK`."""
        return (
            self.type_field << 8
            | self.is_code_or_data << 12
            | self.dpl << 13
            | self.present << 15
            | self.raw_limit & 0xF_0000
            | self.available << 20
            | self.long << 21
            | self.default_size << 22
            | self.granularity << 23
        )

    @property
    def low(self) -> int:
        """The first doubleword."""
        return self.raw_limit & 0xFFFF | (self.base & 0xFFFF) << 16

    @property
    def high(self) -> int:
        """The second doubleword."""
        return self.flags | self.base >> 16 & 0xFF | self.base & 0xFF00_0000

    def encode(self) -> bytes:
        """Its eight bytes as they lie in memory. A base above 4 GiB needs `encode_long`."""
        return (self.low | self.high << 32).to_bytes(8, "little")

    def encode_long(self) -> bytes:
        """The sixteen bytes of an LDT or TSS descriptor in IA-32e mode."""
        return self.encode() + (self.base >> 32).to_bytes(8, "little")

    @property
    def limit(self) -> int:
        """The field scaled by G: the last valid offset, or for an expand-down segment the last invalid one (§3.4.5)."""
        return self.raw_limit << 12 | 0xFFF if self.granularity else self.raw_limit

    @property
    def is_system(self) -> bool:
        """S=0."""
        return not self.is_code_or_data

    @property
    def system_type(self) -> SystemDescriptorType | None:
        """The type of a system descriptor, None for code and data."""
        return None if self.is_code_or_data else SystemDescriptorType(self.type_field)

    @property
    def is_code(self) -> bool:
        """An executable segment."""
        return self.is_code_or_data and bool(self.type_field & _CODE)

    @property
    def is_data(self) -> bool:
        """A data or stack segment."""
        return self.is_code_or_data and not self.type_field & _CODE

    @property
    def conforming(self) -> bool:
        """A code segment that runs at its caller's privilege."""
        return self.is_code and bool(self.type_field & _CONFORMING_OR_EXPAND_DOWN)

    @property
    def expand_down(self) -> bool:
        """A data segment whose valid offsets lie above the limit."""
        return self.is_data and bool(self.type_field & _CONFORMING_OR_EXPAND_DOWN)

    @property
    def readable(self) -> bool:
        """Data, or code that may be read."""
        return self.is_data or (self.is_code and bool(self.type_field & _READABLE_OR_WRITABLE))

    @property
    def writable(self) -> bool:
        """Data that may be written."""
        return self.is_data and bool(self.type_field & _READABLE_OR_WRITABLE)

    @property
    def accessed(self) -> bool:
        """The processor has loaded it since the bit was last cleared."""
        return self.is_code_or_data and bool(self.type_field & _ACCESSED)

    @property
    def is_tss(self) -> bool:
        """A task-state segment, available or busy."""
        return self.system_type in TSS_TYPES

    @property
    def is_busy_tss(self) -> bool:
        """A TSS whose task runs or is nested."""
        return self.is_tss and bool(self.type_field & _TSS_BUSY)

    @property
    def is_gate(self) -> bool:
        """These bytes are a gate: decode them as `GateDescriptor`."""
        return self.system_type in GATE_TYPES

    def covers(self, offset: int, size: int = 1) -> bool:
        """Do `size` bytes from `offset` lie inside the limit? See SDM Vol. 3A §5.3."""
        last = offset + size - 1
        if self.expand_down:
            return offset > self.limit and last <= (0xFFFF_FFFF if self.default_size else 0xFFFF)
        return last <= self.limit

    def __str__(self) -> str:
        where = f"DPL {int(self.dpl)} base {self.base:#x} limit {self.limit:#x}{'' if self.present else ' not present'}"
        if (kind := self.system_type) is not None:
            return f"{kind.name.lower().replace('_', ' ')} {where}"
        size = "64-bit" if self.long else "32-bit" if self.default_size else "16-bit"
        if self.is_code:
            rights = "execute" + "/read" * self.readable + ", conforming" * self.conforming
        else:
            rights = "read" + "/write" * self.writable + ", expand-down" * self.expand_down
        return f"{'code' if self.is_code else 'data'} {size} {where} {rights}"


NULL_DESCRIPTOR: Final = Descriptor.decode(0, 0)


@dataclass(frozen=True, slots=True)
class GateDescriptor:
    """A call, interrupt, trap or task gate (SDM Vol. 3A §5.8.3, §6.11, §6.14.1, §7.2.5).

    `ist` has a meaning in IA-32e mode only, `parameter_count` in a call gate outside of it only, `offset` in no task
    gate.
    """

    kind: SystemDescriptorType
    selector: Selector
    offset: int = 0
    dpl: Ring = Ring.RING0
    present: bool = True
    parameter_count: int = 0
    ist: int = 0

    @classmethod
    def decode(cls, low: int, high: int) -> GateDescriptor | None:
        """From the doublewords of an eight-byte gate; None if these bytes are no gate."""
        if high & 1 << 12 or (kind := SystemDescriptorType(high >> 8 & 0xF)) not in GATE_TYPES:
            return None
        offset = low & 0xFFFF
        if kind is SystemDescriptorType.TASK_GATE:
            offset = 0
        elif kind >= SystemDescriptorType.CALL_GATE_32:
            offset |= high & 0xFFFF_0000
        is_call = kind in (SystemDescriptorType.CALL_GATE_16, SystemDescriptorType.CALL_GATE_32)
        return cls(
            kind,
            Selector(low >> 16 & 0xFFFF),
            offset,
            Ring(high >> 13 & 3),
            bool(high & 1 << 15),
            high & 0x1F if is_call else 0,
        )

    @classmethod
    def decode_long(cls, low: int, high: int, upper: int) -> GateDescriptor | None:
        """From the first three doublewords of a sixteen-byte gate of IA-32e mode; None if these are no gate there."""
        gate = None if (high >> 8 & 0xF) not in LONG_MODE_TYPES else cls.decode(low, high)
        if gate is None:
            return None
        ist = 0 if gate.kind is SystemDescriptorType.CALL_GATE_32 else high & 7
        return cls(gate.kind, gate.selector, gate.offset | upper << 32, gate.dpl, gate.present, 0, ist)

    @classmethod
    @lru_cache(maxsize=4096)  # as for `Descriptor`
    def from_bytes(cls, data: bytes) -> GateDescriptor | None:
        """From its 8 bytes, or the 16 of IA-32e mode; None if they are no gate.

        Raises:
            ValueError: any other length.
        """
        if len(data) not in (8, 16):
            raise ValueError(f"a gate has 8 or 16 bytes, not {len(data)}")
        words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        return cls.decode(*words) if len(words) == 2 else cls.decode_long(*words[:3])

    def encode(self) -> bytes:
        """The eight bytes of the gate outside IA-32e mode."""
        low = self.offset & 0xFFFF | self.selector << 16
        high = (
            self.parameter_count
            | self.ist
            | self.kind << 8
            | self.dpl << 13
            | self.present << 15
            | self.offset & 0xFFFF_0000
        )
        return (low | high << 32).to_bytes(8, "little")

    def encode_long(self) -> bytes:
        """The sixteen bytes of the gate in IA-32e mode."""
        return self.encode() + (self.offset >> 32).to_bytes(8, "little")

    @property
    def is_interrupt_gate(self) -> bool:
        """Entering through it clears IF; a trap gate leaves IF as it is (SDM Vol. 3A §6.12.1.3)."""
        return self.kind & 7 == SystemDescriptorType.INTERRUPT_GATE_16  # bit 3 tells the size

    @property
    def is_trap_gate(self) -> bool:
        """A trap gate of either size."""
        return self.kind & 7 == SystemDescriptorType.TRAP_GATE_16

    @property
    def is_task_gate(self) -> bool:
        """Entering it switches tasks."""
        return self.kind is SystemDescriptorType.TASK_GATE

    @property
    def is_call_gate(self) -> bool:
        """A call gate of either size."""
        return self.kind in (SystemDescriptorType.CALL_GATE_16, SystemDescriptorType.CALL_GATE_32)

    @property
    def width(self) -> int:
        """Bits of what is pushed through it: 16 or 32 (a 64-bit gate has the type of a 32-bit one and pushes 64)."""
        return 32 if self.kind >= SystemDescriptorType.CALL_GATE_32 else 16
