"""A walk of the guest's page tables, as its processor would make it (SDM Vol. 3A §4.3 to §4.7). Pure: it sets no flags.

The real processor's own walk is the engine's; this one works on whatever memory `read_entry` reads.
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
    from collections.abc import Callable

_P, _W, _U, _PS = (int(PageEntry[name]) for name in ("PRESENT", "WRITABLE", "USER", "PAGE_SIZE"))
_XD: Final = int(PageEntry.EXECUTE_DISABLE)
_WRITE, _USER, _RSVD, _ID = (int(PageFaultErrorCode[name]) for name in ("WR", "US", "RSVD", "ID"))
_PROTECTION: Final = int(PageFaultErrorCode.P)


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


def walk(
    controls: PagingControls,
    root: int,
    read_entry: Callable[[int, int], int],
    linear: int,
    access: Access,
    *,
    user: bool,
    smap_suspended: bool = False,
) -> GuestWalk:
    """Translate `linear` for an access.

    `read_entry` takes a guest-physical address and the size of an entry. `smap_suspended`: the access is an explicit
    one with EFLAGS.AC set.
    """
    form = controls.form
    if form is None:
        return GuestWalk([], 0, linear & 0xFFFFFFFF, None)
    fetch, write = access is Access.FETCH, access is Access.WRITE
    size = form.entry_size
    error = (_WRITE if write else 0) | (_USER if user else 0)
    if fetch and (controls.execute_disable or controls.smep):
        error |= _ID
    rights, no_execute, table, entry = _W | _U, 0, root, 0
    entries: list[tuple[int, int]] = []
    frame_mask = 0xFFFFF000 if size == 4 else (1 << controls.physical_bits) - 1 & ~0xFFF
    level_number = len(form.levels)
    if form.linear_bits == 32:
        linear &= 0xFFFFFFFF
    for level in _levels(controls):
        at = table + (linear >> level.shift & level.index_mask) * size
        entry = read_entry(at, size)
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
        table = entry & frame_mask
        level_number -= 1
    offset = linear & (1 << level.shift) - 1
    if size == 4 and level_number == 2:
        gpa = entry & 0xFFC00000 | (entry & 0x1FE000) << 19 | offset
    else:
        gpa = entry & frame_mask & -(1 << level.shift) | offset
    user_page = bool(rights & _U)
    refused = (
        (user and not user_page)
        or (write and not rights & _W and (user or controls.write_protect))
        or (fetch and bool(no_execute if controls.execute_disable else 0))
        or (fetch and controls.smep and user_page and not user)
        or (controls.smap and not fetch and user_page and not user and not smap_suspended)
    )
    return GuestWalk(entries, level_number, gpa, error | _PROTECTION if refused else None)
