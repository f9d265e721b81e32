"""Rebuilds the PC's firmware from its sources: ``python tests/guests/refresh_firmware.py``.

Needs the ziglang package. The C code is compiled for the 386 and assembled as 16-bit code with 32-bit operands and
addresses, which is what the assembler's ``.code16gcc`` is for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Final

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from elftools.elf.elffile import ELFFile

from simvirt.machine.pc import FIRMWARE_SIZE

SOURCES: Final = Path(__file__).parents[2] / "simvirt" / "guests" / "firmware"
IMAGE: Final = SOURCES / "firmware.bin"
_ZIG: Final = (sys.executable, "-m", "ziglang")
_TARGET: Final = ("-target", "x86-freestanding-none", "-march=i386")
_COMPILE: Final = (
    *("-ffreestanding", "-fno-builtin", "-fno-pic", "-fno-pie", "-fno-stack-protector", "-fno-jump-tables"),
    *("-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fno-sanitize=all", "-fomit-frame-pointer"),
    *("-mregparm=3", "-mno-sse", "-mno-mmx", "-mno-80387", "-Oz", "-Wall", "-Wextra"),
)


def build_firmware() -> bytes:
    """The ROM's 64 KiB."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for source in sorted(SOURCES.glob("*.c")):
            text = work / f"{source.stem}.s"
            _zig(work, "cc", *_TARGET, *_COMPILE, "-S", source.name, "-o", str(text))
            text.write_text(f".code16gcc\n{text.read_text()}")
            _zig(work, "cc", *_TARGET, "-c", str(text), "-o", str(text.with_suffix(".o")))
        _zig(work, "cc", *_TARGET, "-c", "entry.S", "-o", str(work / "entry.o"))
        objects = sorted(map(str, work.glob("*.o")))
        linked = work / "firmware.elf"
        _zig(work, "ld.lld", "-m", "elf_i386", "-T", "firmware.ld", "-o", str(linked), *objects)
        return _flat(linked.read_bytes())


def _zig(work: Path, *arguments: str) -> None:
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(work / "cache"), "ZIG_LOCAL_CACHE_DIR": str(work / "cache")}
    subprocess.run([*_ZIG, *arguments], cwd=SOURCES, env=os.environ | caches, check=True)


def _flat(elf: bytes) -> bytes:
    image = bytearray(FIRMWARE_SIZE)
    for segment in ELFFile(BytesIO(elf)).iter_segments("PT_LOAD"):
        start = segment["p_paddr"]
        image[start : start + segment["p_filesz"]] = segment.data()
    return bytes(image)


if __name__ == "__main__":
    IMAGE.write_bytes(build_firmware())
