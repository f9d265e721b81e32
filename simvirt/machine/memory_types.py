"""Memory types: which there are, and the memory type range registers (SDM Vol. 3A §12.11).

The registers keep what software writes. Nothing here has a cache, so a memory type changes nothing that a guest could
see; firmware and operating systems set the registers up all the same, and some do not ask CPUID whether they exist.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from simvirt.x86.msrs import Msr


class MemoryType(IntEnum):
    """Table 12-2 "Memory Types and Their Properties"; UC_MINUS for IA32_PAT alone."""

    UC = 0
    WC = 1
    WT = 4
    WP = 5
    WB = 6
    UC_MINUS = 7


PAT_TYPES: Final = frozenset(MemoryType)
"""What an entry of IA32_PAT can be (Table 12-10)."""
MTRR_TYPES: Final = PAT_TYPES - {MemoryType.UC_MINUS}
"""What the type field of an MTRR can be (Table 12-8)."""

VARIABLE_RANGES: Final = 8
_FIXED_RANGES_SUPPORTED: Final = 1 << 8
_WRITE_COMBINING_SUPPORTED: Final = 1 << 10
CAPABILITIES: Final = VARIABLE_RANGES | _FIXED_RANGES_SUPPORTED | _WRITE_COMBINING_SUPPORTED
"""IA32_MTRRCAP (§12.11.1)."""

_BASES: Final = frozenset(msr for msr in Msr if msr.name.startswith("IA32_MTRR_PHYSBASE"))
_MASKS: Final = frozenset(msr for msr in Msr if msr.name.startswith("IA32_MTRR_PHYSMASK"))
_FIXED: Final = frozenset(msr for msr in Msr if msr.name.startswith("IA32_MTRR_FIX"))
"""Of eight ranges each (Table 12-9)."""
MTRRS: Final = _BASES | _MASKS | _FIXED | {Msr.IA32_MTRR_DEF_TYPE}

_DEFAULT_TYPE_BITS: Final = 0xFF | 1 << 10 | 1 << 11
"""Type, FE and E (§12.11.2.1)."""
_ADDRESS: Final = ~0xFFF
_VALID: Final = 1 << 11
"""V of IA32_MTRR_PHYSMASKn (§12.11.2.3)."""


def are_types(value: int, allowed: frozenset[MemoryType], size: int = 8) -> bool:
    """Is each of the low `size` bytes one of these types?

    >>> are_types(0x0007_0406_0007_0406, PAT_TYPES), are_types(0x0007_0406_0007_0406, MTRR_TYPES)
    (True, False)
    """
    return all(byte in allowed for byte in value.to_bytes(8, "little")[:size])


def mtrr_accepts(number: int, value: int, physical_bits: int) -> bool:
    """May an MTRR take `value`? Reserved bits and types are #GP(0).

    >>> mtrr_accepts(Msr.IA32_MTRR_DEF_TYPE, 0xC06, 36), mtrr_accepts(Msr.IA32_MTRR_DEF_TYPE, 0xC02, 36)
    (True, False)
    """
    address = ((1 << physical_bits) - 1) & _ADDRESS
    if number == Msr.IA32_MTRR_DEF_TYPE:
        return not value & ~_DEFAULT_TYPE_BITS and are_types(value, MTRR_TYPES, 1)
    if number in _BASES:
        return not value & ~(address | 0xFF) and are_types(value, MTRR_TYPES, 1)
    if number in _MASKS:
        return not value & ~(address | _VALID)
    return are_types(value, MTRR_TYPES)
