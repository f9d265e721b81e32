"""QEMU as an independent account of what a program does: the registers before each instruction.

QEMU runs the program one instruction at a time and logs its registers (`-singlestep -d cpu`). Instead of firmware it
gets a boot ROM of a few bytes that enters the program as simvirt's boot protocol does. With `-icount` it counts
repeated string instructions as simvirt does.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.guests.qemu import EMULATOR
from tests.support import program_frame as frame
from tests.support.assembler import d16, d32
from tests.support.programs import Program

_ROM_SIZE = 0x10000
_ROM_BASE = 0x100000000 - _ROM_SIZE
_RECORD = re.compile(
    r"EAX=(\w+) EBX=(\w+) ECX=(\w+) EDX=(\w+)\n"
    r"ESI=(\w+) EDI=(\w+) EBP=(\w+) ESP=(\w+)\n"
    r"EIP=(\w+) EFL=(\w+) \S+ CPL=(\d)"
)


@dataclass(frozen=True, slots=True)
class Registers:
    """The general registers in the order of their numbers, EIP, EFLAGS, CPL."""

    general: tuple[int, ...]
    eip: int
    eflags: int
    cpl: int


def _boot_rom(entry: int) -> bytes:
    """From the reset vector to protected mode with flat segments, to `entry`."""
    rom = bytearray(b"\xf4" * _ROM_SIZE)
    gdt = bytes(8) + frame.descriptor(0, 0xFFFFF, 0x9B, 0xC) + frame.descriptor(0, 0xFFFFF, 0x93, 0xC)
    rom[0x100:0x118] = gdt
    rom[0x120:0x126] = d16(0x17) + d32(_ROM_BASE + 0x100)
    start = bytes.fromhex("fa 662e0f01162001 66b811000000 0f22c0 66ea") + d32(_ROM_BASE + 0x40) + d16(8)
    rom[0x00 : len(start)] = start
    flat = bytes.fromhex("66b81000 8ed8 8ec0 8ee0 8ee8 8ed0 31c0 31db 31c9 31d2 31f6 31ff 31ed")
    flat += b"\xbc" + d32(frame.MEMORY_SIZE) + b"\xea" + d32(entry) + d16(8)
    rom[0x40 : 0x40 + len(flat)] = flat
    rom[0xFFF0:0xFFF3] = b"\xe9" + d16(0x10000 - 0xFFF3)
    return bytes(rom)


def trace(program: Program, folder: Path, seconds: float = 60) -> list[Registers]:
    """The registers before each instruction that lies in the program, until it exits."""
    rom, image, log = folder / "boot.rom", folder / "program.bin", folder / "qemu.log"
    rom.write_bytes(_boot_rom(program.entry))
    image.write_bytes(program.memory)
    command = [EMULATOR, "-bios", str(rom)]
    command += ["-device", f"loader,file={image},addr={frame.CODE:#x},force-raw=on"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-cpu", "pentium3", "-m", "16", "-display", "none"]
    command += ["-monitor", "none", "-serial", "null", "-nic", "none", "-no-reboot", "-icount", "shift=0,sleep=off"]
    command += ["-singlestep", "-d", "cpu,nochain", "-dfilter", f"{frame.CODE:#x}+0x10000000", "-D", str(log)]
    done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 42 << 1 | 1, done
    found = []
    for match in _RECORD.finditer(log.read_text()):
        eax, ebx, ecx, edx, esi, edi, ebp, esp, eip, eflags = (int(text, 16) for text in match.groups()[:10])
        found.append(Registers((eax, ecx, edx, ebx, esp, ebp, esi, edi), eip, eflags, int(match.group(11))))
    return found
