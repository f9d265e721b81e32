"""Bochs on the same image: an interpreter, the other well-known PC in software.

It has no loader for kernels and no debug-exit port. So it is given a boot ROM of a few instructions, which does what a
multiboot loader leaves behind, and the image as contents of its memory; and it is stopped when the guest's last line
has come out of the serial port. It goes on for up to 20 ms longer than it had to.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.machines import MEMORY, WrongEndingError
from simvirt.guests.load import load

if TYPE_CHECKING:
    from simvirt.guests.image import BootState, GuestImage

PROGRAM: Final = "bochs"
_POLL_SECONDS: Final = 0.02
_START_SECONDS: Final = 20
_LONGEST_SECONDS: Final = 300
_CONFIGURATION: Final = """\
megs: {megabytes}
romimage: file=boot.rom, address=0xffff0000
vgaromimage: file=vga.rom
{memory}
cpu: count=1, ips=50000000, reset_on_triple_fault=0
display_library: {display}
com1: enabled=1, mode=file, dev=console.txt
log: bochs.log
panic: action=fatal
error: action=ignore
info: action=ignore
"""
_DISPLAYS: Final = ("term", "nogui", 'rfb, options="timeout=0"')
_DEBUGGER_GOES: Final = ("-rc", "go.txt")
"""Debian's Bochs has the debugger built in, which waits for a command to go on."""
_ROM_SEGMENT: Final = 0xF0000
_ENTER_AT, _GDTR_AT, _GDT_AT, _RESET_AT, _ROM_SIZE = 0x40, 0x100, 0x108, 0xFFF0, 0x10000
_GDT: Final = bytes.fromhex("00000000 00000000 ffff0000 009bcf00 ffff0000 0093cf00")


def is_installed() -> bool:
    """Is there a Bochs to compare with?"""
    return shutil.which(PROGRAM) is not None


def version() -> str | None:
    """What Bochs says of itself, if it is there."""
    if not is_installed():
        return None
    done = subprocess.run(
        [PROGRAM, "--help"], capture_output=True, text=True, check=False, timeout=30, stdin=subprocess.DEVNULL
    )
    return next((line for line in (done.stdout + done.stderr).splitlines() if "Bochs x86 Emulator" in line), None)


class Bochs:
    """A Bochs that has been seen to work, and with which options.

    Raises:
        WrongEndingError: `probe` does not run on it.
    """

    def __init__(self, probe: GuestImage, console: str) -> None:
        for display in _DISPLAYS:
            for options in (_DEBUGGER_GOES, ()):
                self._display, self._options = display, options
                try:
                    self.run(probe, console, _START_SECONDS)
                except WrongEndingError:
                    continue
                return
        raise WrongEndingError(f"no display library of this Bochs works here: tried {', '.join(_DISPLAYS)}")

    def run(self, image: GuestImage, console: str, patience: float = _LONGEST_SECONDS) -> float:
        """Processor seconds of a whole Bochs until the guest has printed `console`.

        Raises:
            WrongEndingError: it has not, after `patience` seconds.
        """
        with tempfile.TemporaryDirectory(prefix="simvirt-bochs-") as folder:
            here = Path(folder)
            self._lay_out(here, image)
            process = subprocess.Popen(
                [PROGRAM, "-q", "-f", "bochsrc", *self._options],
                cwd=here,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                return self._await(process, here / "console.txt", console, time.monotonic() + patience)
            finally:
                process.kill()
                process.wait()

    @staticmethod
    def _await(process: subprocess.Popen[bytes], file: Path, console: str, deadline: float) -> float:
        while process.poll() is None and time.monotonic() < deadline:
            if file.exists() and file.read_bytes().decode("ascii", "replace").endswith(console):
                return _cpu_seconds_of(process.pid)
            time.sleep(_POLL_SECONDS)
        raise WrongEndingError("Bochs did not print what the guest prints")

    def _lay_out(self, here: Path, image: GuestImage) -> None:
        """The files that Bochs reads: ROMs, memory contents, its configuration."""
        pieces: list[tuple[int, bytes]] = []
        boot = load(image, MEMORY, lambda gpa, data: pieces.append((int(gpa), bytes(data))))
        lines = []
        for number, (gpa, data) in enumerate(_merged(pieces), 1):
            (here / f"memory{number}").write_bytes(data)
            lines.append(f"optramimage{number}: file=memory{number}, address={gpa:#x}")
        (here / "boot.rom").write_bytes(_boot_rom(boot))
        (here / "vga.rom").write_bytes(bytes(0x800))
        (here / "go.txt").write_text("c\n", encoding="ascii")
        text = _CONFIGURATION.format(megabytes=MEMORY >> 20, memory="\n".join(lines), display=self._display)
        (here / "bochsrc").write_text(text, encoding="ascii")


def _merged(pieces: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """What lies below 1 MiB, and what lies above, each as one piece: Bochs takes four at most."""
    merged = []
    for low, high in ((0, 1 << 20), (1 << 20, MEMORY)):
        inside = [(gpa, data) for gpa, data in pieces if low <= gpa < high]
        if inside:
            first = min(gpa for gpa, _ in inside)
            content = bytearray(max(gpa + len(data) for gpa, data in inside) - first)
            for gpa, data in inside:
                content[gpa - first : gpa - first + len(data)] = data
            merged.append((first, bytes(content)))
    return merged


def _boot_rom(boot: BootState) -> bytes:
    """64 KiB below 1 MiB and below 4 GiB: from reset to the state that the boot protocol promises."""
    rom = bytearray(b"\xff" * _ROM_SIZE)

    def place(at: int, *parts: bytes) -> None:
        code = b"".join(parts)
        rom[at : at + len(code)] = code

    place(
        0,
        bytes.fromhex("fa"),  # cli
        bytes.fromhex("2e 66 0f 01 16") + struct.pack("<H", _GDTR_AT),  # lgdt cs:[gdtr], all 32 bits of the base
        bytes.fromhex("0f 20 c0 66 83 c8 01 0f 22 c0"),  # mov eax, cr0; or eax, 1; mov cr0, eax
        bytes.fromhex("66 ea") + struct.pack("<IH", _ROM_SEGMENT + _ENTER_AT, 0x08),  # jmp 8:enter
    )
    place(
        _ENTER_AT,
        bytes.fromhex("b8 10 00 00 00"),  # mov eax, 0x10
        bytes.fromhex("8e d8 8e c0 8e d0 8e e0 8e e8"),  # mov ds, es, ss, fs, gs, ax
        b"\xbc" + struct.pack("<I", boot.esp),  # mov esp, ...
        b"\xb8" + struct.pack("<I", boot.eax),  # mov eax, ...
        b"\xbb" + struct.pack("<I", boot.ebx),  # mov ebx, ...
        b"\xb9" + struct.pack("<I", boot.entry),  # mov ecx, entry
        bytes.fromhex("ff e1"),  # jmp ecx
    )
    place(_GDTR_AT, struct.pack("<HI", len(_GDT) - 1, _ROM_SEGMENT + _GDT_AT))
    place(_GDT_AT, _GDT)
    place(_RESET_AT, bytes.fromhex("ea 00 00 00 f0"))  # jmp f000:0000
    return bytes(rom)


def _cpu_seconds_of(pid: int) -> float:
    """User and system time of a running process (proc(5), /proc/pid/stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
