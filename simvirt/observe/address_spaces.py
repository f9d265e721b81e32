"""The address spaces of a run at one moment: what is mapped where, guest-virtual to guest-physical to host-physical.

What the guest's page tables map is told in stretches: pages that follow each other in both spaces with the same rights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from simvirt.machine.memory import RegionKind
from simvirt.observe.numbers import counted
from simvirt.observe.page_walk import Tables, guest_tables
from simvirt.x86.addresses import Gpa, Gva
from simvirt.x86.paging import PageEntry, PagingFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simvirt.machine.memory import Region
    from simvirt.observe.trial import Trial

MOST_TABLES, MOST_STRETCHES = 4096, 2048
"""Tables that are looked into, and stretches that are told. Tables that lead to each other in circles map more than
anybody can look at."""
_SIGN: Final = 1 << 47
_CANONICAL_ONES: Final = (1 << 64) - (1 << 48)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Linear addresses from `linear` that lead to guest-physical addresses from `gpa`."""

    linear: Gva
    gpa: Gpa
    size: int
    writable: bool
    user: bool
    executable: bool

    def continues(self, other: Stretch) -> bool:
        """Does it begin where `other` ends, in both spaces and with the same rights?"""
        here = replace(self, size=0, linear=Gva(0), gpa=Gpa(0))
        return (
            self.linear == other.linear + other.size
            and self.gpa == other.gpa + other.size
            and here == replace(other, size=0, linear=Gva(0), gpa=Gpa(0))
        )


@dataclass(frozen=True, slots=True)
class AddressSpaces:
    """All three.

    Attributes:
        paging: the paging mode, None while paging is off and linear addresses are guest-physical ones.
        stretches: what the guest's tables map, by linear address; with paging off, nothing.
        complete: False if there were more tables than `MOST_TABLES`, or stretches than `MOST_STRETCHES`.
        regions: what lies where in the guest-physical space, and where that is in the PC's memory.
        host_size: bytes of the PC's memory.
        title: of which run, and when.
    """

    paging: PagingFormat | None
    stretches: tuple[Stretch, ...]
    complete: bool
    regions: tuple[Region, ...]
    host_size: int
    title: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON: sizes in bytes, addresses as numbers."""
        return {
            "paging": None if self.paging is None else self.paging.title,
            "complete": self.complete,
            "stretches": [
                {
                    "linear": one.linear,
                    "guest_physical": one.gpa,
                    "size": one.size,
                    "writable": one.writable,
                    "user": one.user,
                    "executable": one.executable,
                }
                for one in self.stretches
            ],
            "regions": [
                {
                    "guest_physical": region.start,
                    "size": region.size,
                    "kind": region.kind.name.lower(),
                    "name": region.name,
                    "host_physical": region.host if region.kind <= RegionKind.ROM else None,
                }
                for region in self.regions
            ],
            "host_size": self.host_size,
        }


def address_spaces(trial: Trial) -> AddressSpaces:
    """Those of a trial, now; nothing is set in the guest's tables."""
    tables = guest_tables(trial)
    search = _Search(tables)
    stretches = tuple(search.stretches()) if tables.paging is not None else ()
    machine = trial.machine
    title = f"{trial.image.name} under {trial.strategy.info.name}, after {counted(trial.count, 'instruction')}"
    regions = tuple(machine.space.regions)
    return AddressSpaces(tables.paging, stretches, search.complete, regions, machine.memory.size, title)


class _Search:
    """A look through all of the tables."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._left = MOST_TABLES
        self.complete = True

    def stretches(self) -> Iterator[Stretch]:
        """What is mapped, by linear address."""
        current: Stretch | None = None
        told = 0
        for one in self._pages(0, self._tables.root, 0, writable=True, user=True, executable=True):
            if current is not None and one.continues(current):
                current = replace(current, size=current.size + one.size)
                continue
            if current is not None:
                yield current
            current = one
            told += 1
            if told > MOST_STRETCHES:
                self.complete = False
                return
        if current is not None:
            yield current

    def _pages(
        self, number: int, table: int, linear: int, *, writable: bool, user: bool, executable: bool
    ) -> Iterator[Stretch]:
        tables, paging = self._tables, self._tables.paging
        assert paging is not None
        if not self._left:
            self.complete = False
            return
        self._left -= 1
        level = paging.levels[number]
        for index in range(1 << level.index_bits):
            entry = tables.entry(number, Gpa(table + index * paging.entry_size), paging.entry_size)
            if not entry & PageEntry.PRESENT:
                continue
            maps_page, reserved = tables.meaning(paging, level, entry)
            if reserved:
                continue
            at = linear | index << level.shift
            rights = {"writable": writable, "user": user, "executable": executable}
            if level.has_permissions:
                rights["writable"] &= bool(entry & PageEntry.WRITABLE)
                rights["user"] &= bool(entry & PageEntry.USER)
                rights["executable"] &= not (tables.execute_disable and entry & PageEntry.EXECUTE_DISABLE)
            if maps_page:
                full = at | _CANONICAL_ONES if at & _SIGN else at
                yield Stretch(Gva(full), Gpa(tables.frame(paging, level, entry)), 1 << level.shift, **rights)
            else:
                yield from self._pages(number + 1, entry & tables.table_mask(paging), at, **rights)
