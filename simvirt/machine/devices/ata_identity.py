"""What an ATA disk tells of itself: the data of IDENTIFY DEVICE (ATA/ATAPI-4, section 8.12, table 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.disk import HEADS, SECTOR, SECTORS_PER_TRACK

if TYPE_CHECKING:
    from simvirt.machine.disk import DiskImage

LARGEST_MULTIPLE: Final = 16
"""Sectors in a block of READ MULTIPLE and WRITE MULTIPLE, at most."""


def identity(image: DiskImage, heads: int, sectors: int, multiple: int) -> bytes:
    """The 256 words.

    :param heads: of the translation in force, as INITIALIZE DEVICE PARAMETERS set it.
    :param sectors: on a track of it.
    :param multiple: as SET MULTIPLE MODE set it, 0 if it did not.
    """
    capacity = heads * sectors
    cylinders = min(image.sectors // capacity, 0xFFFF)
    current = cylinders * capacity
    words = {
        0: 0x0040,  # a fixed disk
        1: image.cylinders,
        3: HEADS,
        6: SECTORS_PER_TRACK,
        47: 0x8000 | LARGEST_MULTIPLE,
        49: 0x0200,  # LBA
        51: 0x0200,
        53: 0x0003,  # words 54 to 58 and 64 to 70 are valid
        54: cylinders,
        55: heads,
        56: sectors,
        57: current & 0xFFFF,
        58: current >> 16,
        59: 0x0100 | multiple,
        60: image.sectors & 0xFFFF,
        61: image.sectors >> 16,
        64: 0x0003,  # PIO modes 3 and 4
        67: 120,
        68: 120,
        80: 0x001E,  # ATA-1 to ATA/ATAPI-4
        82: 0x4000,  # NOP
        83: 0x5000,  # FLUSH CACHE
        84: 0x4000,
        85: 0x4000,
        86: 0x1000,
        87: 0x4000,
    }
    data = bytearray(SECTOR)
    for word, value in words.items():
        data[2 * word : 2 * word + 2] = value.to_bytes(2, "little")
    for word, length, text in ((10, 20, "SIMVIRT00001"), (23, 8, "1.0"), (27, 40, "SIMVIRT DISK")):
        swapped = bytearray(text.ljust(length).encode("ascii"))
        swapped[0::2], swapped[1::2] = swapped[1::2], swapped[0::2]
        data[2 * word : 2 * word + length] = swapped
    return bytes(data)
