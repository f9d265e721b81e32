"""Symbols from a file beside the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simvirt.errors import ImageError
from simvirt.guests import catalogue
from simvirt.guests.resolve import resolve
from simvirt.guests.symbol_file import read_symbols

if TYPE_CHECKING:
    from pathlib import Path


def test_what_nm_prints(tmp_path: Path) -> None:
    file = tmp_path / "System.map"
    file.write_text(
        "ffffffff81000000 T _text\nffffffff81000040 00000020 t secondary\n         U elsewhere\n0001 A fixed\n"
    )
    symbols = read_symbols(file)
    assert [(symbol.address, symbol.size, symbol.name) for symbol in symbols] == [
        (0xFFFFFFFF81000000, 0, "_text"),
        (0xFFFFFFFF81000040, 0x20, "secondary"),
    ]


def test_kallsyms_names_the_module(tmp_path: Path) -> None:
    file = tmp_path / "kallsyms"
    file.write_text("c1000000 T startup\nd0000000 t probe\t[virtio_blk]\n")
    assert read_symbols(file).address("probe") == 0xD0000000


def test_an_elf_file(tmp_path: Path) -> None:
    file = tmp_path / "kernel"
    image = catalogue.find("hello").image()
    assert image.path is not None
    file.write_bytes(image.path.read_bytes())
    assert list(resolve("spin", symbols=file).symbols) == list(image.symbols)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "has no symbols"),
        (b"c1000000 T ok\nnot a symbol at all, friend\n", ":2"),
        (b"\x7fELF\x01\x01", "truncated"),
        (bytes(range(256)), "neither an ELF file nor a list"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "symbols"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=told):
        read_symbols(file)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_symbols(tmp_path / "none")
