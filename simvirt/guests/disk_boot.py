"""Disk images and boot sectors: the PC starts at its reset vector, and its firmware reads the disk's first sector.

The firmware is the project's own (``firmware/``): it offers the services that boot sectors call, INT 10h to 1Ah,
loads the first sector to 0000:7C00 and jumps there. The file itself is the machine's disk.
"""

from __future__ import annotations

from hashlib import sha256
from importlib import resources
from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.firmware_tables import TABLES, TABLES_END
from simvirt.guests.image import BootMode, BootProtocol, BootState, GuestImage, ImageKind, Segment
from simvirt.guests.memory_map import LOW_MEMORY_END
from simvirt.guests.placement import Placement, refuse_modules
from simvirt.guests.symbols import SymbolTable
from simvirt.machine.disk import SECTOR
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from pathlib import Path

FIRMWARE: Final = Gpa(0xF0000)
"""Where the firmware's 64 KiB answer; they do so a second time below 4 GiB, where the processor begins."""
RESET_VECTOR: Final = Gpa(0xFFFFFFF0)
"""SDM Vol. 3A §10.1.4 "First Instruction Executed"."""
BOOT_SIGNATURE: Final = b"\x55\xaa"
_SIGNATURE_AT: Final = 510
LOW_DATA_SIZE: Final = 0x500
"""The interrupt vectors, and the BIOS data area."""
EXTENDED_DATA_SIZE: Final = 0x400


def firmware() -> bytes:
    """The firmware's 64 KiB, as built from its sources."""
    return _read("firmware.bin")


def _read(name: str) -> bytes:
    return resources.files("simvirt.guests").joinpath("firmware", name).read_bytes()


def firmware_left_behind() -> tuple[Segment, ...]:
    """What firmware that has run has left to the boot loader, and that to a kernel: itself, and its data in RAM.

    The interrupt vectors, the BIOS data area and the extended one, as they are on a PC without disks when the power-on
    self-test is done. A kernel may look into them for the size of base memory or the serial ports, or go
    back to real-address mode to call a BIOS service.
    """
    rom, data = firmware(), _read("data_areas.bin")
    low, extended = data[:LOW_DATA_SIZE], data[LOW_DATA_SIZE:]
    return (
        *(
            Segment(Gpa(FIRMWARE + start), rom[start:end], end - start, writable=False)
            for start, end in ((0, TABLES - FIRMWARE), (TABLES_END - FIRMWARE, len(rom)))
        ),
        Segment(Gpa(0), low, len(low)),
        Segment(Gpa(LOW_MEMORY_END), extended, len(extended)),
    )


def is_boot_disk(data: bytes) -> bool:
    r"""Does the first sector say that it can be booted?

    >>> is_boot_disk(bytes(510) + b"\x55\xaa")
    True
    """
    return data[_SIGNATURE_AT:SECTOR] == BOOT_SIGNATURE


def disk_image(data: bytes, name: str, path: Path | None = None) -> GuestImage:
    """A disk as a guest: its file becomes the machine's disk, and the machine starts with its firmware.

    :raises ImageError: the first sector is no boot sector, or there is no file that could be a disk.
    """
    if not is_boot_disk(data):
        raise ImageError(
            name,
            "its first sector is no boot sector: the bytes 55 AA are not at its end",
            "a disk that is not to be booted from is given by --disk",
        )
    if path is None:
        raise ImageError(name, "bytes without a file cannot be a disk", "write them into a file first")
    rom = firmware()
    return GuestImage(
        name=name,
        path=path,
        kind=ImageKind.DISK,
        sha256=sha256(data).hexdigest(),
        segments=(Segment(FIRMWARE, rom, len(rom), writable=False),),
        entry=RESET_VECTOR,
        boot=BootProtocol.FIRMWARE,
        symbols=SymbolTable.of(()),
        lines=None,
        boot_disk=path,
    )


def place_firmware(image: GuestImage, memory_size: int) -> Placement:
    """The firmware alone: everything else is on the disk."""
    del memory_size
    refuse_modules(image, f"a guest that is a {image.kind.value}")
    return Placement(image.segments, BootState(image.entry, mode=BootMode.RESET))
