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
_MACHINE_386, _MACHINE_X86_64 = 3, 62
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
_LOAD, _DYNAMIC, _INTERPRETER, _NOTES = 1, 2, 3, 4
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
    """Elf32_Phdr; an Elf64_Phdr has its flags behind the type."""

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


class _Symbol(NamedTuple):
    """Elf32_Sym; an Elf64_Sym has value and size at its end."""

    name: int
    value: int
    size: int
    info: int
    other: int
    section: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a class of ELF files lays its records out; the fields' order is that of the 32-bit one."""

    header: struct.Struct
    program: struct.Struct
    program_order: tuple[int, ...]
    section: struct.Struct
    symbol: struct.Struct
    symbol_order: tuple[int, ...]

    def programs(self, data: bytes, offset: int) -> _Program:
        """The program header at `offset`."""
        fields = self.program.unpack_from(data, offset)
        return _Program._make(fields[place] for place in self.program_order)

    def symbols(self, data: bytes, offset: int) -> _Symbol:
        """The symbol at `offset`."""
        fields = self.symbol.unpack_from(data, offset)
        return _Symbol._make(fields[place] for place in self.symbol_order)


_LAYOUT_32: Final = _Layout(
    struct.Struct("<HHIIIIIHHHHHH"),
    struct.Struct("<8I"),
    (0, 1, 2, 3, 4, 5, 6, 7),
    struct.Struct("<10I"),
    struct.Struct("<IIIBBH"),
    (0, 1, 2, 3, 4, 5),
)
_LAYOUT_64: Final = _Layout(
    struct.Struct("<HHIQQQIHHHHHH"),
    struct.Struct("<IIQQQQQQ"),
    (0, 2, 3, 4, 5, 6, 1, 7),
    struct.Struct("<IIQQQQIIQQ"),
    struct.Struct("<IBBHQQ"),
    (0, 4, 5, 1, 2, 3),
)
_IDENT_SIZE = 16
_NOTE: Final = struct.Struct("<3I")
_PVH_OWNER, _PVH_ENTRY_TYPE = b"Xen\0", 18
"""XEN_ELFNOTE_PHYS32_ENTRY (Xen's public/elfnote.h)."""


@dataclass(frozen=True, slots=True)
class _File:
    """An ELF file of the right kind, of which only the header has been looked at."""

    data: bytes
    name: str
    header: _Header
    layout: _Layout

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
    entered at the physical one, since paging is off. A file with a note that names a PVH entry is entered there, and
    may be a 64-bit one.

    :raises ImageError: the file is truncated or contradicts itself, is for another machine, or is no executable.
    """
    file = _read_header(data, name)
    table = _program_table(file)
    programs = _loaded(file, table)
    segments = tuple(_segment(file, program) for program in programs)
    refuse_overlaps(segments, name)
    pvh_entry = None if multiboot else _pvh_entry(file, table)
    if pvh_entry is None and file.layout is _LAYOUT_64:
        raise ImageError(
            name,
            "a 64-bit ELF file for x86-64, but guests start in 32-bit protected mode",
            "link for 32 bits (-m32, -m elf_i386) and switch to long mode in the guest, or give the file a PVH entry "
            "(an ELF note of Xen's, type 18)",
        )
    entry = _entry(file, programs) if pvh_entry is None else pvh_entry
    if not any(entry in segment for segment in segments):
        raise file.broken(f"its entry point {entry:#x} lies in none of its segments", "check the linker script's ENTRY")
    sections = _sections(file)
    has_lines = any(_section_name(file, sections, section) == b".debug_line" for section in sections)
    kind, boot = ImageKind.ELF, BootProtocol.PROTECTED_FLAT
    if multiboot:
        kind, boot = ImageKind.MULTIBOOT, BootProtocol.MULTIBOOT
    elif pvh_entry is not None:
        kind, boot = ImageKind.PVH, BootProtocol.PVH
    return GuestImage(
        name=name,
        path=path,
        kind=kind,
        sha256=sha256(data).hexdigest(),
        segments=segments,
        entry=entry,
        boot=boot,
        symbols=SymbolTable(lambda: _symbols(file), max(each.virtual + each.memory_size for each in programs)),
        lines=LineTable(lambda: read_dwarf_lines(data)) if has_lines else None,
    )


def elf_symbols(data: bytes, name: str) -> list[Symbol]:
    """The symbols of an ELF executable, which need not be one that can be booted.

    :raises ImageError: as `elf_image`, for what is wrong with the file's header.
    """
    return _symbols(_read_header(data, name))


def _read_header(data: bytes, name: str) -> _File:
    """The file, refused unless its header announces a little-endian executable for the 386 or, of 64 bits, x86-64."""
    cut = ImageError(name, f"a truncated ELF file of {len(data)} bytes", "the header alone takes 52")
    if len(data) <= _EI_DATA:
        raise cut
    classes = {_CLASS_32: (_LAYOUT_32, _MACHINE_386), _CLASS_64: (_LAYOUT_64, _MACHINE_X86_64)}
    if data[_EI_CLASS] not in classes or data[_EI_DATA] != _LITTLE_ENDIAN:
        raise ImageError(
            name, "an ELF file that is not 32-bit little-endian", "guests are built for the 386 (-m elf_i386)"
        )
    layout, expected = classes[data[_EI_CLASS]]
    if len(data) < _IDENT_SIZE + layout.header.size:
        raise cut
    header = _Header._make(layout.header.unpack_from(data, _IDENT_SIZE))
    if header.machine != expected:
        machine = _MACHINES.get(header.machine, f"machine {header.machine}")
        bits = "a 64-bit" if layout is _LAYOUT_64 else "an"
        raise ImageError(
            name, f"{bits} ELF file for {machine}, not for the 386", "build the guest with -m32 or for the target i386"
        )
    if header.type != _TYPE_EXECUTABLE:
        kind = _TYPES.get(header.type, f"is of type {header.type}")
        raise ImageError(
            name,
            f"an ELF file that {kind}, not an executable",
            "link it, statically and at fixed addresses (-static -no-pie)",
        )
    return _File(data, name, header, layout)


def _program_table(file: _File) -> list[_Program]:
    """All program headers."""
    header, size = file.header, file.layout.program.size
    if header.program_count == 0:
        raise file.broken(
            "an ELF file without program headers", "nothing in it says what to load: link it into an executable"
        )
    if header.program_entry_size != size:
        raise file.broken(f"its program headers claim {header.program_entry_size} bytes each, not {size}")
    if header.program_offset + header.program_count * size > len(file.data):
        raise file.broken("its program headers lie behind the end of the file")
    return [
        file.layout.programs(file.data, header.program_offset + index * size) for index in range(header.program_count)
    ]


def _loaded(file: _File, table: list[_Program]) -> list[_Program]:
    """The program headers that load something."""
    if any(program.type in (_DYNAMIC, _INTERPRETER) for program in table):
        raise file.broken(
            "a dynamically linked program of an operating system", "a guest is a kernel: link it with -static -nostdlib"
        )
    loaded = [program for program in table if program.type == _LOAD and program.memory_size]
    if not loaded:
        raise file.broken("none of its program headers loads anything", "link code into it")
    return loaded


def _pvh_entry(file: _File, table: list[_Program]) -> Gpa | None:
    """The physical address of the 32-bit entry that a note of Xen's names; None where there is no such note."""
    for program in table:
        if program.type != _NOTES or program.offset + program.file_size > len(file.data):
            continue
        at, end = program.offset, program.offset + program.file_size
        while at + _NOTE.size <= end:
            owner_size, size, kind = _NOTE.unpack_from(file.data, at)
            owner_at = at + _NOTE.size
            content_at = owner_at + (owner_size + 3 & ~3)
            at = content_at + (size + 3 & ~3)
            owner = file.data[owner_at : owner_at + owner_size]
            if kind == _PVH_ENTRY_TYPE and owner == _PVH_OWNER and at <= end and size in (4, 8):
                return Gpa(int.from_bytes(file.data[content_at : content_at + 4], "little"))
    return None


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
    section = file.layout.section
    end = header.section_offset + header.section_count * section.size
    if header.section_offset == 0 or header.section_entry_size != section.size or end > len(file.data):
        return []
    return [
        _Section._make(section.unpack_from(file.data, header.section_offset + index * section.size))
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
        step = file.layout.symbol.size
        for offset in range(section.offset, section.offset + section.size - step + 1, step):
            symbol = file.layout.symbols(file.data, offset)
            text = _string(file, sections[section.link], symbol.name)
            if text and symbol.info & 0xF in _SYMBOL_TYPES_KEPT and 0 < symbol.section < _FIRST_RESERVED_SECTION:
                symbols.append(Symbol(Gva(symbol.value), symbol.size, text.decode("utf-8", "replace")))
    return symbols
