"""All shadow tables of a guest: looked up by what they shadow, linked, filled, traced, and kept in step.

Invariants, whenever the guest runs: an entry that is present says what the guest's entry says now; every guest page
that holds a shadowed table is mapped read-only by every shadow; and `mapped` knows all leaf entries of a guest page.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from simvirt.vmm.shadow_paging.saved import SavedKey, SavedTable, pack, unpack
from simvirt.vmm.shadow_paging.shadow_table import (
    ENTRIES,
    INDEX_BITS,
    LEAF_LEVEL,
    XD,
    A,
    D,
    P,
    Role,
    ShadowTable,
    TableKey,
    U,
    W,
)
from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE
from simvirt.x86.paging import PAGING_4_LEVEL, PAGING_32_BIT, PAGING_PAE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simvirt.machine.memory import HostMemory
    from simvirt.vmm.shadow_paging.guest_physical import GuestPhysical
    from simvirt.vmm.shadow_paging.guest_walk import GuestWalk

_PDPT_LEVEL: Final = 3
_DIRECTORY_LEVEL: Final = 2
_ENTRY_OF_TABLE: Final = 0xFFFF_F000
_FREE_RIGHTS: Final = P | W | U | A
"""Of a link whose rights are another level's business."""


class OutOfFramesError(Exception):
    """The VMM has no frame left for another table: all shadows have to go."""


class VmmWindow:
    """Where the VMM's own pages lie in every address space of the guest's: one entry of a shadow page directory.

    :ivar base: linear address, a multiple of 2 MiB.
    :ivar table: the shadow table that maps them.
    """

    def __init__(self, base: int, table: ShadowTable) -> None:
        self.base = base
        self.table = table

    @property
    def index(self) -> int:
        """Number of its entry in the page directory."""
        return self.base >> 21 & ENTRIES - 1

    def lies_below(self, linear: int, level: int) -> bool:
        """Does a table of `level` that translates `linear` lead to the window?"""
        return not (linear ^ self.base) >> PAGE_SHIFT + INDEX_BITS * level


class ShadowCache:
    """The tables and their frames.

    :ivar window: the VMM's own pages.
    :ivar stale: the processor may hold translations that are none any more; whoever flushes them clears it.
    :ivar by_frame: the shadows of the tables in each guest page.
    """

    def __init__(self, memory: HostMemory, physical: GuestPhysical, frames: range, window_base: int) -> None:
        self._words = memory.view.cast("Q")
        self._physical = physical
        self._frames = frames
        self._free = list(frames)  # a heap: which frames are in use says which is next
        self._by_key: dict[TableKey, ShadowTable] = {}
        self._roots: dict[tuple[Role, int], ShadowTable] = {}
        """What `root` has given, until a root is given up; keys of tables take long to hash."""
        self.by_frame: dict[int, dict[ShadowTable, None]] = {}
        self._mapped: dict[int, dict[tuple[ShadowTable, int], None]] = {}
        self._copies: dict[int, bytearray] = {}
        self._others: frozenset[int] = frozenset()
        self.stale = False
        self.window = VmmWindow(window_base, self._new(None, LEAF_LEVEL))

    @property
    def tables(self) -> int:
        """Tables in use."""
        return len(self._frames) - len(self._free)

    # ---------------------------------------------------------------------------------------- tables

    def _new(self, key: TableKey | None, level: int) -> ShadowTable:
        if not self._free:
            raise OutOfFramesError
        frame = heappop(self._free)
        return ShadowTable(key, level, frame, self._entries(frame))

    def _entries(self, frame: int) -> memoryview:
        return self._words[frame * ENTRIES : (frame + 1) * ENTRIES]

    def keyed(self, key: TableKey, window_at: int | None = None) -> ShadowTable:
        """The shadow that `key` names, made if need be; `window_at` is the entry that leads to the VMM's pages.

        :raises OutOfFramesError: no frame is left.
        """
        table = self._by_key.get(key)
        if table is None:
            table = self._new(key, key.level)
            self._by_key[key] = table
            if not (key.level == _PDPT_LEVEL and key.role.form is not PAGING_4_LEVEL):
                self.by_frame.setdefault(key.frame, {})[table] = None
                self._trace(key.frame)
            if window_at is not None:
                self._link(table, window_at, self.window.table, P | A)
        return table

    def find(self, key: TableKey) -> ShadowTable | None:
        """The shadow that `key` names, if there is one."""
        return self._by_key.get(key)

    def _link(self, parent: ShadowTable, index: int, child: ShadowTable, bits: int) -> None:
        parent.children[index] = child
        parent.entries[index] = child.frame << PAGE_SHIFT | bits
        child.parents.add((parent, index))
        if parent.level == _PDPT_LEVEL:  # a PDPTE of PAE paging, perhaps, of which the processor has a copy
            self.stale = True

    def clear(self, table: ShadowTable, index: int) -> None:
        """Take one entry out; a table that nothing leads to any more goes with it."""
        if not table.entries[index]:
            return
        if table.level == LEAF_LEVEL:
            page = table.pages.pop(index)
            mappings = self._mapped[page]
            del mappings[table, index]
            if not mappings:
                del self._mapped[page]
        else:
            child = table.children[index]
            if child is self.window.table:
                return
            del table.children[index]
            child.parents.discard((table, index))
            if not child.parents:
                self.release(child)
        table.entries[index] = 0
        self.stale = True

    def release(self, table: ShadowTable) -> None:
        """Give a table up, and what hangs below it alone."""
        for parent, index in list(table.parents):
            del parent.children[index]
            parent.entries[index] = 0
        table.parents.clear()
        for index in list(table.pages if table.level == LEAF_LEVEL else table.children):
            if table.children.get(index) is self.window.table:
                self.window.table.parents.discard((table, index))
                continue
            self.clear(table, index)
        key = table.key
        if key is not None:
            del self._by_key[key]
            if key.level == _PDPT_LEVEL:
                self._roots.clear()
            shadows = self.by_frame.get(key.frame)
            if shadows is not None and table in shadows:
                del shadows[table]
                if not shadows:
                    del self.by_frame[key.frame]
                    self._copies.pop(key.frame, None)
        table.entries[:] = _EMPTY
        heappush(self._free, table.frame)
        self.stale = True

    def clear_all(self) -> None:
        """Forget everything but the VMM's own pages."""
        free = set(self._free)
        for frame in self._frames:
            if frame not in free and frame != self.window.table.frame:
                self._entries(frame)[:] = _EMPTY
        self._free = [frame for frame in self._frames if frame != self.window.table.frame]
        self._by_key.clear()
        self._roots.clear()
        self.by_frame.clear()
        self._mapped.clear()
        self._copies.clear()
        self.window.table.parents.clear()
        self.stale = True

    # ---------------------------------------------------------------------------------------- snapshots

    def save(self) -> tuple[SavedTable, ...]:
        """All tables but the VMM's own, in the order of their frames."""
        tables: dict[int, ShadowTable] = {}
        waiting = [*self._by_key.values()]
        while waiting:
            table = waiting.pop()
            if table.frame not in tables and table is not self.window.table:
                tables[table.frame] = table
                waiting += table.children.values()
        return tuple(
            SavedTable(
                frame,
                table.level,
                None if table.key is None else SavedKey.of(table.key),
                pack(table.entries),
                tuple(sorted(table.root_entries.items())),
            )
            for frame, table in sorted(tables.items())
        )

    def restore(self, saved: Iterable[SavedTable]) -> None:
        """These tables and no others; guest memory is as it was."""
        self.clear_all()
        tables = {self.window.table.frame: self.window.table}
        for one in saved:
            table = ShadowTable(
                None if one.key is None else one.key.key(), one.level, one.frame, self._entries(one.frame)
            )
            table.root_entries.update(one.root_entries)
            table.entries[:] = _EMPTY
            unpack(one.entries, table.entries)
            tables[one.frame] = table
        self._free = [frame for frame in self._frames if frame not in tables]
        for table in tables.values():
            if table is not self.window.table:
                self._take_up(table, tables)

    def _take_up(self, table: ShadowTable, tables: dict[int, ShadowTable]) -> None:
        """Find out again what a table's entries lead to."""
        for index, entry in enumerate(table.entries.tolist()):
            if not entry:
                continue
            frame = (entry & ~XD) >> PAGE_SHIFT
            if table.level > LEAF_LEVEL:
                table.children[index] = tables[frame]
                tables[frame].parents.add((table, index))
            elif (gpa := self._physical.gpa(frame << PAGE_SHIFT)) is not None:
                table.pages[index] = gpa >> PAGE_SHIFT
                self._mapped.setdefault(gpa >> PAGE_SHIFT, {})[table, index] = None
        key = table.key
        if key is not None:
            self._by_key[key] = table
            if not (key.level == _PDPT_LEVEL and key.role.form is not PAGING_4_LEVEL):
                self.by_frame.setdefault(key.frame, {})[table] = None
                if self._physical.is_ram(key.frame << PAGE_SHIFT):
                    self._copies[key.frame] = bytearray(self._physical.read_page(key.frame))

    # ---------------------------------------------------------------------------------------- tracing

    def is_traced(self, page: int) -> bool:
        """Is a guest page write-protected?"""
        return page in self.by_frame or page in self._others

    def holds_tables(self, page: int) -> bool:
        """Does a guest page hold a table that has a shadow?"""
        return page in self.by_frame

    def trace_others(self, pages: frozenset[int]) -> None:
        """Trace these guest pages too, for reasons of somebody else's, and no others of theirs any more."""
        new = pages - self._others
        self._others = pages
        for page in new:
            self._write_protect(page)

    def _trace(self, page: int) -> None:
        if page not in self._copies and self._physical.is_ram(page << PAGE_SHIFT):
            self._copies[page] = bytearray(self._physical.read_page(page))
            self._write_protect(page)

    def _write_protect(self, page: int) -> None:
        for table, index in self._mapped.get(page, ()):
            if table.entries[index] & W:
                table.entries[index] &= ~W
                self.stale = True

    def leaf(self, root: ShadowTable, linear: int) -> tuple[ShadowTable, int]:
        """The entry that maps `linear`, which `fill` has made."""
        table = root
        for level in range(root.level, LEAF_LEVEL, -1):
            table = table.children[linear >> PAGE_SHIFT + INDEX_BITS * (level - 1) & ENTRIES - 1]
        return table, linear >> PAGE_SHIFT & ENTRIES - 1

    def close(self, page: int) -> None:
        """No entry lets this page be written any more."""
        self._write_protect(page)

    def flag_was_set(self, gpa: int, size: int) -> None:
        """The VMM itself has set a flag in an entry of the guest's: no change that a shadow has to follow."""
        copy = self._copies.get(gpa >> PAGE_SHIFT)
        if copy is not None:
            at = gpa & PAGE_SIZE - 1
            copy[at : at + size] = self._physical.read_entry(gpa, size).to_bytes(size, "little")

    def sync(self, page: int) -> list[int]:
        """A guest page with tables may have been written: drop the entries that say something else now.

        :return: the guest-physical addresses of the words that have changed.
        """
        copy = self._copies.get(page)
        if copy is None:
            return []
        now = self._physical.read_page(page)
        if now == copy:
            return []
        changed = [at for at in range(0, PAGE_SIZE, 4) if now[at : at + 4] != copy[at : at + 4]]
        self._copies[page] = bytearray(now)
        for table in list(self.by_frame.get(page, ())):
            if table.key is None or self._by_key.get(table.key) is not table:
                continue  # went with another one
            size = table.key.role.form.entry_size
            for entry in dict.fromkeys(at // size for at in changed):
                for index in table.indices_of(entry):
                    self.clear(table, index)
        return [(page << PAGE_SHIFT) + at for at in changed]

    # ---------------------------------------------------------------------------------------- fills

    def root(self, role: Role, guest_root: int, pdptes: tuple[int, ...]) -> ShadowTable:
        """The table that the real CR3 points to for a guest's CR3 and PDPTE registers; the VMM's pages are below it.

        :raises OutOfFramesError: no frame is left.
        """
        if role.form is PAGING_4_LEVEL:
            return self.keyed(TableKey(guest_root >> PAGE_SHIFT, 4, 0, role, with_vmm=True))
        root = self._roots.get((role, guest_root))
        if root is None:
            shift = 5 if role.form is PAGING_PAE else PAGE_SHIFT
            root = self.keyed(TableKey(guest_root >> shift, _PDPT_LEVEL, 0, role, with_vmm=True))
            self._roots[role, guest_root] = root
        if role.form is PAGING_PAE:
            for index in [i for i, entry in root.root_entries.items() if entry != pdptes[i]]:
                self.clear(root, index)
                del root.root_entries[index]
        index = self.window.base >> 30
        if index not in root.children:
            if role.form is PAGING_32_BIT:
                key = TableKey(guest_root >> PAGE_SHIFT, _DIRECTORY_LEVEL, index, role, with_vmm=True)
                self._link(root, index, self.keyed(key, self.window.index), P)
            else:
                directory = self._new(None, _DIRECTORY_LEVEL)
                self._link(directory, self.window.index, self.window.table, P | A)
                self._link(root, index, directory, P)
        return root

    def fill(self, root: ShadowTable, role: Role, linear: int, found: GuestWalk) -> None:
        """Enter the translation that a walk has found, whose flags are set in the guest's tables.

        :raises OutOfFramesError: no frame is left.
        """
        table = root
        for level in range(root.level, LEAF_LEVEL, -1):
            index = linear >> PAGE_SHIFT + INDEX_BITS * (level - 1) & ENTRIES - 1
            if level == _PDPT_LEVEL and role.form is PAGING_PAE:
                self._follow_root_entry(table, index, found.entries[0][1])
            child = table.children.get(index)
            if child is None:
                child = self._below(role, linear, level, found)
                self._link(table, index, child, _link_bits(role, level, found))
            table = child
        index = linear >> PAGE_SHIFT & ENTRIES - 1
        page = found.gpa >> PAGE_SHIFT
        host = self._physical.host(page << PAGE_SHIFT)
        if host is None:
            return
        entry = _rights(role, found.entries[-1][1]) if found.level == LEAF_LEVEL else _FREE_RIGHTS
        if not found.entries[-1][1] & D or self.is_traced(page) or not self._physical.is_ram(found.gpa):
            entry &= ~W
        if index not in table.pages:
            table.pages[index] = page
            self._mapped.setdefault(page, {})[table, index] = None
        table.entries[index] = host | entry | A | D

    def _follow_root_entry(self, root: ShadowTable, index: int, entry: int) -> None:
        """PDPTEs are registers and not traced: a link is as good as the entry that it was made from."""
        if root.root_entries.get(index) != entry:
            self.clear(root, index)
            root.root_entries[index] = entry

    def _below(self, role: Role, linear: int, level: int, found: GuestWalk) -> ShadowTable:
        """The table that an entry of this level leads to on the way to `linear`."""
        child_level = level - 1
        with_vmm = child_level > LEAF_LEVEL and self.window.lies_below(linear, child_level)
        window_at = self.window.index if with_vmm and child_level == _DIRECTORY_LEVEL else None
        if role.form is PAGING_32_BIT:
            if child_level == _DIRECTORY_LEVEL:
                guest_table, part = found.entries[0][0], linear >> 30
            elif found.level == LEAF_LEVEL:
                guest_table, part = found.entries[1][0], linear >> 21 & 1
            else:
                return self._new(None, child_level)
        elif found.level <= child_level:
            guest_table, part = found.entries[len(role.form.levels) - child_level][0], 0
        else:
            return self._new(None, child_level)
        return self.keyed(TableKey(guest_table >> PAGE_SHIFT, child_level, part, role, with_vmm), window_at)


def _rights(role: Role, entry: int) -> int:
    """Rights of a shadow entry by the guest's."""
    rights = P | A | entry & (W | U)
    if role.execute_disable:
        rights |= entry & XD
    return rights | W if role.ignores_write_protection else rights


def _link_bits(role: Role, level: int, found: GuestWalk) -> int:
    """Bits of an entry of `level` that leads to a table."""
    if role.form is PAGING_32_BIT:
        return P if level == _PDPT_LEVEL else _rights(role, found.entries[0][1])
    if role.form is PAGING_PAE and level == _PDPT_LEVEL:
        return P
    if level < found.level:  # below the entry that maps a large page
        return _FREE_RIGHTS
    return _rights(role, found.entries[len(role.form.levels) - level][1])


_EMPTY: Final = memoryview(bytes(PAGE_SIZE)).cast("Q")
