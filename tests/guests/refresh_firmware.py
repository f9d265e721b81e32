"""Rebuilds the PC's firmware from its sources: ``python tests/guests/refresh_firmware.py``.

Runs it once, too, and keeps what it leaves in RAM, for kernels that are loaded without it. Needs the ziglang package.
The C code is compiled for the 386 and assembled as 16-bit code with 32-bit operands and addresses, which is what the
assembler's ``.code16gcc`` is for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Final

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from simvirt.guests.disk_boot import EXTENDED_DATA_SIZE, FIRMWARE, LOW_DATA_SIZE, RESET_VECTOR
from simvirt.guests.flat import flat_image
from simvirt.guests.image import BootProtocol, Segment
from simvirt.guests.memory_map import LOW_MEMORY_END
from simvirt.machine.breakpoints import Breakpoint
from simvirt.machine.machine import Outcome
from simvirt.machine.pc import FIRMWARE_SIZE
from simvirt.observe.results import RunConfig
from simvirt.observe.trial import Trial
from simvirt.strategies.registry import find
from simvirt.x86.addresses import Gpa, Gva

SOURCES: Final = Path(__file__).parents[2] / "simvirt" / "guests" / "firmware"
IMAGE: Final = SOURCES / "firmware.bin"
DATA_AREAS: Final = SOURCES / "data_areas.bin"
_TICKS, _TICKS_END = 0x46C, 0x470
_STACK: Final = 0x40
"""Where the extended BIOS data area's variables end, and the firmware's stack may begin."""
_ZIG: Final = (sys.executable, "-m", "ziglang")
_TARGET: Final = ("-target", "x86-freestanding-none", "-march=i386")
_COMPILE: Final = (
    *("-ffreestanding", "-fno-builtin", "-fno-pic", "-fno-pie", "-fno-stack-protector", "-fno-jump-tables"),
    *("-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fno-sanitize=all", "-fomit-frame-pointer"),
    *("-mregparm=3", "-mno-sse", "-mno-mmx", "-mno-80387", "-Oz", "-Wall", "-Wextra"),
)


def build_firmware() -> tuple[bytes, Gpa]:
    """The ROM's 64 KiB, and where the power-on self-test ends."""
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


def data_areas(rom: bytes, end_of_power_on: Gpa) -> bytes:
    """What the firmware has put into RAM when its power-on self-test is done, on a PC without disks.

    The time since power-on and the used part of the firmware's stack are left out.
    """
    segments = (Segment(FIRMWARE, rom, len(rom), writable=False),)
    image = replace(flat_image(b"\xf4", "firmware"), segments=segments, entry=RESET_VECTOR, boot=BootProtocol.FIRMWARE)
    trial = Trial(image, find("bare-metal"), RunConfig("core2", 1 << 24, 0, 10**8))
    trial.machine.processor.breakpoints.insert(Breakpoint(Gva(end_of_power_on)))
    if trial.advance(10**8) is not Outcome.BREAKPOINT:
        raise RuntimeError(f"the firmware does not come to the end of its power-on self-test: {trial.outcome}")
    low = bytearray(trial.machine.read_physical(Gpa(0), LOW_DATA_SIZE))
    low[_TICKS:_TICKS_END] = bytes(_TICKS_END - _TICKS)
    extended = trial.machine.read_physical(Gpa(LOW_MEMORY_END), _STACK)
    return bytes(low) + extended.ljust(EXTENDED_DATA_SIZE, b"\0")


def _zig(work: Path, *arguments: str) -> None:
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(work / "cache"), "ZIG_LOCAL_CACHE_DIR": str(work / "cache")}
    subprocess.run([*_ZIG, *arguments], cwd=SOURCES, env=os.environ | caches, check=True)


def _flat(elf: bytes) -> tuple[bytes, Gpa]:
    image = bytearray(FIRMWARE_SIZE)
    file = ELFFile(BytesIO(elf))
    for segment in file.iter_segments("PT_LOAD"):
        start = segment["p_paddr"]
        image[start : start + segment["p_filesz"]] = segment.data()
    table = file.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    end = table.get_symbol_by_name("power_on_is_done")
    assert end is not None
    return bytes(image), Gpa(FIRMWARE + end[0]["st_value"])


if __name__ == "__main__":
    built, end = build_firmware()
    IMAGE.write_bytes(built)
    DATA_AREAS.write_bytes(data_areas(built, end))
