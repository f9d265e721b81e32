from __future__ import annotations

import io
import random
import shutil
import subprocess
from posixpath import normpath

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import given, settings
from hypothesis import strategies as st

from simvirt.errors import ImageError
from simvirt.guests import catalogue
from simvirt.guests.elf import elf_image
from simvirt.guests.image import BootProtocol, ImageKind
from simvirt.guests.recognise import recognise
from simvirt.x86.addresses import Gpa, Gva
from tests.guests.elf_maker import CODE, Header, Load, make_elf, simple_elf

HELLO = catalogue.find("hello").image_path.read_bytes()
NAMES = [entry.name for entry in catalogue.guests()]


@pytest.mark.parametrize("name", NAMES)
def test_segments_and_entry_are_what_pyelftools_reads(name: str) -> None:
    data = catalogue.find(name).image_path.read_bytes()
    image = elf_image(data, name)
    reference = ELFFile(io.BytesIO(data))
    loads = [segment for segment in reference.iter_segments() if segment["p_type"] == "PT_LOAD"]
    assert [(s.gpa, s.data, s.memory_size) for s in image.segments] == [
        (load["p_paddr"], load.data(), load["p_memsz"]) for load in loads
    ]
    assert image.entry == reference["e_entry"]


@pytest.mark.parametrize("name", NAMES)
def test_symbols_are_what_pyelftools_reads(name: str) -> None:
    data = catalogue.find(name).image_path.read_bytes()
    table = ELFFile(io.BytesIO(data)).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    expected = {
        (symbol["st_value"], symbol["st_size"], symbol.name)
        for symbol in table.iter_symbols()
        if symbol.name and symbol["st_info"]["type"] in {"STT_FUNC", "STT_OBJECT", "STT_NOTYPE"}
        if isinstance(symbol["st_shndx"], int)
    }
    assert {(s.address, s.size, s.name) for s in elf_image(data, name).symbols} == expected
    assert expected


@pytest.mark.skipif(shutil.which("addr2line") is None, reason="binutils' addr2line is not installed")
def test_lines_are_what_addr2line_says() -> None:
    entry = catalogue.find("rings")
    image = entry.image()
    code = image.segments[0]
    addresses = list(range(image.entry, code.gpa + len(code.data), 7))
    command = ["addr2line", "-e", str(entry.image_path), *(hex(address) for address in addresses)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert image.lines is not None
    compared = 0
    for address, line in zip(addresses, said, strict=True):
        file, number = line.split(" ")[0].rsplit(":", 1)
        found = image.lines.lookup(Gva(address))
        if found is None or not number.isdigit() or number == "0":
            continue
        assert found == (normpath(file), int(number)), hex(address)
        compared += 1
    assert compared > len(addresses) // 2


def test_an_elf_without_multiboot_header_starts_in_flat_protected_mode() -> None:
    image = recognise(simple_elf(), "tiny")
    assert (image.kind, image.boot, image.entry) == (ImageKind.ELF, BootProtocol.PROTECTED_FLAT, 0x100000)
    assert image.lines is None
    assert image.symbols.lookup(Gva(0x100000)) is None


def test_entry_is_translated_to_the_physical_address() -> None:
    data = make_elf(Header(0xC0100001), [Load(0x100000, CODE, virtual=0xC0100000)])
    assert elf_image(data, "high").entry == 0x100001


@pytest.mark.parametrize("size", [*range(4, 200), *range(200, len(HELLO), 977)])
def test_a_truncated_file_is_refused_or_has_lost_only_names(size: int) -> None:
    cut = HELLO[:size]
    try:
        image = elf_image(cut, "cut")
    except ImageError:
        return
    assert image.segments == elf_image(HELLO, "whole").segments
    assert list(image.symbols) == []


def test_every_cut_into_what_is_loaded_is_refused() -> None:
    end = max(load["p_offset"] + load["p_filesz"] for load in ELFFile(io.BytesIO(HELLO)).iter_segments())
    for size in range(4, end, 61):
        with pytest.raises(ImageError):
            elf_image(HELLO[:size], "cut")


BROKEN = {
    "64-bit": (
        make_elf(Header(0x100000, elf_class=2, machine=62), [Load(0x100000, CODE)]),
        "program headers claim 0 bytes",
    ),
    "big-endian": (make_elf(Header(0x100000, encoding=2), [Load(0x100000, CODE)]), "not 32-bit little-endian"),
    "Arm": (make_elf(Header(0x100000, machine=40), [Load(0x100000, CODE)]), "for Arm, not for the 386"),
    "object file": (make_elf(Header(0x100000, type=1), [Load(0x100000, CODE)]), "was not linked"),
    "shared": (make_elf(Header(0x100000, type=3), [Load(0x100000, CODE)]), "shared or position-independent"),
    "nothing to load": (make_elf(Header(0x100000), []), "without program headers"),
    "only notes": (make_elf(Header(0x100000), [Load(0x100000, CODE, type=4)]), "loads anything"),
    "dynamic": (make_elf(Header(0x100000), [Load(0x100000, CODE), Load(0, b"", type=2)]), "dynamically linked"),
    "header size": (make_elf(Header(0x100000, program_size=56), [Load(0x100000, CODE)]), "claim 56 bytes"),
    "header place": (make_elf(Header(0x100000, program_offset=1 << 31), [Load(0x100000, CODE)]), "behind the end"),
    "header count": (make_elf(Header(0x100000, program_count=65535), [Load(0x100000, CODE)]), "behind the end"),
    "file size": (simple_elf(file_size=0x7FFFFFFF, memory_size=0x7FFFFFFF), "but the file ends at"),
    "more in file": (simple_elf(memory_size=1), "more bytes in the file"),
    "file offset": (simple_elf(offset=0xFFFFFFF0), "but the file ends at"),
    "wraps": (simple_elf(address=0xFFFFF000, memory_size=0x2000), "wraps around at 4 GiB"),
    "overlap": (
        make_elf(Header(0x100000), [Load(0x101000, CODE), Load(0x100000, CODE, memory_size=0x1001)]),
        "overlaps the one from 0x100000 to 0x101001",
    ),
    "entry": (make_elf(Header(0x200000), [Load(0x100000, CODE)]), "entry point 0x200000 lies in none"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_with_the_reason(what: str) -> None:
    data, message = BROKEN[what]
    with pytest.raises(ImageError, match=message) as caught:
        recognise(data, "broken.elf")
    assert str(caught.value).startswith("broken.elf: ")
    assert caught.value.advice


def test_a_huge_segment_costs_nothing() -> None:
    image = elf_image(simple_elf(memory_size=0xEFF00000), "huge")
    assert image.segments[0].memory_size == 0xEFF00000
    assert len(image.segments[0].data) == len(CODE)


def _use(data: bytes) -> None:
    """Everything that may be asked of an image."""
    image = recognise(data, "fuzz")
    image.symbols.lookup(Gva(image.entry))
    image.symbols.address("guest_main")
    if image.lines is not None:
        image.lines.lookup(Gva(image.entry))


def test_mutations_of_a_sound_file_raise_nothing_but_image_error() -> None:
    generator = random.Random(2000)
    interesting = [0, 1, 0x7F, 0x80, 0xFF]
    refused = 0
    for _ in range(600):
        data = bytearray(HELLO)
        for _ in range(generator.randrange(1, 8)):
            # half of the changes in the headers, where they matter most
            place = generator.choice(
                [generator.randrange(4, 160), generator.randrange(len(data)), len(data) - 1 - generator.randrange(680)]
            )
            data[place] = generator.choice([*interesting, generator.randrange(256)])
        del data[generator.choice([len(data), generator.randrange(len(data))]) :]
        try:
            _use(bytes(data))
        except ImageError:
            refused += 1
    assert 100 < refused < 600


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_behind_the_magic_raise_nothing_but_image_error(rest: bytes) -> None:
    with pytest.raises(ImageError):
        _use(b"\x7fELF" + rest)


def test_gpa_is_the_physical_address() -> None:
    image = elf_image(make_elf(Header(0xC0000000), [Load(0x200000, CODE, virtual=0xC0000000)]), "moved")
    assert image.segments[0].gpa == Gpa(0x200000)
