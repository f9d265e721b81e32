"""Paging structures: the bits of their entries, the three formats, and the page-fault error code.

A *format* is a list of levels from the root down; each level takes its share of the linear address and may or may not
map a large page (SDM Vol. 3A §4.3 32-bit paging, §4.4 PAE, §4.5 4-level paging). Walking is the machine's business;
this is what a walk needs to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from simvirt.x86.addresses import PAGE_SHIFT


class PageEntry(IntFlag):
    """Bits of a paging-structure entry (SDM Vol. 3A Tables 4-4 to 4-6 for 32-bit paging, 4-8 to 4-20 otherwise)."""

    PRESENT = 1 << 0
    WRITABLE = 1 << 1
    """R/W."""
    USER = 1 << 2
    """U/S."""
    WRITE_THROUGH = 1 << 3
    """PWT."""
    CACHE_DISABLE = 1 << 4
    """PCD."""
    ACCESSED = 1 << 5
    DIRTY = 1 << 6
    """Only where the entry maps a page."""
    PAGE_SIZE = 1 << 7
    """PS: the entry maps a page, above the last level."""
    GLOBAL = 1 << 8
    """Only where the entry maps a page, and with CR4.PGE."""
    EXECUTE_DISABLE = 1 << 63
    """XD: PAE and 4-level, with EFER.NXE; reserved otherwise."""


PAT_BIT_4K: Final = 1 << 7
"""PAT, in an entry that maps a 4 KiB page: there bit 7 is not PS."""
PAT_BIT_LARGE: Final = 1 << 12
"""PAT, in an entry that maps a larger page."""
CR3_WRITE_THROUGH: Final = 1 << 3
CR3_CACHE_DISABLE: Final = 1 << 4


class PageFaultErrorCode(IntFlag):
    """The error code of a #PF (SDM Vol. 3A §4.7, Figure 4-12)."""

    P = 1 << 0
    """Set: a protection violation; clear: an entry was not present."""
    WR = 1 << 1
    """W/R: the access was a write."""
    US = 1 << 2
    """U/S: a user-mode access."""
    RSVD = 1 << 3
    """A reserved bit was set in an entry."""
    ID = 1 << 4
    """I/D: an instruction fetch (reported with PAE and NXE, or SMEP)."""
    PK = 1 << 5
    """A protection key forbade it."""
    SS = 1 << 6
    """A shadow-stack access."""

    @property
    def description(self) -> str:
        """The error code in words.

        >>> (PageFaultErrorCode.P | PageFaultErrorCode.WR | PageFaultErrorCode.US).description
        'user write, protection violation'
        """
        flags = PageFaultErrorCode
        access = "instruction fetch" if self & flags.ID else "write" if self & flags.WR else "read"
        why = "reserved bit set" if self & flags.RSVD else "protection violation" if self & flags.P else "not present"
        extra = ", protection key" * bool(self & flags.PK) + ", shadow stack" * bool(self & flags.SS)
        return f"{'user' if self & flags.US else 'supervisor'} {access}, {why}{extra}"


@dataclass(frozen=True, slots=True)
class PagingLevel:
    """One level of a format: a table indexed by some bits of the linear address."""

    name: str
    """The manual's name of its entries: PTE, PDE, PDPTE, PML4E."""
    shift: int
    """Lowest bit of the linear address that indexes it."""
    index_bits: int
    large_page: bool = False
    """An entry with PS set maps a page of `1 << shift` bytes here (32-bit paging: with CR4.PSE)."""
    has_permissions: bool = True
    """R/W, U/S and A exist; not in a PDPTE of PAE paging, where they are reserved (SDM Vol. 3A Table 4-8)."""

    def index(self, linear: int) -> int:
        """Number of the entry that translates `linear`."""
        return linear >> self.shift & (1 << self.index_bits) - 1


@dataclass(frozen=True, slots=True)
class PagingFormat:
    """One of the paging modes (SDM Vol. 3A §4.1.1)."""

    title: str
    entry_size: int
    """Bytes."""
    levels: tuple[PagingLevel, ...]
    """From the root down."""
    linear_bits: int
    has_execute_disable: bool
    section: str

    def reserved_mask(self, level: PagingLevel, *, maps_page: bool, physical_bits: int, nxe: bool) -> int:
        """Bits of an entry at `level` that fault when set (SDM Vol. 3A §4.3 to §4.5, rows "reserved" of their tables).

        `physical_bits` is MAXPHYADDR. 32-bit paging has reserved bits only in large entries, from the PSE-36 field up.

        >>> pde = PAGING_PAE.levels[1]
        >>> hex(PAGING_PAE.reserved_mask(pde, maps_page=True, physical_bits=36, nxe=True))
        '0x7ffffff0001fe000'
        """
        large = maps_page and level.shift > PAGE_SHIFT
        if self.entry_size == 4:
            # A 4 MiB page keeps physical bits 39:32 in bits 20:13 as far as MAXPHYADDR reaches; 21 is always reserved.
            pse36_bits = max(0, min(physical_bits, 40) - 32)
            return ((1 << 22) - (1 << 13 + pse36_bits)) if large else 0
        # Bits 62:52 are for software in 4-level paging; PAE reserves everything from MAXPHYADDR up to 62.
        address_top = 63 if self.linear_bits == 32 else 52
        mask = (1 << address_top) - (1 << physical_bits)
        if not nxe or not level.has_permissions:
            mask |= 1 << 63
        if large:
            mask |= (1 << level.shift) - (1 << 13)
        elif not level.large_page and level.shift > PAGE_SHIFT and level.has_permissions:
            mask |= int(PageEntry.PAGE_SIZE)
        if not level.has_permissions:
            mask |= 0x1E6
        return mask


PAGING_32_BIT: Final = PagingFormat(
    "32-bit paging",
    4,
    (PagingLevel("PDE", 22, 10, large_page=True), PagingLevel("PTE", 12, 10)),
    32,
    has_execute_disable=False,
    section="SDM Vol. 3A §4.3",
)
PAGING_PAE: Final = PagingFormat(
    "PAE paging",
    8,
    (
        PagingLevel("PDPTE", 30, 2, has_permissions=False),
        PagingLevel("PDE", 21, 9, large_page=True),
        PagingLevel("PTE", 12, 9),
    ),
    32,
    has_execute_disable=True,
    section="SDM Vol. 3A §4.4",
)
PAGING_4_LEVEL: Final = PagingFormat(
    "4-level paging",
    8,
    (
        PagingLevel("PML4E", 39, 9),
        PagingLevel("PDPTE", 30, 9, large_page=True),
        PagingLevel("PDE", 21, 9, large_page=True),
        PagingLevel("PTE", 12, 9),
    ),
    48,
    has_execute_disable=True,
    section="SDM Vol. 3A §4.5",
)


class EptEntry(IntFlag):
    """Bits of an EPT paging-structure entry (SDM Vol. 3C §29.3.2, Tables 29-1 to 29-7)."""

    READ = 1 << 0
    WRITE = 1 << 1
    EXECUTE = 1 << 2
    IGNORE_PAT = 1 << 6
    """Only where the entry maps a page; with the memory type in bits 5:3."""
    PAGE_SIZE = 1 << 7
    ACCESSED = 1 << 8
    DIRTY = 1 << 9
    EXECUTE_USER = 1 << 10
    SUPPRESS_VE = 1 << 63


def is_canonical(linear: int) -> bool:
    """Are bits 63:47 of a 64-bit linear address all alike? See SDM Vol. 1 §3.3.7.1.

    >>> is_canonical(0x7FFF_FFFF_FFFF), is_canonical(0x8000_0000_0000)
    (True, False)
    """
    return linear >> 47 in (0, 0x1FFFF)
