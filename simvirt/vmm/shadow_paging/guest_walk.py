"""A walk of the guest's page tables, as its processor would make it (SDM Vol. 3A §4.3 to §4.7). Pure: it sets no flags.

The real processor's own walk is the engine's; this one works on whatever memory it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from simvirt.machine.fills import Access
from simvirt.x86.addresses import PAGE_SHIFT, Gpa
from simvirt.x86.flags import Cr0, Cr4, Efer
from simvirt.x86.paging import PAGING_4_LEVEL, PAGING_32_BIT, PAGING_PAE, PageEntry, PageFaultErrorCode, PagingFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_P, _W, _U, _PS = (int(PageEntry[name]) for name in ("PRESENT", "WRITABLE", "USER", "PAGE_SIZE"))
_XD: Final = int(PageEntry.EXECUTE_DISABLE)
_WRITE, _USER, _RSVD, _ID = (int(PageFaultErrorCode[name]) for name in ("WR", "US", "RSVD", "ID"))
_PROTECTION: Final = int(PageFaultErrorCode.P)
_ENTRY_OF_32_BIT: Final = 4


@dataclass(frozen=True, slots=True)
class _Level:
    """One level of a walk, with what the controls make of it."""

    shift: int
    index_mask: int
    maps_pages: bool
    """May an entry with PS set map a page here?"""
    reserved: int
    """Reserved bits of an entry that leads to a table, or to a 4 KiB page."""
    reserved_in_page: int
    """Those of one that maps a larger page."""
    has_permissions: bool


@dataclass(frozen=True, slots=True)
class PagingControls:
    """What CR0, CR4 and IA32_EFER say about paging.

    :ivar form: the paging mode; None while paging is off.
    """

    form: PagingFormat | None
    write_protect: bool = True
    page_size_extensions: bool = False
    execute_disable: bool = False
    smep: bool = False
    smap: bool = False
    physical_bits: int = 36
    gigabyte_pages: bool = False

    @classmethod
    def of(cls, cr0: int, cr4: int, efer: int, physical_bits: int, *, gigabyte_pages: bool) -> PagingControls:
        """From the control registers; MAXPHYADDR and 1-GByte pages are CPUID's."""
        if not cr0 & int(Cr0.PG):
            return cls(None)
        pae = bool(cr4 & int(Cr4.PAE))
        return cls(
            form=(PAGING_4_LEVEL if efer & int(Efer.LMA) else PAGING_PAE) if pae else PAGING_32_BIT,
            write_protect=bool(cr0 & int(Cr0.WP)),
            page_size_extensions=bool(cr4 & int(Cr4.PSE)),
            execute_disable=pae and bool(efer & int(Efer.NXE)),
            smep=bool(cr4 & int(Cr4.SMEP)),
            smap=bool(cr4 & int(Cr4.SMAP)),
            physical_bits=physical_bits,
            gigabyte_pages=gigabyte_pages,
        )

    def root(self, cr3: int) -> Gpa:
        """Where CR3 says that the walk begins (SDM Vol. 3A Tables 4-3, 4-7, 4-12)."""
        if self.form is PAGING_PAE:
            return Gpa(cr3 & 0xFFFFFFE0)
        return Gpa(cr3 & (0xFFFFF000 if self.form is PAGING_32_BIT else (1 << self.physical_bits) - 1 & ~0xFFF))


@lru_cache(maxsize=64)
def _levels(controls: PagingControls) -> tuple[_Level, ...]:
    form = controls.form
    if form is None:
        return ()
    found = []
    for level in form.levels:
        bits, nxe = controls.physical_bits, controls.execute_disable
        maps = level.large_page and (
            controls.page_size_extensions
            if form is PAGING_32_BIT
            else controls.gigabyte_pages or level.shift < PAGING_4_LEVEL.levels[1].shift
        )
        reserved = form.reserved_mask(level, maps_page=level.shift == PAGE_SHIFT, physical_bits=bits, nxe=nxe)
        if level.large_page and not maps and form is not PAGING_32_BIT:
            reserved |= _PS
        in_page = form.reserved_mask(level, maps_page=True, physical_bits=bits, nxe=nxe)
        found.append(_Level(level.shift, (1 << level.index_bits) - 1, maps, reserved, in_page, level.has_permissions))
    return tuple(found)


class GuestWalk:
    """What the guest's tables say about one access.

    :ivar entries: (guest-physical address, value) of each entry on the way, root first.
    :ivar level: of the last of them; 1 is that of PTEs.
    :ivar error_code: of the page fault; None where the access is granted.
    :ivar gpa: the translation, where it is granted.
    """

    __slots__ = ("entries", "error_code", "gpa", "level")

    def __init__(self, entries: list[tuple[int, int]], level: int, gpa: int, error_code: int | None) -> None:
        self.entries = entries
        self.level = level
        self.gpa = Gpa(gpa)
        self.error_code = error_code


class GuestWalker:
    """Walks by one setting of the controls.

    :param read_entry: takes a guest-physical address and the size of an entry.
    :param pdptes: gives the PDPTE registers of PAE paging; without it, its root is read like any other table.
    :ivar controls: what it walks by.
    """

    __slots__ = (
        "_fetch_error", "_frame_mask", "_levels", "_linear_mask", "_pdptes", "_read_entry", "_size", "controls",
    )  # fmt: skip

    def __init__(
        self,
        controls: PagingControls,
        read_entry: Callable[[int, int], int],
        pdptes: Callable[[], tuple[int, ...]] | None = None,
    ) -> None:
        form = controls.form
        self.controls = controls
        self._read_entry = read_entry
        self._pdptes = pdptes
        self._levels = _levels(controls)
        self._size = 4 if form is None else form.entry_size
        self._linear_mask = (1 << 64) - 1 if form is PAGING_4_LEVEL else 0xFFFFFFFF
        self._frame_mask = 0xFFFFF000 if self._size == 4 else (1 << controls.physical_bits) - 1 & ~0xFFF
        self._fetch_error = _ID if controls.execute_disable or controls.smep else 0

    def walk(self, root: int, linear: int, access: Access, *, user: bool, smap_suspended: bool = False) -> GuestWalk:
        """Translate `linear` for an access, from the table at `root`.

        `smap_suspended`: the access is an explicit one with EFLAGS.AC set.
        """
        linear &= self._linear_mask
        size, read_entry, level_number = self._size, self._read_entry, len(self._levels)
        if not level_number:
            return GuestWalk([], 0, linear, None)
        fetch, write = access is Access.FETCH, access is Access.WRITE
        error = (_WRITE if write else 0) | (_USER if user else 0) | (self._fetch_error if fetch else 0)
        rights, no_execute, table, entry = _W | _U, 0, root, 0
        entries: list[tuple[int, int]] = []
        registers = self._pdptes
        for level in self._levels:
            at = table + (linear >> level.shift & level.index_mask) * size
            entry = read_entry(at, size) if registers is None or entries else registers()[at - root >> 3]
            entries.append((at, entry))
            if not entry & _P:
                return GuestWalk(entries, level_number, 0, error)
            large = level.maps_pages and entry & _PS
            if entry & (level.reserved_in_page if large else level.reserved):
                return GuestWalk(entries, level_number, 0, error | _PROTECTION | _RSVD)
            if level.has_permissions:
                rights &= entry
                no_execute |= entry & _XD
            if large or level_number == 1:
                break
            table = entry & self._frame_mask
            level_number -= 1
        offset = linear & (1 << level.shift) - 1
        if size == _ENTRY_OF_32_BIT and level_number > 1:
            gpa = entry & 0xFFC00000 | (entry & 0x1FE000) << 19 | offset
        else:
            gpa = entry & self._frame_mask & -(1 << level.shift) | offset
        granted = self._grants(rights, no_execute, access, user=user, smap_suspended=smap_suspended)
        return GuestWalk(entries, level_number, gpa, None if granted else error | _PROTECTION)

    def still_finds(self, root: int, entries: Iterable[tuple[int, int]]) -> bool:
        """Do the entries that a walk from `root` has found say what they said?"""
        read_entry, size, registers = self._read_entry, self._size, self._pdptes
        for at, entry in entries:
            if (read_entry(at, size) if registers is None else registers()[at - root >> 3]) != entry:
                return False
            registers = None
        return True

    def _grants(self, rights: int, no_execute: int, access: Access, *, user: bool, smap_suspended: bool) -> bool:
        """Does SDM Vol. 3A §4.6.1 allow it, to a page with these rights?"""
        controls = self.controls
        if user:
            if not rights & _U:
                return False
        elif rights & _U and (controls.smep if access is Access.FETCH else controls.smap and not smap_suspended):
            return False
        if access is Access.FETCH:
            return not (no_execute and controls.execute_disable)
        return access is Access.READ or bool(rights & _W) or not (user or controls.write_protect)
