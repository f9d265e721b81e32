"""Multiboot 1: how GRUB and QEMU's ``-kernel`` start a kernel (Multiboot Specification, version 0.6.96).

Two structures. The *header* (§3.1) is in the image, somewhere in its first 8192 bytes; it asks for things, and where
the image is no ELF file it says itself what to load where. The *information structure* (§3.3) is what the loader leaves
in low memory for the kernel to read: how much memory there is, the command line, the loader's name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.image import BootProtocol, BootState, GuestImage, ImageKind, Segment
from simvirt.guests.memory_map import KIB, LOW_MEMORY_END, MIB, memory_map
from simvirt.guests.placement import Placement, free_place, highest_place, stack_top, subject
from simvirt.guests.symbols import SymbolTable
from simvirt.x86.addresses import PAGE_SIZE, Gpa

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HEADER_MAGIC: Final = 0x1BADB002
LOADER_MAGIC: Final = 0x2BADB002
"""What EAX holds when the kernel starts (§3.2)."""
SEARCHED_BYTES: Final = 8192
LOADER_NAME: Final = "simvirt"
INFORMATION_ADDRESS: Final = Gpa(0x9000)
"""Where the information structure goes unless the image itself is there."""


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
    MODULES = 1 << 3
    MEMORY_MAP = 1 << 6
    LOADER_NAME = 1 << 9


@dataclass(frozen=True, slots=True)
class LoadedModule:
    """A boot module in memory: from its first address to the one behind its last (§3.3, "mod_start", "mod_end")."""

    name: str
    start: int
    end: int


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


def information_structure(at: Gpa, memory_size: int, command_line: str, modules: Sequence[LoadedModule] = ()) -> bytes:
    """The information structure with what it points to, laid out from ``at`` on (§3.3).

    The offsets are the specification's: flags 0, mem_lower 4, mem_upper 8, cmdline 16, mods_count 20, mods_addr 24,
    mmap_length 44, mmap_addr 48, boot_loader_name 64.
    """
    info = bytearray(_INFO_SIZE)
    tail = bytearray()

    def append(data: bytes) -> int:
        """Put `data` behind what is there; its address."""
        tail.extend(b"\0" * (-len(tail) % 4))
        address = at + _INFO_SIZE + len(tail)
        tail.extend(data)
        return address

    flags = InfoFlag.MEMORY_SIZE | InfoFlag.COMMAND_LINE | InfoFlag.MEMORY_MAP | InfoFlag.LOADER_NAME
    entries = b"".join(struct.pack("<IQQI", 20, *entry) for entry in memory_map(memory_size))
    struct.pack_into("<II", info, 44, len(entries), append(entries))
    struct.pack_into("<I", info, 16, append(command_line.encode() + b"\0"))
    struct.pack_into("<I", info, 64, append(LOADER_NAME.encode() + b"\0"))
    if modules:
        flags |= InfoFlag.MODULES
        names = [append(module.name.encode() + b"\0") for module in modules]
        table = b"".join(
            struct.pack("<4I", module.start, module.end, name, 0) for module, name in zip(modules, names, strict=True)
        )
        struct.pack_into("<II", info, 20, len(modules), append(table))
    lower, upper = min(memory_size, LOW_MEMORY_END) // KIB, max(memory_size - MIB, 0) // KIB
    struct.pack_into("<III", info, 0, flags, lower, upper)
    return bytes(info + tail)


def place_multiboot(image: GuestImage, memory_size: int) -> Placement:
    """The kernel, its modules, each on pages of its own, and the information structure in low memory.

    :raises ImageError: something of them does not fit.
    """
    segments = list(image.segments)
    modules = []
    for module in image.options.modules:
        size = max(len(module.data), 1)
        at = highest_place(segments, size, MIB, memory_size)
        if at is None:
            raise ImageError(
                subject(image),
                f"the module '{module.name}' of {len(module.data)} bytes does not fit into memory beside the kernel",
                "give the machine more memory (--memory)",
            )
        segments.append(Segment(at, module.data, size))
        modules.append(LoadedModule(module.name, at, at + len(module.data)))
    command_line = image.options.command_line
    size = len(information_structure(INFORMATION_ADDRESS, memory_size, command_line, modules))
    end = min(memory_size, LOW_MEMORY_END)
    candidates = (INFORMATION_ADDRESS, *range(PAGE_SIZE, end, PAGE_SIZE))
    information_at = free_place(segments, size, candidates, end)
    if information_at is None:
        raise ImageError(
            subject(image),
            "no room below 640 KiB for the multiboot information structure",
            "link the guest at 1 MiB, as is usual",
        )
    information = information_structure(information_at, memory_size, command_line, modules)
    segments.append(Segment(information_at, information, len(information)))
    state = BootState(image.entry, LOADER_MAGIC, information_at, stack_top(memory_size))
    return Placement(tuple(segments), state)


_INFO_SIZE: Final = 88
