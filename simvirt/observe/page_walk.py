"""A walk through the guest's page tables, step by step, without a trace in them; and guest memory by linear address.

It goes by the guest's own CR3 and the guest's own memory, so it is the same under every strategy, and the second
dimension, from guest-physical to host-physical, is shown beside it. Nothing is cached: where the processor's TLB still
holds another translation, this one is what the tables say. (SDM Vol. 3A §4.3 to §4.7.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SHIFT, PAGE_SIZE, Gpa, Gva, Hpa
from simvirt.x86.cpuid import Feature, find_cpu_model
from simvirt.x86.flags import Cr0, Cr4, Efer
from simvirt.x86.paging import (
    PAGING_4_LEVEL,
    PAGING_32_BIT,
    PAGING_PAE,
    PageEntry,
    PagingFormat,
    PagingLevel,
    is_canonical,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.memory import Region
    from simvirt.observe.trial import Trial

_FRAME_4_BYTES: Final = 0xFFFFF000
_PSE36_SHIFT: Final = 19
_PSE36_FIELD: Final = 0x1FE000
_LARGE_32: Final = 0xFFC00000
_GIGABYTE_SHIFT: Final = 30
_A20: Final = 1 << 20
_PAE_ROOT: Final = 0xFFFFFFE0
_LINEAR_32: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One paging-structure entry that was read."""

    level: PagingLevel
    index: int
    """Number of the entry in its table."""
    gpa: Gpa
    """Where the entry is."""
    entry: int
    host: Hpa | None
    """Where that is in the PC's memory; None where there is no memory, and ones are read."""

    @property
    def flags(self) -> str:
        """The entry's flags by the manual's letters."""
        names = {
            PageEntry.PRESENT: "P", PageEntry.WRITABLE: "R/W", PageEntry.USER: "U/S", PageEntry.WRITE_THROUGH: "PWT",
            PageEntry.CACHE_DISABLE: "PCD", PageEntry.ACCESSED: "A", PageEntry.DIRTY: "D", PageEntry.GLOBAL: "G",
            PageEntry.EXECUTE_DISABLE: "XD",
        }  # fmt: skip
        if self.level.large_page:
            names[PageEntry.PAGE_SIZE] = "PS"
        return " ".join(name for flag, name in names.items() if self.entry & flag)


@dataclass(frozen=True, slots=True)
class PageWalk:
    """Where a linear address leads.

    Attributes:
        paging: the paging mode, None while paging is off.
        steps: the entries, from the root on.
        gpa: the guest-physical address; None where the walk ends in a fault.
        page_size: bytes of the page.
        fault: why there is no translation.
        region: what lies at the guest-physical address; None is a hole.
        host: where that is in the PC's memory.
    """

    linear: Gva
    paging: PagingFormat | None
    steps: tuple[WalkStep, ...]
    gpa: Gpa | None
    page_size: int
    writable: bool
    user: bool
    executable: bool
    fault: str
    region: Region | None
    host: Hpa | None

    @property
    def references(self) -> int:
        """Memory references that the walk takes."""
        return len(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: addresses and entries as numbers; where there is no translation, `fault` says why."""
        return {
            "linear": self.linear,
            "paging": None if self.paging is None else self.paging.title,
            "entries": [
                {"level": step.level.name, "index": step.index, "at": step.gpa, "entry": step.entry, "host": step.host}
                for step in self.steps
            ],
            "guest_physical": self.gpa,
            "host_physical": self.host,
            "page_size": self.page_size,
            "writable": self.writable,
            "user": self.user,
            "executable": self.executable,
            "fault": self.fault or None,
        }


@dataclass(frozen=True, slots=True)
class Tables:
    """Page tables somewhere, and the controls by which they are walked.

    Attributes:
        read: reads an entry, given its physical address and size.
        locate: what lies at a physical address, and where that is in the PC's memory.
    """

    cr0: int
    cr3: int
    cr4: int
    efer: int
    physical_bits: int
    gigabyte_pages: bool
    read: Callable[[Gpa, int], int]
    locate: Callable[[Gpa], tuple[Region | None, Hpa | None]]
    pdptes: tuple[int, ...] = ()
    """The PDPTE registers of PAE paging, which are walked in place of the table that they were loaded from; with none
    given, that is read."""

    @property
    def paging(self) -> PagingFormat | None:
        """The paging mode; None while paging is off."""
        if not self.cr0 & Cr0.PG:
            return None
        return PAGING_4_LEVEL if self.efer & Efer.LMA else PAGING_PAE if self.cr4 & Cr4.PAE else PAGING_32_BIT

    @property
    def execute_disable(self) -> bool:
        """Can an entry forbid execution?"""
        paging = self.paging
        return paging is not None and paging.has_execute_disable and bool(self.efer & Efer.NXE)

    @property
    def root(self) -> int:
        """Where the first table is."""
        paging = self.paging
        return self.cr3 & (_PAE_ROOT if paging is PAGING_PAE or paging is None else self.table_mask(paging))

    def entry(self, level: int, gpa: Gpa, size: int) -> int:
        """An entry of a table; of PAE paging's first table the register that was loaded from it, if it is known."""
        if level == 0 and self.pdptes:
            return self.pdptes[(gpa - self.root) // size]
        return self.read(gpa, size)

    def meaning(self, paging: PagingFormat, level: PagingLevel, entry: int) -> tuple[bool, int]:
        """Does a present entry map a page; and which of its bits are set that must not be."""
        may_be_large = level.large_page and (paging.entry_size == 8 or bool(self.cr4 & Cr4.PSE))
        large = may_be_large and bool(entry & PageEntry.PAGE_SIZE)
        maps_page = large or level is paging.levels[-1]
        reserved = entry & paging.reserved_mask(
            level, maps_page=maps_page, physical_bits=self.physical_bits, nxe=self.execute_disable
        )
        if large and level.shift == _GIGABYTE_SHIFT and not self.gigabyte_pages:
            reserved |= int(PageEntry.PAGE_SIZE)
        return maps_page, reserved

    def table_mask(self, paging: PagingFormat) -> int:
        """The bits of an entry that say where the next table is."""
        return _FRAME_4_BYTES if paging.entry_size == 4 else (1 << self.physical_bits) - PAGE_SIZE

    def frame(self, paging: PagingFormat, level: PagingLevel, entry: int) -> int:
        """Where the page is that an entry maps."""
        if paging.entry_size == 8:
            return entry & (1 << self.physical_bits) - (1 << level.shift)
        if level.shift > PAGE_SHIFT:
            return entry & _LARGE_32 | (entry & _PSE36_FIELD) << _PSE36_SHIFT
        return entry & _FRAME_4_BYTES


def guest_tables(trial: Trial, state: ArchitecturalState | None = None) -> Tables:
    """The guest's own tables, in its own memory."""
    machine = trial.machine
    state = machine.processor.guest_state() if state is None else state
    cr0, _, cr3, cr4 = state.control
    mask = -1 if machine.board.a20 else ~_A20

    def read(gpa: Gpa, size: int) -> int:
        return int.from_bytes(machine.read_physical(Gpa(gpa & mask), size), "little")

    def locate(gpa: Gpa) -> tuple[Region | None, Hpa | None]:
        at = Gpa(gpa & mask)
        return machine.space.region(at), machine.space.host(at)

    gigabyte_pages = find_cpu_model(trial.config.cpu).has(Feature.PDPE1GB)
    bits = trial.cpu.engine.physical_bits
    return Tables(cr0, cr3, cr4, state.efer, bits, gigabyte_pages, read, locate, state.pdptes)


def walk(trial: Trial, linear: int, state: ArchitecturalState | None = None) -> PageWalk:
    """Translate a linear address as the guest's page tables say now."""
    return walk_tables(guest_tables(trial, state), linear)


def walk_tables(tables: Tables, linear: int) -> PageWalk:
    """Translate a linear address by these tables."""
    if not tables.cr0 & Cr0.PG:
        return _end(tables, linear & _LINEAR_32, None, (), Gpa(linear & _LINEAR_32), PAGE_SIZE)
    wide = bool(tables.efer & Efer.LMA)
    paging = tables.paging
    assert paging is not None
    nxe = tables.execute_disable
    if not wide:
        linear &= _LINEAR_32
    elif not is_canonical(linear):
        return _fault(linear, paging, (), "the address is not canonical: #GP, or #SS through the stack")
    table = tables.root
    steps: list[WalkStep] = []
    writable = user = executable = True
    for number, level in enumerate(paging.levels):
        index = level.index(linear)
        gpa = Gpa(table + index * paging.entry_size)
        entry = tables.entry(number, gpa, paging.entry_size)
        steps.append(WalkStep(level, index, gpa, entry, tables.locate(gpa)[1]))
        if not entry & PageEntry.PRESENT:
            return _fault(linear, paging, steps, f"the {level.name} is not present")
        maps_page, reserved = tables.meaning(paging, level, entry)
        if reserved:
            return _fault(linear, paging, steps, f"the {level.name} has reserved bits set: {reserved:#x}")
        if level.has_permissions:
            writable &= bool(entry & PageEntry.WRITABLE)
            user &= bool(entry & PageEntry.USER)
            executable &= not (nxe and entry & PageEntry.EXECUTE_DISABLE)
        if maps_page:
            size = 1 << level.shift
            gpa = Gpa(tables.frame(paging, level, entry) | linear & size - 1)
            found = _end(tables, linear, paging, steps, gpa, size)
            return replace(found, writable=writable, user=user, executable=executable)
        table = entry & tables.table_mask(paging)
    raise AssertionError("the last level maps a page")


def _end(  # noqa: PLR0917 - the parts of a walk in the order in which they are found
    tables: Tables,
    linear: int,
    paging: PagingFormat | None,
    steps: Sequence[WalkStep],
    gpa: Gpa,
    size: int,
) -> PageWalk:
    region, host = tables.locate(gpa)
    return PageWalk(Gva(linear), paging, tuple(steps), gpa, size, True, True, True, "", region, host)


def _fault(linear: int, paging: PagingFormat, steps: Sequence[WalkStep], why: str) -> PageWalk:
    return PageWalk(Gva(linear), paging, tuple(steps), None, 0, False, False, False, why, None, None)


# --------------------------------------------------------------------------------------------------------------- memory


def read_linear(trial: Trial, linear: int, size: int) -> bytes:
    """Guest memory by linear address; shorter, or empty, where it comes to a page that is not mapped."""
    machine = trial.machine
    tables = guest_tables(trial)
    data = bytearray()
    while len(data) < size:
        at = linear + len(data)
        found = walk_tables(tables, at)
        if found.gpa is None or found.host is None:
            break
        data += machine.read_physical(found.gpa, min(size - len(data), PAGE_SIZE - (at & PAGE_OFFSET_MASK)))
    return bytes(data)


def write_linear(trial: Trial, linear: int, data: bytes) -> bool:
    """Write guest memory by linear address, whatever its pages permit; nothing is written if a page is not mapped."""
    machine = trial.machine
    tables = guest_tables(trial)
    pieces: list[tuple[Gpa, bytes]] = []
    done = 0
    while done < len(data):
        at = linear + done
        size = min(len(data) - done, PAGE_SIZE - (at & PAGE_OFFSET_MASK))
        found = walk_tables(tables, at)
        if found.gpa is None or found.host is None:
            return False
        pieces.append((found.gpa, data[done : done + size]))
        done += size
    for gpa, piece in pieces:
        machine.write_physical(gpa, piece)
    return True
