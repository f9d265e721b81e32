"""Disk images: raw files of 512-byte sectors, which a guest's writes change only on purpose.

A copy-on-write image leaves its file alone: what is written is kept in memory, sector by sector, and is a part of the
machine's state. A writable one goes to the file, each sector as it is written, so the file is consistent whenever the
process ends.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SECTOR: Final = 512
HEADS: Final = 16
SECTORS_PER_TRACK: Final = 63
MOST_CYLINDERS: Final = 16383
WRITABLE_SUFFIX: Final = ":rw"
VIRTIO_SUFFIX: Final = ":virtio"
LBA28_SECTORS: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class DiskOption:
    """Which file is a disk, and whether its guest may change it."""

    path: Path
    writable: bool = False
    virtio: bool = False
    """Is it a virtio device, rather than on the ATA channel?"""

    @classmethod
    def parse(cls, text: str) -> DiskOption:
        """From a path, or a path with `:rw`, `:virtio` or both behind it.

        >>> DiskOption.parse("disk.img:virtio:rw")
        DiskOption(path=PosixPath('disk.img'), writable=True, virtio=True)
        """
        writable = virtio = False
        while text.endswith((WRITABLE_SUFFIX, VIRTIO_SUFFIX)):
            writable |= text.endswith(WRITABLE_SUFFIX)
            virtio |= text.endswith(VIRTIO_SUFFIX)
            text = text.rpartition(":")[0]
        return cls(Path(text), writable, virtio)


_OTHER_FORMATS: Final = {
    b"QFI\xfb": "qcow2",
    b"QED\0": "QED",
    b"KDMV": "VMDK",
    b"conectix": "VHD",
    b"vhdxfile": "VHDX",
    b"<<< ": "VDI",
}
"""Formats of other programs, by their first bytes: whoever takes such a file for a disk would destroy it."""


class DiskImage:
    """An open image.

    :raises UsageError: the file cannot be read (or written, if it is to be), is empty, too large or in another format
        than raw, or is to be written and does not end with a whole sector.
    """

    def __init__(self, option: DiskOption) -> None:
        self.option = option
        self._written: dict[int, bytes] = {}
        self._descriptor = -1
        try:
            self._descriptor = os.open(option.path, os.O_RDWR if option.writable else os.O_RDONLY)
            size = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise UsageError(f"the disk image {option.path} cannot be opened: {error.strerror}") from None
        broken = size % SECTOR and option.writable  # the rest of the last sector would have to be added to the file
        sectors = -(-size // SECTOR)
        if size == 0 or broken or sectors > LBA28_SECTORS:
            self._close()
            raise UsageError(
                f"the disk image {option.path} has {size} bytes: a raw image is needed, 128 GiB at most, and one "
                f"that is to be changed has whole sectors of {SECTOR} bytes"
            )
        first = os.pread(self._descriptor, SECTOR, 0)
        for magic, name in _OTHER_FORMATS.items():
            if first.startswith(magic):
                self._close()
                raise UsageError(
                    f"the disk image {option.path} is in the format {name}: a raw image is needed, which "
                    f"`qemu-img convert -O raw {option.path} raw.img` makes"
                )
        self.sectors = sectors

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @property
    def cylinders(self) -> int:
        """Of the geometry that firmware gives a disk of this size, with 16 heads and 63 sectors on a track."""
        return max(1, min(self.sectors // (HEADS * SECTORS_PER_TRACK), MOST_CYLINDERS))

    def read(self, sector: int) -> bytes:
        """One sector; zeros where the file ends before it, or has become shorter."""
        written = self._written.get(sector)
        if written is not None:
            return written
        return os.pread(self._descriptor, SECTOR, sector * SECTOR).ljust(SECTOR, b"\0")

    def write(self, sector: int, data: bytes) -> None:
        """Write one sector."""
        if self.option.writable:
            os.pwrite(self._descriptor, data, sector * SECTOR)
        else:
            self._written[sector] = data

    def flush(self) -> None:
        """Have the host's kernel bring what was written to a writable file to its storage."""
        if self.option.writable:
            os.fsync(self._descriptor)

    def save(self) -> dict[int, bytes]:
        """The sectors that differ from the file."""
        return dict(self._written)

    def restore(self, written: Mapping[int, bytes]) -> None:
        """Go back to a saved state. What has gone to a writable file stays there."""
        self._written = {int(sector): data for sector, data in written.items()}
