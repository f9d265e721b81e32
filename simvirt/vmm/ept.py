"""A VM's extended page tables, as its VMM builds and changes them.

The tables lie in the VMM's part of host-physical memory, and the processor walks them there; this class writes them.
Memory that is contiguous and aligned on both sides is mapped by large pages, which a change to a part of them splits.
Whoever changes an entry that the processor may have cached has to invalidate (INVEPT): `on_change` is called for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError
from simvirt.machine.memory import RegionKind
from simvirt.x86.addresses import PAGE_SIZE, Gpa, Hpa
from simvirt.x86.vmx.ept import (
    EPT_ENTRIES,
    EPT_LEVELS,
    EPT_RIGHTS,
    EptEntry,
    EptMemoryType,
    EptPointer,
    ept_index,
    ept_page_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simvirt.machine.memory import AddressSpace

_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
# Plain integers: an operation on an enum's members takes a microsecond, and an EPT violation should take few.
_RIGHTS: Final = int(EPT_RIGHTS)
_TABLE: Final = _RIGHTS
_LARGE_PAGE: Final = int(EptEntry.LARGE_PAGE)
_WRITE_BACK: Final = int(EptMemoryType.WRITE_BACK) << 3
_LARGEST_LEVEL: Final = 3
_SMALLEST_LARGE_PAGE: Final = ept_page_size(2)
_ENTRY_SIZE: Final = 8
RIGHTS_OF_REGION: Final = {
    RegionKind.RAM: EPT_RIGHTS,
    RegionKind.ROM: EptEntry.READ | EptEntry.EXECUTE,
}
"""What a guest may do with its memory; devices and holes are not mapped, so that every access to them exits."""


@dataclass(frozen=True, slots=True)
class EptStep:
    """One entry of a walk: its level (4 is the PML4), where it lies, and its value."""

    level: int
    at: Hpa
    value: int

    @property
    def maps_page(self) -> bool:
        """Is it the last of its walk?"""
        return self.level == 1 or bool(self.value & _LARGE_PAGE)


class OutOfTablePages(MonitorError):  # noqa: N818 - a state of affairs that the VMM puts right
    """All host pages that were set aside for tables are in use."""


class TablePages:
    """Host pages for tables, handed out one after the other.

    :ivar used: how many are in use.
    """

    def __init__(self, pages: range) -> None:
        self._pages = pages
        self.used = 0

    def __call__(self) -> Hpa:
        """The next page.

        :raises OutOfTablePages: there is none.
        """
        if self.used == len(self._pages):
            raise OutOfTablePages(f"all {self.used} pages for the VMM's tables are in use")
        self.used += 1
        return Hpa(self._pages[self.used - 1])


class ExtendedPageTables:
    """The EPT of one VM.

    :ivar pointer: what the VMCS's EPT_POINTER is to hold.
    """

    def __init__(
        self,
        memory: memoryview,
        new_page: TablePages,
        *,
        accessed_and_dirty: bool = False,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._words = memory.cast("Q")
        self._new_page = new_page
        self._on_change = on_change or (lambda: None)
        self._root = self._new_table()
        self.pointer = EptPointer(self._root, accessed_and_dirty=accessed_and_dirty)

    def clear(self) -> None:
        """Unmap everything and give all tables back, but for the PML4, which stays where it is."""
        self._new_page.used = 1
        self._zero(self._root)
        self._on_change()

    def map_space(self, space: AddressSpace) -> None:
        """Map the RAM and ROM of a guest-physical address space."""
        for region in space.regions:
            if (rights := RIGHTS_OF_REGION.get(region.kind)) is not None:
                self.map(region.start, region.host, region.size, rights)

    def map(self, gpa: Gpa, host: Hpa, size: int, rights: EptEntry = EPT_RIGHTS) -> None:
        """Map `size` bytes, by the largest pages that fit.

        What was not mapped the processor has not cached (SDM Vol. 3C §29.4.2): then nothing is invalidated.

        :raises MonitorError: an address or the size is no multiple of the page size.
        """
        if (gpa | host | size) & (PAGE_SIZE - 1):
            raise MonitorError(f"EPT: {gpa:#x} to {host:#x}, {size:#x} bytes: only whole pages can be mapped")
        done, allowed, replaced = 0, int(rights), False
        while done < size:
            level = self._largest_fit(gpa + done, host + done, size - done)
            replaced |= self._set(Gpa(gpa + done), level, host + done | allowed | _WRITE_BACK)
            done += ept_page_size(level)
        if replaced:
            self._on_change()

    def unmap(self, gpa: Gpa, size: int) -> None:
        """Take `size` bytes away from the guest: each access exits."""
        for at in range(gpa, gpa + size, PAGE_SIZE):
            self._set(Gpa(at), 1, 0)
        self._on_change()

    def set_rights(self, gpa: Gpa, size: int, rights: EptEntry) -> None:
        """Change what the guest may do with mapped memory; large pages that only partly lie in it are split."""
        for at in range(gpa, gpa + size, PAGE_SIZE):
            step = self._leaf(Gpa(at))
            if step is not None:
                self._write(step.at, step.value & ~_RIGHTS | int(rights))
        self._on_change()

    def walk(self, gpa: Gpa) -> tuple[EptStep, ...]:
        """The entries that the processor reads for a guest-physical address, from the PML4 to where the walk ends."""
        steps = []
        table = self._root
        for level in range(EPT_LEVELS, 0, -1):
            at = Hpa(table + ept_index(gpa, level) * _ENTRY_SIZE)
            step = EptStep(level, at, self._read(at))
            steps.append(step)
            if not step.value & _RIGHTS or step.maps_page:
                break
            table = Hpa(step.value & _ADDRESS)
        return tuple(steps)

    def host(self, gpa: Gpa) -> Hpa | None:
        """The host-physical address of a mapped guest-physical one."""
        last = self.walk(gpa)[-1]
        if not last.value & _RIGHTS:
            return None
        size = ept_page_size(last.level)
        return Hpa(last.value & _ADDRESS & ~(size - 1) | gpa & (size - 1))

    def take_dirty(self) -> Iterator[tuple[Gpa, int]]:
        """Address and size of each mapped page that is dirty; its flag is cleared. Large pages make the log coarse.

        Only with `accessed_and_dirty`.
        """
        changed = False
        for gpa, step in self._leaves(self._root, EPT_LEVELS, 0):
            if step.value & EptEntry.DIRTY:
                self._write(step.at, step.value & ~int(EptEntry.DIRTY))
                changed = True
                yield gpa, ept_page_size(step.level)
        if changed:
            self._on_change()

    # ---------------------------------------------------------------------------------------- tables

    def _new_table(self) -> Hpa:
        page = self._new_page()
        self._zero(page)
        return page

    def _zero(self, page: Hpa) -> None:
        first = page // _ENTRY_SIZE
        self._words[first : first + EPT_ENTRIES] = memoryview(bytes(PAGE_SIZE)).cast("Q")

    def _read(self, at: Hpa) -> int:
        return self._words[at // _ENTRY_SIZE]

    def _write(self, at: Hpa, value: int) -> None:
        self._words[at // _ENTRY_SIZE] = value

    def _largest_fit(self, gpa: int, host: int, size: int) -> int:
        if size < _SMALLEST_LARGE_PAGE:
            return 1
        for level in range(_LARGEST_LEVEL, 1, -1):
            page = ept_page_size(level)
            if size >= page and not (gpa | host) & (page - 1):
                return level
        return 1

    def _set(self, gpa: Gpa, level: int, entry: int) -> bool:
        """Write the entry at `level`; tables on the way are made, and large pages on the way split.

        :return: was anything mapped by it before?
        """
        words, table = self._words, int(self._root)
        for above in range(EPT_LEVELS, level, -1):
            at = table // _ENTRY_SIZE + ept_index(gpa, above)
            value = words[at]
            if value & _RIGHTS and not value & _LARGE_PAGE:
                table = value & _ADDRESS
            else:
                table = self._table_below(Hpa(at * _ENTRY_SIZE), above)
        large = _LARGE_PAGE if level > 1 and entry else 0
        at = table // _ENTRY_SIZE + ept_index(gpa, level)
        old, words[at] = words[at], entry | large
        return bool(old & _RIGHTS)

    def _table_below(self, at: Hpa, level: int) -> Hpa:
        """The table that the entry at `at` names, made or split out of a large page if need be."""
        value = self._read(at)
        if value & _RIGHTS and not value & _LARGE_PAGE:
            return Hpa(value & _ADDRESS)
        table = self._new_table()
        if value & _RIGHTS:
            size = ept_page_size(level - 1)
            keep = value & ~_LARGE_PAGE if level == 2 else value
            for number in range(EPT_ENTRIES):
                self._write(Hpa(table + number * _ENTRY_SIZE), keep + number * size)
        self._write(at, table | _TABLE)
        return table

    def _leaf(self, gpa: Gpa) -> EptStep | None:
        """The 4-KByte entry that maps `gpa`, split out of a larger one; None where nothing is mapped."""
        last = self.walk(gpa)[-1]
        if not last.value & _RIGHTS:
            return None
        table = self._root
        for level in range(EPT_LEVELS, 1, -1):
            table = self._table_below(Hpa(table + ept_index(gpa, level) * _ENTRY_SIZE), level)
        at = Hpa(table + ept_index(gpa, 1) * _ENTRY_SIZE)
        return EptStep(1, at, self._read(at))

    def _leaves(self, table: Hpa, level: int, base: int) -> Iterator[tuple[Gpa, EptStep]]:
        """Every entry that maps a page, with the guest-physical address that it maps."""
        for number in range(EPT_ENTRIES):
            step = EptStep(level, Hpa(table + number * _ENTRY_SIZE), self._read(Hpa(table + number * _ENTRY_SIZE)))
            if not step.value & _RIGHTS:
                continue
            gpa = base + number * ept_page_size(level)
            if step.maps_page:
                yield Gpa(gpa), step
            else:
                yield from self._leaves(Hpa(step.value & _ADDRESS), level - 1, gpa)
