"""Multiboot 1: how GRUB and QEMU's ``-kernel`` start a kernel (Multiboot Specification, version 0.6.96).

Two structures. The *header* (§3.1) is in the image, somewhere in its first 8192 bytes; it asks for things, and where
the image is no ELF file it says itself what to load where. The *information structure* (§3.3) is what the loader leaves
in low memory for the kernel to read: how much memory there is, the command line, the loader's name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from simvirt.errors import ImageError
from simvirt.guests.image import BootProtocol, GuestImage, ImageKind, Segment
from simvirt.guests.symbols import SymbolTable
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from pathlib import Path

HEADER_MAGIC: Final = 0x1BADB002
LOADER_MAGIC: Final = 0x2BADB002
"""What EAX holds when the kernel starts (§3.2)."""
SEARCHED_BYTES: Final = 8192
LOADER_NAME: Final = "simvirt"

KIB: Final = 1 << 10
MIB: Final = 1 << 20
LOW_MEMORY_END: Final = 0x9FC00
"""Where the firmware's own data begin, just below the adapters' memory at 640 KiB."""


class HeaderFlag(IntFlag):
    """Field ``flags`` of the header (§3.1.2). A loader must refuse a bit of the lower half that it does not know."""

    PAGE_ALIGN_MODULES = 1 << 0
    MEMORY_INFORMATION = 1 << 1
    VIDEO_MODE = 1 << 2
    ADDRESS_FIELDS = 1 << 16


_MANDATORY_BITS: Final = 0xFFFF
_SUPPORTED_MANDATORY: Final = HeaderFlag.PAGE_ALIGN_MODULES | HeaderFlag.MEMORY_INFORMATION


class InfoFlag(IntFlag):
    """Field ``flags`` of the information structure (§3.3): which of the other fields are valid."""

    MEMORY_SIZE = 1 << 0
    COMMAND_LINE = 1 << 2
    MEMORY_MAP = 1 << 6
    LOADER_NAME = 1 << 9


class MemoryType(IntEnum):
    """Type of a range in the memory map (§3.3)."""

    AVAILABLE = 1
    RESERVED = 2


class MemoryRange(NamedTuple):
    """One entry of the memory map."""

    base: int
    size: int
    type: MemoryType


@dataclass(frozen=True, slots=True)
class MultibootHeader:
    """The header and where it was found; addresses are there with :attr:`HeaderFlag.ADDRESS_FIELDS` only (§3.1.3)."""

    offset: int
    flags: int
    header_address: int = 0
    load_address: int = 0
    load_end: int = 0
    bss_end: int = 0
    entry: int = 0

    @property
    def has_addresses(self) -> bool:
        """Whether the header itself says what to load where."""
        return bool(self.flags & HeaderFlag.ADDRESS_FIELDS)


def find_header(data: bytes) -> MultibootHeader | None:
    """The multiboot header, or None: wholly in the first 8192 bytes, 4-byte aligned, with a right checksum."""
    searched = data[:SEARCHED_BYTES]
    for offset in range(0, len(searched) - 11, 4):
        magic, flags, checksum = struct.unpack_from("<3I", searched, offset)
        if magic != HEADER_MAGIC or (magic + flags + checksum) & 0xFFFFFFFF:
            continue
        if not flags & HeaderFlag.ADDRESS_FIELDS:
            return MultibootHeader(offset, flags)
        if offset + 32 <= len(searched):
            return MultibootHeader(offset, flags, *struct.unpack_from("<5I", searched, offset + 12))
    return None


def check_requests(header: MultibootHeader, name: str) -> None:
    """Refuses a header that demands what this loader does not offer.

    :raises ImageError: an unknown or unsupported bit among the mandatory ones.
    """
    demanded = header.flags & _MANDATORY_BITS & ~_SUPPORTED_MANDATORY
    if demanded & HeaderFlag.VIDEO_MODE:
        raise ImageError(
            name, "its multiboot header demands a video mode (bit 2)", "the PC has no display: clear the bit"
        )
    if demanded:
        raise ImageError(name, f"its multiboot header demands undefined features ({demanded:#x})", "clear these bits")


def multiboot_flat_image(data: bytes, header: MultibootHeader, name: str, path: Path | None = None) -> GuestImage:
    """An image whose header has the address fields, whatever the file is apart from that.

    They go before an ELF file's own headers (§3.1.3): that is how a 64-bit kernel with a 32-bit entry is started.

    :raises ImageError: the fields are missing, contradict each other or reach beyond the file.
    """
    if not header.has_addresses:
        raise ImageError(
            name,
            "a multiboot header without address fields in a file that is no ELF",
            "set bit 16 and fill them, or link an ELF file",
        )
    start = header.offset - (header.header_address - header.load_address)
    if header.load_address > header.header_address or start < 0:
        raise ImageError(
            name, f"its multiboot load address {header.load_address:#x} lies outside the file, seen from the header"
        )
    load_end = header.load_end or header.load_address + len(data) - start
    bss_end = header.bss_end or load_end
    if not header.load_address < load_end <= bss_end:
        raise ImageError(
            name, "the multiboot header's addresses are not in order", "load_addr < load_end_addr <= bss_end_addr"
        )
    if start + load_end - header.load_address > len(data):
        raise ImageError(
            name, "its multiboot header asks for more bytes than the file has", "the file is damaged or was cut short"
        )
    if bss_end > 1 << 32:
        raise ImageError(name, "its multiboot segment wraps around at 4 GiB", "check the header's addresses")
    segment = Segment(
        Gpa(header.load_address), data[start : start + load_end - header.load_address], bss_end - header.load_address
    )
    if header.entry not in segment:
        raise ImageError(
            name, f"its entry point {header.entry:#x} lies outside what is loaded", "check the header's entry_addr"
        )
    return GuestImage(
        name=name,
        path=path,
        kind=ImageKind.MULTIBOOT,
        sha256=sha256(data).hexdigest(),
        segments=(segment,),
        entry=Gpa(header.entry),
        boot=BootProtocol.MULTIBOOT,
        symbols=SymbolTable.of(()),
        lines=None,
    )


def memory_map(memory_size: int) -> tuple[MemoryRange, ...]:
    """What of a PC's guest-physical memory is RAM, in the ranges that a PC's firmware reports.

    >>> [f"{r.base:#x}+{r.size:#x} {r.type.name}" for r in memory_map(16 * MIB)]
    ['0x0+0x9fc00 AVAILABLE', '0x9fc00+0x400 RESERVED', '0xf0000+0x10000 RESERVED', '0x100000+0xf00000 AVAILABLE']
    """
    ranges = [MemoryRange(0, min(memory_size, LOW_MEMORY_END), MemoryType.AVAILABLE)]
    if memory_size > MIB:
        ranges += [
            MemoryRange(LOW_MEMORY_END, 640 * KIB - LOW_MEMORY_END, MemoryType.RESERVED),
            MemoryRange(0xF0000, 0x10000, MemoryType.RESERVED),
            MemoryRange(MIB, memory_size - MIB, MemoryType.AVAILABLE),
        ]
    return tuple(ranges)


def information_structure(at: Gpa, memory_size: int, command_line: str) -> bytes:
    """The information structure with what it points to, laid out from ``at`` on (§3.3).

    The offsets are the specification's: flags 0, mem_lower 4, mem_upper 8, cmdline 16, mmap_length 44, mmap_addr 48,
    boot_loader_name 64.
    """
    entries = b"".join(struct.pack("<IQQI", 20, *entry) for entry in memory_map(memory_size))
    map_at = at + _INFO_SIZE
    command_line_at = map_at + len(entries)
    command_line_bytes = command_line.encode() + b"\0"
    info = bytearray(_INFO_SIZE)
    flags = InfoFlag.MEMORY_SIZE | InfoFlag.COMMAND_LINE | InfoFlag.MEMORY_MAP | InfoFlag.LOADER_NAME
    lower, upper = min(memory_size, LOW_MEMORY_END) // KIB, max(memory_size - MIB, 0) // KIB
    struct.pack_into("<III", info, 0, flags, lower, upper)
    struct.pack_into("<I", info, 16, command_line_at)
    struct.pack_into("<II", info, 44, len(entries), map_at)
    struct.pack_into("<I", info, 64, command_line_at + len(command_line_bytes))
    return bytes(info) + entries + command_line_bytes + LOADER_NAME.encode() + b"\0"


_INFO_SIZE: Final = 88
