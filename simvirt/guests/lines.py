"""Source lines for guest addresses, from the line programs of an ELF image (DWARF Version 4, §6.2)."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from simvirt.x86.addresses import Gva

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class LineRow(NamedTuple):
    """From ``address`` on the code comes from this line; ``file`` is None where a sequence of code ends."""

    address: Gva
    file: str | None
    line: int


class LineTable:
    """The line table of an image, read on the first question.

    >>> table = LineTable(lambda: [LineRow(Gva(0x1000), "main.c", 3), LineRow(Gva(0x1008), None, 0)])
    >>> table.lookup(Gva(0x1004)), table.lookup(Gva(0x1008))
    (('main.c', 3), None)
    """

    __slots__ = ("_read", "_rows")

    def __init__(self, read: Callable[[], Iterable[LineRow]]) -> None:
        self._read = read
        self._rows: list[LineRow] | None = None

    def lookup(self, address: Gva) -> tuple[str, int] | None:
        """Source file (relative to where it was built) and line of an instruction; None where the table has none."""
        if self._rows is None:
            self._rows = sorted(self._read(), key=lambda row: (row.address, row.file is not None))
        index = bisect_right(self._rows, address, key=lambda row: row.address) - 1
        if index < 0 or self._rows[index].file is None:
            return None
        row = self._rows[index]
        return (row.file, row.line) if row.file is not None else None


def read_dwarf_lines(data: bytes) -> list[LineRow]:
    """The rows of every line program of an ELF image; none where the debugging information is broken.

    Reading a source line must not be what stops a run: pyelftools meets damaged input with whatever exception its
    parsing runs into, so all of them mean that there are no lines.
    """
    from io import BytesIO

    from elftools.elf.elffile import ELFFile

    rows: list[LineRow] = []
    try:
        dwarf = ELFFile(BytesIO(data)).get_dwarf_info()
        for unit in dwarf.iter_CUs():
            program = dwarf.line_program_for_CU(unit)
            if program is None:
                continue
            directory = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
            names = _file_names(program.header, directory.value.decode() if directory else "")
            for entry in program.get_entries():
                if (state := entry.state) is not None:
                    file = None if state.end_sequence else names[state.file]
                    rows.append(LineRow(Gva(state.address), file, state.line))
    except Exception:  # noqa: BLE001 -- see above
        return []
    return rows


def _file_names(header: object, compilation_directory: str) -> list[str]:
    """The file table: up to version 4 numbered from 1, with the compilation directory as directory 0; then from 0."""
    from posixpath import join, normpath

    version = header["version"]  # type: ignore[index]
    directories = [name.decode() for name in header["include_directory"]]  # type: ignore[index]
    if version < 5:
        directories.insert(0, "")
    entries = header["file_entry"]  # type: ignore[index]
    names = [
        normpath(join(compilation_directory, directories[entry["dir_index"]], entry["name"].decode()))
        for entry in entries
    ]
    return names if version >= 5 else ["", *names]
