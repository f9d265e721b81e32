"""What kind of image a file is: by its content, and where the content says nothing, by its name."""

from __future__ import annotations

import stat
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.disk_boot import disk_image, is_boot_disk
from simvirt.guests.elf import elf_image, is_elf
from simvirt.guests.flat import flat_image
from simvirt.guests.image import ImageKind
from simvirt.guests.linux import (
    enter_in_64_bit_mode,
    enter_in_protected_mode,
    has_32_bit_entry,
    is_linux,
    linux_image,
)
from simvirt.guests.linux_real_mode import enter_in_real_mode
from simvirt.guests.multiboot import check_requests, find_header, multiboot_flat_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.guests.image import GuestImage

FLAT_SUFFIXES: Final = frozenset({".bin", ".flat", ".img"})
LARGEST_FILE: Final = 1 << 30
"""More than this is no guest for a PC of this kind, and would have to be read into the host's memory first."""

_FOREIGN: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF-", "a PDF document"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"!<arch>\n", "a library of object files"),
    (b"\xfe\xed\xfa\xce", "a Mach-O program"),
    (b"\xfe\xed\xfa\xcf", "a Mach-O program"),
    (b"\xce\xfa\xed\xfe", "a Mach-O program"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O program"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"\0asm", "a WebAssembly module"),
    (b"SQLite format 3\0", "an SQLite database"),
)
_DOS_MAGIC: Final = b"MZ"
_PE_POINTER: Final = 0x3C
_NO_IMAGE: Final = "give a multiboot or ELF file for the 386, or name a flat binary something.bin"


class BootKind(Enum):
    """The ways to take a file, for whoever knows better than its content (`--boot`)."""

    FLAT = "flat"
    ELF = "elf"
    MULTIBOOT = "multiboot"
    PVH = "pvh"
    LINUX = "linux"
    """By the 32-bit boot protocol where the processor can run it, else by the 16-bit one."""
    LINUX_16 = "linux-16"
    LINUX_32 = "linux-32"
    LINUX_64 = "linux-64"
    DISK = "disk"


def recognise(source: Path | str | bytes, name: str | None = None, boot: BootKind | None = None) -> GuestImage:
    """The guest image in a file, or in bytes.

    ELF files, files with a multiboot header, Linux kernels and files that begin with a boot sector are known by their
    content; so is much that is no guest. What remains is
    a flat binary, except that a file which is text from end to end is taken for one only when its name says so
    (``.bin``, ``.flat``, ``.img``). Bytes without a file have no name that could say anything: they are a flat binary
    if they are nothing else.

    :param name: what to call the guest in messages and reports; by default the file's name.
    :param boot: take it as this, whatever it looks like.
    :raises ImageError: the file cannot be read, is broken, or is no guest image.
    """
    if isinstance(source, bytes):
        return _recognise_bytes(source, name or "<bytes>", None, boot)
    path = Path(source)
    data = read_file(path)
    label = name or path.name
    if boot is None and path.suffix.lower() not in FLAT_SUFFIXES and find_header(data) is None and _is_text(data):
        raise ImageError(
            str(path), "a text file, not a guest image", f"build it first if it is the guest's source; {_NO_IMAGE}"
        )
    return replace(_recognise_bytes(data, str(path), path, boot), name=label)


def _recognise_bytes(data: bytes, subject: str, path: Path | None, boot: BootKind | None) -> GuestImage:
    """``subject`` is what errors speak of: the path that the user gave."""
    if not data:
        raise ImageError(subject, "the file is empty", "a guest image has at least one instruction")
    kind = boot or _kind(data, path)
    if kind is None:
        foreign = _foreign(data)
        if foreign is not None:
            raise ImageError(subject, f"{foreign}, not a guest image", _NO_IMAGE)
        kind = BootKind.FLAT
    return _READERS[kind](data, subject, path)


def _kind(data: bytes, path: Path | None) -> BootKind | None:
    """What the content says; None where it says nothing."""
    if is_linux(data):
        return BootKind.LINUX
    if (
        path is not None and is_boot_disk(data) and not is_elf(data)
    ):  # before multiboot: GRUB's disk holds GRUB, itself a multiboot kernel
        return BootKind.DISK
    if find_header(data) is not None:
        return BootKind.MULTIBOOT
    return BootKind.ELF if is_elf(data) else None


def _elf(data: bytes, subject: str, path: Path | None) -> GuestImage:
    return elf_image(data, subject, path)


def _pvh(data: bytes, subject: str, path: Path | None) -> GuestImage:
    image = elf_image(data, subject, path) if is_elf(data) else None
    if image is None or image.kind is not ImageKind.PVH:
        raise ImageError(subject, "no PVH entry: it has no ELF note of Xen's that names one", "leave out --boot")
    return image


def _multiboot(data: bytes, subject: str, path: Path | None) -> GuestImage:
    """The header's addresses count, says the specification, even in an ELF file (§3.1.3)."""
    header = find_header(data)
    if header is None:
        raise ImageError(subject, "no multiboot header in its first 8192 bytes", "leave out --boot, or add a header")
    check_requests(header, subject)
    if is_elf(data) and not header.has_addresses:
        return elf_image(data, subject, path, multiboot=True)
    return multiboot_flat_image(data, header, subject, path)


def _linux_64(data: bytes, subject: str, path: Path | None) -> GuestImage:
    return enter_in_64_bit_mode(_bzimage(data, subject, path))


def _linux_32(data: bytes, subject: str, path: Path | None) -> GuestImage:
    return enter_in_protected_mode(_bzimage(data, subject, path))


def _linux_16(data: bytes, subject: str, path: Path | None) -> GuestImage:
    return enter_in_real_mode(_bzimage(data, subject, path))


def _linux(data: bytes, subject: str, path: Path | None) -> GuestImage:
    image = _bzimage(data, subject, path)
    return image if has_32_bit_entry(image) else enter_in_real_mode(image)


def _bzimage(data: bytes, subject: str, path: Path | None) -> GuestImage:
    if not is_linux(data):
        raise ImageError(subject, "no Linux kernel: it has no setup header", "leave out --boot, or name a bzImage")
    return linux_image(data, subject, path)


_READERS: Final[dict[BootKind, Callable[[bytes, str, Path | None], GuestImage]]] = {
    BootKind.FLAT: flat_image,
    BootKind.ELF: _elf,
    BootKind.MULTIBOOT: _multiboot,
    BootKind.PVH: _pvh,
    BootKind.LINUX: _linux,
    BootKind.LINUX_16: _linux_16,
    BootKind.LINUX_32: _linux_32,
    BootKind.LINUX_64: _linux_64,
    BootKind.DISK: disk_image,
}


def read_file(path: Path, what: str = "a guest image") -> bytes:
    """The bytes of a regular file; pipes and devices may never end, so they are refused.

    :param what: what the file should have been, for messages.
    :raises ImageError: it cannot be read, or is too large.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(str(path), f"a directory, not {what}", "name the file in it")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(str(path), "not a regular file", "copy it into a file first")
        if status.st_size > LARGEST_FILE:
            raise ImageError(
                str(path), f"too large for {what} ({status.st_size} bytes)", f"the most is {LARGEST_FILE} bytes"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(
            str(path), "no such file", "check the path; `simvirt list guests` shows the guests that need none"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageError(str(path), f"cannot be read ({reason})", "check the path and its permissions") from None


def _foreign(data: bytes) -> str | None:
    """What the file is, if it is something well known that is no guest."""
    if data.startswith(_DOS_MAGIC) and len(data) >= _PE_POINTER + 4:
        pointer = int.from_bytes(data[_PE_POINTER : _PE_POINTER + 4], "little")
        if data[pointer : pointer + 4] == b"PE\0\0":
            return "a Windows program"
    return next((what for magic, what in _FOREIGN if data.startswith(magic)), None)


def _is_text(data: bytes) -> bool:
    """Whether the whole is UTF-8 without control characters but white space."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\n\r\f" for character in text)
