"""Linux: a bzImage by the 32-bit and the 64-bit boot protocol (Linux's Documentation/x86/boot.rst).

A bzImage is a few sectors of real-mode setup code (`linux_real_mode` enters it there), then the kernel proper, which
loads at 1 MiB or where it prefers to be and unpacks itself. This loader does what the setup code would: it fills in the
*boot parameters* (the "zero page": the setup header, the memory map, the screen) and enters the kernel proper, in
protected mode at its first byte, or in 64-bit mode 0x200 behind it.

Memory below 1 MiB, when the kernel starts::

    0x07000  GDT                     0x20000  command line
    0x10000  boot parameters         0x30000  page tables, for the 64-bit protocol
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntFlag
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.image import BootMode, BootProtocol, BootState, GuestImage, ImageKind, Segment
from simvirt.guests.memory_map import KIB, MIB, memory_map
from simvirt.guests.placement import Placement, highest_place, subject
from simvirt.guests.symbols import SymbolTable
from simvirt.x86.addresses import PAGE_SIZE, Gpa
from simvirt.x86.cpuid import Feature
from simvirt.x86.paging import PageEntry

if TYPE_CHECKING:
    from pathlib import Path

SECTOR: Final = 512
HEADER_OFFSET: Final = 0x1F1
"""Where the setup header begins, in the file and in the boot parameters alike."""
_BOOT_FLAG_OFFSET, _BOOT_FLAG = 0x1FE, 0xAA55
_MAGIC_OFFSET, _MAGIC = 0x202, b"HdrS"
_JUMP_OFFSET: Final = 0x201
"""The jump over the header tells where it ends: its displacement counts from 0x202."""
OLDEST_VERSION: Final = 0x0202
"""2.02 brought the command line as it is passed here."""
_DEFAULT_SETUP_SECTORS: Final = 4
_SMALLEST_HEADER_END: Final = 0x230
UNDEFINED_LOADER: Final = 0xFF
_CHECKED_FOR_64_BIT: Final = frozenset({Feature.LM})
_CHECKED_FOR_32_BIT: Final = frozenset({Feature.CMOV})
"""The header does not tell for which processor a 32-bit kernel is built; most are for the 686, which brought this."""

GDT: Final = Gpa(0x7000)
STACK: Final = 0x8000
BOOT_PARAMETERS: Final = Gpa(0x10000)
COMMAND_LINE: Final = Gpa(0x20000)
PAGE_TABLES: Final = Gpa(0x30000)
BOOT_CS: Final = 0x10
"""__BOOT_CS."""
BOOT_DS: Final = 0x18
"""__BOOT_DS."""

# Offsets in the boot parameters (Documentation/x86/zero-page.rst).
_EXT_MEM_K, _VIDEO_MODE, _VIDEO_COLUMNS, _VIDEO_LINES, _IS_VGA, _VIDEO_POINTS = 0x02, 0x06, 0x07, 0x0E, 0x0F, 0x10
_ALT_MEM_K, _E820_ENTRIES, _E820_TABLE = 0x1E0, 0x1E8, 0x2D0
_LARGEST_OLD_MEMORY: Final = 0xFFFF


class LoadFlag(IntFlag):
    """Field `loadflags`."""

    LOADED_HIGH = 1 << 0
    CAN_USE_HEAP = 1 << 7


class ExtendedLoadFlag(IntFlag):
    """Field `xloadflags`, since 2.12."""

    KERNEL_64 = 1 << 0
    """There is an entry for 64-bit mode 0x200 behind the start."""


@dataclass(frozen=True, slots=True)
class SetupHeader:
    """What a kernel says of itself; fields that its version does not have yet are as the protocol prescribes."""

    version: int
    setup_sectors: int
    load_flags: LoadFlag
    code32_start: int
    initrd_addr_max: int
    kernel_alignment: int
    relocatable: bool
    extended_load_flags: ExtendedLoadFlag
    command_line_size: int
    preferred_address: int
    init_size: int
    end: int
    """Offset of the first byte behind the header."""

    @property
    def kernel_offset(self) -> int:
        """Where in the file the kernel proper begins."""
        return (self.setup_sectors + 1) * SECTOR

    @property
    def has_64_bit_entry(self) -> bool:
        """Can it be entered in 64-bit mode?"""
        return bool(self.extended_load_flags & ExtendedLoadFlag.KERNEL_64)


def is_linux(data: bytes) -> bool:
    """Whether the bytes have Linux's boot flag and setup header."""
    return (
        len(data) >= _MAGIC_OFFSET + 4
        and data[_MAGIC_OFFSET : _MAGIC_OFFSET + 4] == _MAGIC
        and int.from_bytes(data[_BOOT_FLAG_OFFSET : _BOOT_FLAG_OFFSET + 2], "little") == _BOOT_FLAG
    )


def read_setup_header(data: bytes, name: str) -> SetupHeader:
    """The setup header of a bzImage, checked.

    :raises ImageError: the file is too short, too old, or no bzImage.
    """
    if len(data) < 2 * SECTOR:
        raise ImageError(name, f"a truncated Linux kernel of {len(data)} bytes", "copy it again")
    version = int.from_bytes(data[0x206:0x208], "little")
    if version < OLDEST_VERSION:
        raise ImageError(
            name,
            f"a Linux kernel of boot protocol {version >> 8}.{version & 0xFF:02}",
            "2.02 or newer (Linux 2.4) is needed",
        )
    end = _MAGIC_OFFSET + data[_JUMP_OFFSET]
    if not _SMALLEST_HEADER_END - 8 <= end <= 2 * SECTOR:
        raise ImageError(name, "a Linux kernel with a bad setup header: its length is impossible", "copy it again")

    def word(offset: int, size: int, since: int, otherwise: int) -> int:
        present = version >= since and offset + size <= end
        return int.from_bytes(data[offset : offset + size], "little") if present else otherwise

    flags = LoadFlag(data[0x211] & (LoadFlag.LOADED_HIGH | LoadFlag.CAN_USE_HEAP))
    if not flags & LoadFlag.LOADED_HIGH:
        raise ImageError(name, "a zImage, which loads below 640 KiB", "build the kernel as a bzImage")
    code32_start = word(0x214, 4, 0x200, MIB)
    return SetupHeader(
        version=version,
        setup_sectors=data[HEADER_OFFSET] or _DEFAULT_SETUP_SECTORS,
        load_flags=flags,
        code32_start=code32_start,
        initrd_addr_max=word(0x22C, 4, 0x203, 0x37FFFFFF),
        kernel_alignment=word(0x230, 4, 0x205, 0),
        relocatable=bool(word(0x234, 1, 0x205, 0)),
        extended_load_flags=ExtendedLoadFlag(word(0x236, 2, 0x20C, 0) & ExtendedLoadFlag.KERNEL_64),
        command_line_size=word(0x238, 4, 0x206, 255),
        preferred_address=word(0x258, 8, 0x20A, 0),
        init_size=word(0x260, 4, 0x20A, 0),
        end=end,
    )


def linux_image(data: bytes, name: str, path: Path | None = None) -> GuestImage:
    """A bzImage: the kernel proper as one segment, and the setup header for the boot parameters.

    :raises ImageError: the header is bad or the file ends before the kernel does.
    """
    header = read_setup_header(data, name)
    kernel = data[header.kernel_offset :]
    paragraphs = int.from_bytes(data[0x1F4:0x1F8], "little")  # syssize; trustworthy in four bytes since 2.04
    if not kernel or (header.version >= 0x204 and len(kernel) < paragraphs * 16 - 15):
        raise ImageError(
            name,
            f"a truncated Linux kernel: {len(kernel)} bytes behind the setup code where its header says "
            f"{paragraphs * 16}",
            "the file is damaged or was cut short: copy it again",
        )
    at = max(header.code32_start, MIB)
    return GuestImage(
        name=name,
        path=path,
        kind=ImageKind.LINUX,
        sha256=sha256(data).hexdigest(),
        segments=(Segment(Gpa(at), kernel, max(len(kernel), header.init_size)),),
        entry=Gpa(at),
        boot=BootProtocol.LINUX_32,
        symbols=SymbolTable.of(()),
        lines=None,
        setup=data[: header.kernel_offset],
        setup_code_checks=_CHECKED_FOR_64_BIT if header.has_64_bit_entry else _CHECKED_FOR_32_BIT,
    )


def has_32_bit_entry(image: GuestImage) -> bool:
    """Can it be entered in protected mode? Boot programs in a bzImage's clothes may have nothing but setup code."""
    return read_setup_header(image.setup, subject(image)).code32_start >= MIB


def enter_in_protected_mode(image: GuestImage) -> GuestImage:
    """The same kernel, by the 32-bit boot protocol, whatever the processor.

    :raises ImageError: it has no such entry.
    """
    if not has_32_bit_entry(image):
        raise ImageError(subject(image), "a kernel that is entered in real-address mode alone", "boot it as linux-16")
    return replace(image, boot=BootProtocol.LINUX_32, setup_code_checks=frozenset())


def enter_in_64_bit_mode(image: GuestImage) -> GuestImage:
    """The same kernel, by the 64-bit boot protocol.

    :raises ImageError: it has no such entry.
    """
    header = read_setup_header(image.setup, subject(image))
    if not header.has_64_bit_entry:
        raise ImageError(subject(image), "a Linux kernel without a 64-bit entry", "boot it as linux-32")
    return replace(image, boot=BootProtocol.LINUX_64, setup_code_checks=frozenset())


def place_linux(image: GuestImage, memory_size: int) -> Placement:
    """The kernel, its boot parameters, command line and initial RAM disk.

    :raises ImageError: something of them does not fit.
    """
    header = read_setup_header(image.setup, subject(image))
    segments = list(image.segments)
    text = command_line(image, header)
    initrd = b"".join(module.data for module in image.options.modules)
    initrd_at = initrd_place(image, header, memory_size, len(initrd)) if initrd else Gpa(0)
    if initrd:
        segments.append(Segment(initrd_at, initrd, len(initrd)))
    parameters = boot_parameters(image.setup, header, memory_size, (initrd_at, len(initrd)))
    long = image.boot is BootProtocol.LINUX_64
    gdt = _gdt(long=long)
    for at, data in ((GDT, gdt), (BOOT_PARAMETERS, parameters), (COMMAND_LINE, text)):
        segments.append(Segment(at, data, len(data)))
    if long:
        tables = identity_map(PAGE_TABLES)
        segments.append(Segment(PAGE_TABLES, tables, len(tables)))
    start = image.segments[0].gpa
    return Placement(
        tuple(segments),
        BootState(
            entry=Gpa(start + 0x200) if long else start,
            esi=BOOT_PARAMETERS,
            esp=STACK,
            mode=BootMode.LONG if long else BootMode.PROTECTED,
            code_selector=BOOT_CS,
            data_selector=BOOT_DS,
            gdt=range(GDT, GDT + len(gdt)),
            page_tables=PAGE_TABLES,
        ),
    )


def boot_parameters(setup: bytes, header: SetupHeader, memory_size: int, initrd: tuple[int, int]) -> bytes:
    """The zero page: the kernel's own setup header with what a boot loader fills in, the memory map, the screen.

    `initrd` is its address and size.
    """
    page = bytearray(PAGE_SIZE)
    page[HEADER_OFFSET : header.end] = setup[HEADER_OFFSET : header.end]
    page[0x210] = UNDEFINED_LOADER
    struct.pack_into("<II", page, 0x218, *initrd)
    struct.pack_into("<I", page, 0x228, COMMAND_LINE)
    above = max(memory_size - MIB, 0) // KIB
    struct.pack_into("<H", page, _EXT_MEM_K, min(above, _LARGEST_OLD_MEMORY))
    struct.pack_into("<I", page, _ALT_MEM_K, above)
    page[_VIDEO_MODE], page[_VIDEO_COLUMNS], page[_VIDEO_LINES], page[_IS_VGA] = 3, 80, 25, 1
    struct.pack_into("<H", page, _VIDEO_POINTS, 16)
    ranges = memory_map(memory_size)
    page[_E820_ENTRIES] = len(ranges)
    for number, one in enumerate(ranges):
        struct.pack_into("<QQI", page, _E820_TABLE + 20 * number, *one)
    return bytes(page)


def command_line(image: GuestImage, header: SetupHeader) -> bytes:
    """What `--append` gave, as a string of C.

    :raises ImageError: the kernel takes none that is so long.
    """
    text = image.options.command_line.encode() + b"\0"
    if len(text) - 1 > header.command_line_size:
        raise ImageError(
            subject(image),
            f"a command line of {len(text) - 1} bytes, where this kernel takes {header.command_line_size}",
            "shorten --append",
        )
    return text


def initrd_place(image: GuestImage, header: SetupHeader, memory_size: int, size: int) -> Gpa:
    """As high as the kernel allows, clear of the kernel and of the memory that it unpacks itself into.

    :raises ImageError: there is no such place.
    """
    preferred = header.preferred_address
    unpacked = Segment(Gpa(preferred), b"", header.init_size) if preferred and header.init_size else None
    taken = [*image.segments, *([unpacked] if unpacked else [])]
    place = highest_place(taken, size, MIB, min(memory_size, header.initrd_addr_max + 1))
    if place is None:
        raise ImageError(
            subject(image),
            f"an initial RAM disk of {size} bytes does not fit into {memory_size} bytes of memory beside the kernel",
            "give the machine more memory (--memory)",
        )
    return place


def _gdt(*, long: bool) -> bytes:
    """Two null descriptors, __BOOT_CS and __BOOT_DS: flat 4 GiB segments, as the protocol asks."""
    code = 0x00AF9B000000FFFF if long else 0x00CF9B000000FFFF
    return struct.pack("<4Q", 0, 0, code, 0x00CF93000000FFFF)


def identity_map(at: Gpa) -> bytes:
    """Page tables that map the first 4 GiB to themselves by 2 MiB pages: a PML4, a PDPT, four page directories."""
    rights = int(PageEntry.PRESENT | PageEntry.WRITABLE)
    pml4 = struct.pack("<Q", at + PAGE_SIZE | rights).ljust(PAGE_SIZE, b"\0")
    pdpt = struct.pack("<4Q", *(at + (2 + i) * PAGE_SIZE | rights for i in range(4))).ljust(PAGE_SIZE, b"\0")
    directories = struct.pack("<2048Q", *(i << 21 | rights | int(PageEntry.PAGE_SIZE) for i in range(2048)))
    return pml4 + pdpt + directories
