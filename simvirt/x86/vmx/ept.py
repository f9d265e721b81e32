"""The extended page-table mechanism: its entries and its pointer (SDM Vol. 3C §29.3, Tables 25-9 and 29-1 to 29-7)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE, Hpa

EPT_LEVELS: Final = 4
"""PML4, page-directory-pointer table, page directory, page table."""
EPT_ENTRIES: Final = 512
_INDEX_BITS: Final = 9


class EptEntry(IntFlag):
    """Bits of an entry of an EPT paging structure."""

    READ = 1 << 0
    WRITE = 1 << 1
    EXECUTE = 1 << 2
    IGNORE_PAT = 1 << 6
    """Only where the entry maps a page."""
    LARGE_PAGE = 1 << 7
    """The entry maps a page, above the last level."""
    ACCESSED = 1 << 8
    """With bit 6 of the EPT pointer."""
    DIRTY = 1 << 9
    """Likewise, where the entry maps a page."""
    SUPPRESS_VE = 1 << 63
    """An EPT violation exits, where it could be a virtualization exception."""


EPT_RIGHTS: Final = EptEntry.READ | EptEntry.WRITE | EptEntry.EXECUTE


class EptMemoryType(IntEnum):
    """Bits 5:3 of an entry that maps a page, and bits 2:0 of the EPT pointer, which takes two of them."""

    UNCACHEABLE = 0
    WRITE_COMBINING = 1
    WRITE_THROUGH = 4
    WRITE_PROTECTED = 5
    WRITE_BACK = 6


@dataclass(frozen=True, slots=True)
class EptPointer:
    """The VMCS field EPT_POINTER (SDM Vol. 3C Table 25-9).

    >>> hex(EptPointer(Hpa(0x4000)).encode())
    '0x401e'
    """

    root: Hpa
    """Address of the PML4."""
    memory_type: EptMemoryType = EptMemoryType.WRITE_BACK
    levels: int = EPT_LEVELS
    accessed_and_dirty: bool = False

    def encode(self) -> int:
        """The field."""
        return self.root | self.accessed_and_dirty << 6 | self.levels - 1 << 3 | self.memory_type

    @classmethod
    def decode(cls, value: int) -> EptPointer:
        """Take the field apart.

        Raises:
            ValueError: the memory type is reserved.
        """
        return cls(Hpa(value & ~(PAGE_SIZE - 1)), EptMemoryType(value & 7), (value >> 3 & 7) + 1, bool(value & 1 << 6))


def ept_index(gpa: int, level: int) -> int:
    """Which entry of a structure at `level` (4 is the PML4) a guest-physical address selects.

    >>> ept_index(0x40_0000, 2), ept_index(0x40_0000, 1)
    (2, 0)
    """
    return gpa >> PAGE_SHIFT + (level - 1) * _INDEX_BITS & EPT_ENTRIES - 1


def ept_page_size(level: int) -> int:
    """Bytes that an entry at `level` maps if it maps a page.

    >>> [ept_page_size(level) for level in (1, 2, 3)]
    [4096, 2097152, 1073741824]
    """
    return 1 << PAGE_SHIFT + (level - 1) * _INDEX_BITS
