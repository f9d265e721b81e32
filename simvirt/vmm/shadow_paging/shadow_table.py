"""One shadow table: 512 entries of PAE or 4-level paging, in a frame of the VMM's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from simvirt.x86.addresses import PAGE_SHIFT
from simvirt.x86.paging import PageEntry

if TYPE_CHECKING:
    from simvirt.x86.paging import PagingFormat

ENTRIES: Final = 512
INDEX_BITS: Final = 9
LEAF_LEVEL: Final = 1


@dataclass(frozen=True, slots=True, eq=False)
class Role:
    """What a table means to the guest besides its contents: shadows of one table in two roles differ.

    `Role.of` gives one object for each, which keys of tables are quick to compare by.

    :ivar ignores_write_protection: for a kernel that runs with CR0.WP clear; user code never runs on this root.
    """

    form: PagingFormat
    page_size_extensions: bool
    execute_disable: bool
    ignores_write_protection: bool

    @classmethod
    @cache
    def of(
        cls,
        form: PagingFormat,
        *,
        page_size_extensions: bool,
        execute_disable: bool,
        ignores_write_protection: bool,
    ) -> Role:
        """The role of these properties."""
        return cls(form, page_size_extensions, execute_disable, ignores_write_protection)


@dataclass(frozen=True, slots=True)
class TableKey:
    """What a table is the shadow of.

    :ivar frame: number of the guest page that holds the guest's table; of a PAE root, CR3 >> 5.
    :ivar level: 1 for a shadow of PTEs.
    :ivar part: which part of it: a table of 1024 entries has two or four shadows.
    :ivar with_vmm: the VMM's own pages are below it.
    """

    frame: int
    level: int
    part: int
    role: Role
    with_vmm: bool


class ShadowTable:
    """A table, what it links to, and what links to it.

    :ivar key: None for a table that no table of the guest's stands behind: part of a large page, or the VMM's.
    :ivar frame: host page number.
    :ivar address: host-physical address.
    :ivar entries: the table itself.
    :ivar children: the tables that entries lead to, by index; above the leaves.
    :ivar pages: the guest pages that entries map, by index; in the leaves.
    :ivar parents: the entries that lead here.
    :ivar root_entries: of the root of a PAE guest, the PDPTEs that its links were made from.
    """

    __slots__ = ("address", "children", "entries", "frame", "key", "level", "pages", "parents", "root_entries")

    def __init__(self, key: TableKey | None, level: int, frame: int, entries: memoryview) -> None:
        self.key = key
        self.level = level
        self.frame = frame
        self.address = frame << PAGE_SHIFT
        self.entries = entries
        self.children: dict[int, ShadowTable] = {}
        self.pages: dict[int, int] = {}
        self.parents: set[tuple[ShadowTable, int]] = set()
        self.root_entries: dict[int, int] = {}

    def indices_of(self, entry: int) -> range:
        """The shadow entries that stand for entry number `entry` of the guest's table; none where it has no part in it.

        A PDE of 32-bit paging covers 4 MiB, and two shadow PDEs stand for it.
        """
        if self.key is None:
            return range(0)
        if self.key.role.form.entry_size == 8:
            return range(entry, entry + 1)
        per_entry = 2 if self.level > LEAF_LEVEL else 1
        first = entry * per_entry - self.key.part * ENTRIES
        return range(first, first + per_entry) if 0 <= first < ENTRIES else range(0)


P, W, U, A, D = (int(PageEntry[name]) for name in ("PRESENT", "WRITABLE", "USER", "ACCESSED", "DIRTY"))
XD: Final = int(PageEntry.EXECUTE_DISABLE)
