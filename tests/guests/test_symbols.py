from __future__ import annotations

from simvirt.guests.symbols import Symbol, SymbolTable
from simvirt.x86.addresses import Gva


def table(*symbols: tuple[int, int, str]) -> SymbolTable:
    return SymbolTable.of(Symbol(Gva(address), size, name) for address, size, name in symbols)


def test_a_function_covers_its_size_and_no_more() -> None:
    names = table((0x100, 0x10, "f"))
    assert names.lookup(Gva(0xFF)) is None
    assert names.lookup(Gva(0x10F)) == ("f", 0xF)
    assert names.lookup(Gva(0x110)) is None


def test_a_label_in_a_function_ends_with_it() -> None:
    names = table((0x100, 0x10, "f"), (0x108, 0, "site"), (0x120, 0x10, "g"))
    assert names.lookup(Gva(0x107)) == ("f", 7)
    assert names.lookup(Gva(0x10F)) == ("site", 7)
    assert names.lookup(Gva(0x110)) is None


def test_a_label_outside_functions_reaches_to_the_next_one() -> None:
    names = table((0x100, 0, "label"), (0x120, 0x10, "g"))
    assert names.lookup(Gva(0x11F)) == ("label", 0x1F)
    assert names.lookup(Gva(0x120)) == ("g", 0)


def test_the_enclosing_function_shows_again_behind_an_inner_one() -> None:
    names = table((0x100, 0x40, "outer"), (0x110, 0x10, "inner"))
    assert names.lookup(Gva(0x118)) == ("inner", 8)
    assert names.lookup(Gva(0x128)) == ("outer", 0x28)


def test_a_function_is_preferred_to_a_label_at_its_start() -> None:
    assert table((0x100, 0, "start_label"), (0x100, 0x10, "f")).lookup(Gva(0x104)) == ("f", 4)


def test_nothing_is_read_before_it_is_asked_for() -> None:
    reads = []

    def read() -> list[Symbol]:
        reads.append(1)
        return [Symbol(Gva(1), 1, "a")]

    names = SymbolTable(read)
    assert not reads
    assert names.address("a") == 1
    assert names.address("b") is None
    assert len(names) == len(reads) == 1
