"""Shadow tables as a value, for snapshots: a restored machine has no hidden fault more, and none less."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from simvirt.vmm.shadow_paging.shadow_table import ENTRIES, Role, TableKey
from simvirt.x86.paging import PAGING_4_LEVEL, PAGING_32_BIT, PAGING_PAE

_FORMS: Final = (PAGING_32_BIT, PAGING_PAE, PAGING_4_LEVEL)
_ENTRY: Final = struct.Struct("<HQ")


@dataclass(frozen=True, slots=True)
class SavedKey:
    """A `TableKey`, its paging mode by number."""

    frame: int
    level: int
    part: int
    with_vmm: bool
    form: int
    page_size_extensions: bool
    execute_disable: bool
    ignores_write_protection: bool

    @classmethod
    def of(cls, key: TableKey) -> SavedKey:
        """From the key itself."""
        role = key.role
        return cls(
            key.frame,
            key.level,
            key.part,
            key.with_vmm,
            _FORMS.index(role.form),
            role.page_size_extensions,
            role.execute_disable,
            role.ignores_write_protection,
        )

    def key(self) -> TableKey:
        """The key that was saved."""
        role = Role.of(
            _FORMS[self.form],
            page_size_extensions=self.page_size_extensions,
            execute_disable=self.execute_disable,
            ignores_write_protection=self.ignores_write_protection,
        )
        return TableKey(self.frame, self.level, self.part, role, self.with_vmm)


@dataclass(frozen=True, slots=True)
class SavedTable:
    """One table; of its entries those that are present."""

    frame: int
    level: int
    key: SavedKey | None
    entries: bytes
    root_entries: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ShadowState:
    """All of them, where the VMM's own pages are, and how often each guest page was written without being used."""

    window_base: int
    tables: tuple[SavedTable, ...]
    unused_writes: tuple[tuple[int, int], ...]


def pack(entries: memoryview) -> bytes:
    """The entries that are present, with their numbers."""
    values = entries.tolist()
    return b"".join(_ENTRY.pack(i, value) for i, value in enumerate(values) if value)


def unpack(data: bytes, entries: memoryview) -> None:
    """Put them back."""
    for index, value in _ENTRY.iter_unpack(data):
        if index < ENTRIES:
            entries[index] = value
