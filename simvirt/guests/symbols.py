"""Names for guest addresses, from an ELF symbol table."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from simvirt.x86.addresses import Gva

END_OF_ADDRESSES: Final = 1 << 64


@dataclass(frozen=True, slots=True, order=True)
class Symbol:
    """A named address; ``size`` is 0 where the source did not say how far the name reaches (a label in assembly)."""

    address: Gva
    size: int
    name: str


class SymbolTable:
    """The symbols of an image, read on the first question; a label reaches no further than to `end`.

    >>> from simvirt.x86.addresses import Gva
    >>> table = SymbolTable.of([Symbol(Gva(0x1000), 0x20, "main"), Symbol(Gva(0x1008), 0, "loop")])
    >>> table.lookup(Gva(0x1004)), table.lookup(Gva(0x100A)), table.lookup(Gva(0x1020))
    (('main', 4), ('loop', 2), None)
    >>> table.address("loop") == 0x1008
    True
    """

    __slots__ = ("_end", "_ends", "_read", "_symbols")

    def __init__(self, read: Callable[[], Iterable[Symbol]], end: int = END_OF_ADDRESSES) -> None:
        self._read = read
        self._end = end
        self._symbols: list[Symbol] | None = None
        self._ends: list[int] = []

    @classmethod
    def of(cls, symbols: Iterable[Symbol]) -> SymbolTable:
        """A table of known symbols."""
        return cls(lambda: symbols)

    def __iter__(self) -> Iterator[Symbol]:
        """All symbols, by address."""
        return iter(self._sorted())

    def __len__(self) -> int:
        return len(self._sorted())

    def lookup(self, address: Gva) -> tuple[str, int] | None:
        """The name that covers the address most closely, and the distance from it; None where no name reaches."""
        symbols = self._sorted()
        for index in range(bisect_right(symbols, address, key=lambda symbol: symbol.address) - 1, -1, -1):
            if address < self._ends[index]:
                return symbols[index].name, address - symbols[index].address
        return None

    def address(self, name: str) -> Gva | None:
        """The address of a symbol, or None."""
        return next((symbol.address for symbol in self._sorted() if symbol.name == name), None)

    def _sorted(self) -> list[Symbol]:
        if self._symbols is None:
            self._symbols = sorted(self._read())
            self._ends = _ends(self._symbols, self._end)
        return self._symbols


def _ends(symbols: list[Symbol], end: int) -> list[int]:
    """Where each symbol ends: a label without a size at the end of the function around it, or else at the next one."""
    ends = [symbol.address + symbol.size for symbol in symbols]
    next_sized = end
    for index in range(len(symbols) - 1, -1, -1):
        if symbols[index].size:
            next_sized = symbols[index].address
        else:
            ends[index] = next_sized
    covered_to = 0
    for index, symbol in enumerate(symbols):
        if symbol.size:
            covered_to = max(covered_to, ends[index])
        elif symbol.address < covered_to:
            ends[index] = min(ends[index], covered_to)
    return ends
