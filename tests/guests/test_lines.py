from __future__ import annotations

from simvirt.guests import catalogue
from simvirt.guests.lines import LineRow, LineTable, read_dwarf_lines
from simvirt.x86.addresses import Gva


def test_the_line_before_holds_until_the_next() -> None:
    table = LineTable(lambda: [LineRow(Gva(8), "a.c", 2), LineRow(Gva(4), "a.c", 1), LineRow(Gva(12), None, 0)])
    assert [table.lookup(Gva(address)) for address in (3, 4, 7, 8, 11, 12)] == [
        None,
        ("a.c", 1),
        ("a.c", 1),
        ("a.c", 2),
        ("a.c", 2),
        None,
    ]


def test_a_sequence_that_starts_where_another_ends_wins() -> None:
    table = LineTable(lambda: [LineRow(Gva(4), "b.c", 7), LineRow(Gva(4), None, 0)])
    assert table.lookup(Gva(4)) == ("b.c", 7)


def test_a_catalogue_guest_names_its_source_line() -> None:
    entry = catalogue.find("sensitive")
    image = entry.image()
    site = image.symbols.address("site_sgdt")
    assert site is not None
    assert image.lines is not None
    file, line = image.lines.lookup(site) or ("", 0)
    assert file == "sensitive/probes.S"
    assert "sgdtl" in (catalogue.SOURCES / file).read_text(encoding="utf-8").splitlines()[line - 1]


def test_broken_debugging_information_is_none() -> None:
    assert read_dwarf_lines(b"\x7fELF") == []
    data = bytearray(catalogue.find("hello").image_path.read_bytes())
    start = data.index(b"console.c\0")  # inside the file tables
    data[start - 200 : start] = b"\xff" * 200
    assert isinstance(read_dwarf_lines(bytes(data)), list)
