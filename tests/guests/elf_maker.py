"""Makes ELF files, sound or broken in one named way, field by field from the System V ABI."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

HEADER_SIZE = 52
PROGRAM_SIZE = 32


@dataclass(frozen=True)
class Load:
    """A program header and the bytes that it loads."""

    address: int
    data: bytes
    memory_size: int | None = None
    virtual: int | None = None
    type: int = 1
    file_size: int | None = None
    offset: int | None = None


@dataclass(frozen=True)
class Header:
    """The fields of the file header that tests vary."""

    entry: int
    elf_class: int = 1
    encoding: int = 1
    type: int = 2
    machine: int = 3
    program_size: int = PROGRAM_SIZE
    program_count: int | None = None
    program_offset: int = HEADER_SIZE
    ident_rest: bytes = field(default=b"\x01" + bytes(9))


def make_elf(header: Header, loads: Sequence[Load]) -> bytes:
    """An executable without sections."""
    count = len(loads) if header.program_count is None else header.program_count
    ident = b"\x7fELF" + bytes([header.elf_class, header.encoding]) + header.ident_rest
    rest = (header.type, header.machine, 1, header.entry, header.program_offset, 0, 0, HEADER_SIZE)
    head = ident + struct.pack("<HHIIIIIHHHHHH", *rest, header.program_size, count, 40, 0, 0)
    programs, body = b"", b""
    body_at = HEADER_SIZE + PROGRAM_SIZE * len(loads)
    for load in loads:
        offset = body_at + len(body) if load.offset is None else load.offset
        file_size = len(load.data) if load.file_size is None else load.file_size
        memory_size = len(load.data) if load.memory_size is None else load.memory_size
        virtual = load.address if load.virtual is None else load.virtual
        programs += struct.pack("<8I", load.type, offset, virtual, load.address, file_size, memory_size, 7, 1)
        body += load.data
    return head + programs + body


CODE = b"\xf4\xeb\xfd"  # hlt, again and again


def simple_elf(address: int = 0x100000, **load: int) -> bytes:
    """One segment of code, entered at its start."""
    return make_elf(Header(address), [Load(address, CODE, **load)])
