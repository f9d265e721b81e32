"""An initial RAM disk of one's own, by Linux's "initramfs buffer format": BusyBox, a shell on a terminal, modules."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

COMMANDS = (
    "sh", "mount", "uname", "cat", "dmesg", "head", "ls", "poweroff", "insmod", "dd", "sync", "echo", "grep", "sleep",
)  # fmt: skip
_DIRECTORY, _DEVICE, _PROGRAM, _FILE, _LINK = 0o40755, 0o20600, 0o100755, 0o100644, 0o120777


def _entry(number: int, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """A file in cpio's "newc" format."""
    path = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + path
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


def initramfs(busybox: bytes, *, terminal: str = "ttyS0", modules: Iterable[Path] = ()) -> bytes:
    """A compressed archive with /init, which loads the modules in their order and runs a shell on the terminal."""
    names = [module.name for module in modules]
    script = [
        "#!/bin/sh", "mount -t proc proc /proc", "mount -t sysfs sys /sys", "mount -t devtmpfs dev /dev",
        *(f"insmod /modules/{name}" for name in names), f"exec sh -i </dev/{terminal} >/dev/{terminal} 2>&1", "",
    ]  # fmt: skip
    files: list[tuple[str, int, bytes, tuple[int, int]]] = [
        (name, _DIRECTORY, b"", (0, 0)) for name in ("bin", "dev", "modules", "proc", "sys")
    ]
    files += [
        ("dev/console", _DEVICE, b"", (5, 1)),
        ("dev/ttyS0", _DEVICE, b"", (4, 64)),
        ("bin/busybox", _PROGRAM, busybox, (0, 0)),
        ("init", _PROGRAM, "\n".join(script).encode(), (0, 0)),
    ]
    files += [(f"bin/{command}", _LINK, b"busybox", (0, 0)) for command in COMMANDS]
    files += [(f"modules/{module.name}", _FILE, module.read_bytes(), (0, 0)) for module in modules]
    archive = b"".join(_entry(number, *file) for number, file in enumerate(files, 1)) + _entry(0, "TRAILER!!!", 0)
    return gzip.compress(archive, 6, mtime=0)
