"""Symbols from a file beside the image: an ELF file with a symbol table, Linux's System.map, or what nm prints."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.elf import elf_symbols, is_elf
from simvirt.guests.recognise import read_file
from simvirt.guests.symbols import Symbol, SymbolTable
from simvirt.x86.addresses import Gva

if TYPE_CHECKING:
    from pathlib import Path

_LINE: Final = re.compile(r"([0-9a-fA-F]{1,16})(?: ([0-9a-fA-F]{1,16}))? ([A-Za-z?-]) (\S+)(?:\t\S+)?")
"""Address, size with `nm -S`, type, name; /proc/kallsyms adds the module behind a tab."""
_NO_PLACE: Final = "aAuUwv"
"""Types of nm's whose values are no addresses in the guest."""


def read_symbols(path: Path) -> SymbolTable:
    """The symbols that a file lists.

    Raises:
        ImageError: it cannot be read, or lists no symbols.
    """
    data = read_file(path, "a file of symbols")
    symbols = elf_symbols(data, str(path)) if is_elf(data) else list(_listed(data, path))
    if not symbols:
        raise ImageError(str(path), "has no symbols", "was it stripped? Give the file that it was made from")
    return SymbolTable.of(symbols)


def _listed(data: bytes, path: Path) -> list[Symbol]:
    symbols = []
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        match = _LINE.fullmatch(line.rstrip())
        if match is not None:
            address, size, kind, name = match.groups()
            if kind not in _NO_PLACE:
                symbols.append(Symbol(Gva(int(address, 16)), int(size or "0", 16), name))
        elif line.strip() and not line.lstrip().startswith(("U ", "w ", "v ")):
            raise ImageError(
                f"{path}:{number}",
                "neither an ELF file nor a list of symbols",
                "each line of a list is an address, a letter for the type, and a name, as nm prints them",
            )
    return symbols
