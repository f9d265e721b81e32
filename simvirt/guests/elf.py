"""ELF images: the program headers say what to load where, the section headers hold the names.

Read here and not by a library because every field of a guest's file may be hostile: each is checked once, at the place
where it is used, and nothing is allocated by what a header claims (System V ABI, chapter 4 "Object Files" and chapter 5
"Program Loading"; the Intel386 supplement for the machine number).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from simvirt.errors import ImageError
from simvirt.guests.image import BootProtocol, GuestImage, ImageKind, Segment, refuse_overlaps
from simvirt.guests.lines import LineTable, read_dwarf_lines
from simvirt.guests.symbols import Symbol, SymbolTable
from simvirt.x86.addresses import Gpa, Gva

if TYPE_CHECKING:
    from pathlib import Path

MAGIC: Final = b"\x7fELF"
_EI_CLASS, _EI_DATA = 4, 5
_CLASS_32, _CLASS_64 = 1, 2
_LITTLE_ENDIAN = 1
_TYPE_EXECUTABLE = 2
_MACHINE_386 = 3
_MACHINES: Final = {
    2: "SPARC",
    8: "MIPS",
    20: "PowerPC",
    21: "64-bit PowerPC",
    22: "S/390",
    40: "Arm",
    50: "Itanium",
    62: "x86-64",
    183: "AArch64",
    243: "RISC-V",
    258: "LoongArch",
}
_TYPES: Final = {
    0: "has no type",
    1: "is an object file that was not linked",
    3: "is a shared or position-independent file",
    4: "is a core dump",
}
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_EXECUTABLE, _WRITABLE = 1, 2
_SYMBOL_TABLE_SECTION = 2
_FIRST_RESERVED_SECTION = 0xFF00
_SYMBOL_TYPES_KEPT: Final = (0, 1, 2)  # no type, object, function
_ADDRESSES_END = 1 << 32


class _Header(NamedTuple):
    """Elf32_Ehdr behind e_ident."""

    type: int
    machine: int
    version: int
    entry: int
    program_offset: int
    section_offset: int
    flags: int
    header_size: int
    program_entry_size: int
    program_count: int
    section_entry_size: int
    section_count: int
    section_names: int


class _Program(NamedTuple):
    """Elf32_Phdr."""

    type: int
    offset: int
    virtual: int
    physical: int
    file_size: int
    memory_size: int
    flags: int
    alignment: int


class _Section(NamedTuple):
    """Elf32_Shdr."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


_HEADER = struct.Struct("<HHIIIIIHHHHHH")
_PROGRAM = struct.Struct("<8I")
_SECTION = struct.Struct("<10I")
_SYMBOL = struct.Struct("<IIIBBH")
_IDENT_SIZE = 16


@dataclass(frozen=True, slots=True)
class _File:
    """An ELF file of the right kind, of which only the header has been looked at."""

    data: bytes
    name: str
    header: _Header

    def broken(
        self, reason: str, advice: str = "the file is damaged or was cut short: build or copy it again"
    ) -> ImageError:
        return ImageError(self.name, reason, advice)


def is_elf(data: bytes) -> bool:
    """Whether the bytes claim to be an ELF file."""
    return data.startswith(MAGIC)


def elf_image(data: bytes, name: str, path: Path | None = None, *, multiboot: bool = False) -> GuestImage:
    """An ELF executable for the 386: its loadable segments at their physical addresses.

    The entry point is a virtual address; where it lies in a segment whose physical address differs, the guest is
    entered at the physical one, since paging is off.

    :raises ImageError: the file is truncated or contradicts itself, is for another machine, or is no executable.
    """
    file = _File(data, name, _read_header(data, name))
    programs = _programs(file)
    segments = tuple(_segment(file, program) for program in programs)
    refuse_overlaps(segments, name)
    entry = _entry(file, programs)
    if not any(entry in segment for segment in segments):
        raise file.broken(f"its entry point {entry:#x} lies in none of its segments", "check the linker script's ENTRY")
    sections = _sections(file)
    has_lines = any(_section_name(file, sections, section) == b".debug_line" for section in sections)
    return GuestImage(
        name=name,
        path=path,
        kind=ImageKind.MULTIBOOT if multiboot else ImageKind.ELF,
        sha256=sha256(data).hexdigest(),
        segments=segments,
        entry=entry,
        boot=BootProtocol.MULTIBOOT if multiboot else BootProtocol.PROTECTED_FLAT,
        symbols=SymbolTable(lambda: _symbols(file)),
        lines=LineTable(lambda: read_dwarf_lines(data)) if has_lines else None,
    )


def _read_header(data: bytes, name: str) -> _Header:
    """The file header, refused unless it announces a 32-bit little-endian executable for the 386."""
    cut = ImageError(name, f"a truncated ELF file of {len(data)} bytes", "the header alone takes 52")
    if len(data) <= _EI_DATA:
        raise cut
    if data[_EI_CLASS] == _CLASS_64:
        machine = _MACHINES.get(int.from_bytes(data[18:20], "little"), "another machine")
        raise ImageError(
            name,
            f"a 64-bit ELF file for {machine}, but guests start in 32-bit protected mode",
            "link for 32 bits (-m32, -m elf_i386) and switch to long mode in the guest: entering there is not offered",
        )
    if data[_EI_CLASS] != _CLASS_32 or data[_EI_DATA] != _LITTLE_ENDIAN:
        raise ImageError(
            name, "an ELF file that is not 32-bit little-endian", "guests are built for the 386 (-m elf_i386)"
        )
    if len(data) < _IDENT_SIZE + _HEADER.size:
        raise cut
    header = _Header._make(_HEADER.unpack_from(data, _IDENT_SIZE))
    if header.machine != _MACHINE_386:
        machine = _MACHINES.get(header.machine, f"machine {header.machine}")
        raise ImageError(
            name, f"an ELF file for {machine}, not for the 386", "build the guest with -m32 or for the target i386"
        )
    if header.type != _TYPE_EXECUTABLE:
        kind = _TYPES.get(header.type, f"is of type {header.type}")
        raise ImageError(
            name,
            f"an ELF file that {kind}, not an executable",
            "link it, statically and at fixed addresses (-static -no-pie)",
        )
    return header


def _programs(file: _File) -> list[_Program]:
    """The program headers that load something."""
    header = file.header
    if header.program_count == 0:
        raise file.broken(
            "an ELF file without program headers", "nothing in it says what to load: link it into an executable"
        )
    if header.program_entry_size != _PROGRAM.size:
        raise file.broken(f"its program headers claim {header.program_entry_size} bytes each, not {_PROGRAM.size}")
    if header.program_offset + header.program_count * _PROGRAM.size > len(file.data):
        raise file.broken("its program headers lie behind the end of the file")
    table = [
        _Program._make(_PROGRAM.unpack_from(file.data, header.program_offset + index * _PROGRAM.size))
        for index in range(header.program_count)
    ]
    if any(program.type in (_DYNAMIC, _INTERPRETER) for program in table):
        raise file.broken(
            "a dynamically linked program of an operating system", "a guest is a kernel: link it with -static -nostdlib"
        )
    loaded = [program for program in table if program.type == _LOAD and program.memory_size]
    if not loaded:
        raise file.broken("none of its program headers loads anything", "link code into it")
    return loaded


def _segment(file: _File, program: _Program) -> Segment:
    where = f"its segment at {program.physical:#x}"
    if program.file_size > program.memory_size:
        raise file.broken(
            f"{where} has more bytes in the file ({program.file_size}) than in memory ({program.memory_size})"
        )
    if program.offset + program.file_size > len(file.data):
        raise file.broken(
            f"{where} needs bytes up to {program.offset + program.file_size}, but the file ends at {len(file.data)}"
        )
    if program.physical + program.memory_size > _ADDRESSES_END:
        raise file.broken(
            f"{where} takes {program.memory_size} bytes and so wraps around at 4 GiB",
            "check the linker script's addresses",
        )
    return Segment(
        Gpa(program.physical),
        file.data[program.offset : program.offset + program.file_size],
        program.memory_size,
        writable=bool(program.flags & _WRITABLE),
        executable=bool(program.flags & _EXECUTABLE),
    )


def _entry(file: _File, programs: list[_Program]) -> Gpa:
    entry = file.header.entry
    for program in programs:
        if program.virtual <= entry < program.virtual + program.memory_size:
            return Gpa(entry - program.virtual + program.physical)
    return Gpa(entry)


def _sections(file: _File) -> list[_Section]:
    """The section headers, or none where they are missing or broken: a guest runs without names."""
    header = file.header
    end = header.section_offset + header.section_count * _SECTION.size
    if header.section_offset == 0 or header.section_entry_size != _SECTION.size or end > len(file.data):
        return []
    return [
        _Section._make(_SECTION.unpack_from(file.data, header.section_offset + index * _SECTION.size))
        for index in range(header.section_count)
    ]


def _string(file: _File, table: _Section, offset: int) -> bytes:
    """A string of a string table; empty where it lies outside."""
    table_end = min(table.offset + table.size, len(file.data))
    start = table.offset + offset
    end = file.data.find(b"\0", start, table_end) if start < table_end else -1
    return file.data[start:end] if end >= 0 else b""


def _section_name(file: _File, sections: list[_Section], section: _Section) -> bytes:
    index = file.header.section_names
    return _string(file, sections[index], section.name) if index < len(sections) else b""


def _symbols(file: _File) -> list[Symbol]:
    """Every named function, object and label that lies in a section; none where the table is broken."""
    sections = _sections(file)
    symbols: list[Symbol] = []
    tables = [section for section in sections if section.type == _SYMBOL_TABLE_SECTION][:1]  # the ABI allows one
    for section in tables:
        if section.link >= len(sections) or section.offset + section.size > len(file.data):
            continue
        for offset in range(section.offset, section.offset + section.size - _SYMBOL.size + 1, _SYMBOL.size):
            name, value, size, info, _, section_index = _SYMBOL.unpack_from(file.data, offset)
            text = _string(file, sections[section.link], name)
            if text and info & 0xF in _SYMBOL_TYPES_KEPT and 0 < section_index < _FIRST_RESERVED_SECTION:
                symbols.append(Symbol(Gva(value), size, text.decode("utf-8", "replace")))
    return symbols
