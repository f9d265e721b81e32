"""What of a PC's guest-physical memory is RAM: the ranges that a PC's firmware reports, in whatever form."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

KIB: Final = 1 << 10
MIB: Final = 1 << 20
LOW_MEMORY_END: Final = 0x9FC00
"""Where the firmware's own data begin, just below the adapters' memory at 640 KiB."""


class MemoryType(IntEnum):
    """Type of a range (ACPI 6.5 Table 15.1 "Address Range Types", Multiboot Specification 0.6.96 §3.3)."""

    AVAILABLE = 1
    RESERVED = 2


class MemoryRange(NamedTuple):
    """One entry of the memory map."""

    base: int
    size: int
    type: MemoryType


def memory_map(memory_size: int) -> tuple[MemoryRange, ...]:
    """The ranges of a PC with ``memory_size`` bytes of memory, lowest first.

    >>> [f"{r.base:#x}+{r.size:#x} {r.type.name}" for r in memory_map(16 * MIB)]
    ['0x0+0x9fc00 AVAILABLE', '0x9fc00+0x400 RESERVED', '0xf0000+0x10000 RESERVED', '0x100000+0xf00000 AVAILABLE']
    """
    ranges = [MemoryRange(0, min(memory_size, LOW_MEMORY_END), MemoryType.AVAILABLE)]
    if memory_size > MIB:
        ranges += [
            MemoryRange(LOW_MEMORY_END, 640 * KIB - LOW_MEMORY_END, MemoryType.RESERVED),
            MemoryRange(0xF0000, 0x10000, MemoryType.RESERVED),
            MemoryRange(MIB, memory_size - MIB, MemoryType.AVAILABLE),
        ]
    return tuple(ranges)
