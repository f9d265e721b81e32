"""QEMU as the independent PC: it boots the same images, so what it prints is what a guest must print."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from simvirt.guests.catalogue import CatalogueEntry, Ending

EMULATOR = "qemu-system-i386"
CPU = "pentium3"
LONG_MODE_EMULATOR = "qemu-system-x86_64"
LONG_MODE_CPU = "core2duo"
ENDLESS = frozenset({Ending.LIMIT, Ending.WAITING_FOR_INPUT})
"""Guests that QEMU does not end by itself."""


@dataclass(frozen=True, slots=True)
class QemuRun:
    """How a run ended: the process's exit status (None if the time limit stopped it) and what came out of COM1."""

    status: int | None
    console: str

    @property
    def guest_status(self) -> int | None:
        """The value written to the debug-exit port (QEMU exits with twice that, plus one); None if none was written."""
        return self.status >> 1 if self.status is not None and self.status & 1 else None


def is_installed() -> bool:
    return shutil.which(EMULATOR) is not None and shutil.which(LONG_MODE_EMULATOR) is not None


def run_guest(entry: CatalogueEntry, seconds: float = 60) -> QemuRun:
    """Boots a guest of the catalogue on a PC that has what it needs."""
    if "long-mode" in entry.tags:
        return run(entry.image_path, LONG_MODE_CPU, seconds, emulator=LONG_MODE_EMULATOR)
    return run(entry.image_path, seconds=seconds)


def run(
    image: Path, cpu: str = CPU, seconds: float = 60, typed: str = "", prompt: str = "", emulator: str = EMULATOR
) -> QemuRun:
    """Boots a multiboot image, with console input once it has printed `prompt`.

    A triple fault ends QEMU with status 0 (-no-reboot).
    """
    command = [emulator, "-kernel", str(image), "-cpu", cpu, "-no-reboot", "-serial", "stdio"]
    command += ["-display", "none", "-monitor", "none", "-nic", "none"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stopper = Timer(seconds, process.kill)
        stopper.start()
        console = b""
        while not (prompt and console.endswith(prompt.encode())) and (byte := process.stdout.read(1)):
            console += byte
        if typed and process.poll() is None:
            process.stdin.write(typed.encode())
            process.stdin.flush()
        console += process.stdout.read()
        stopped = not stopper.is_alive()
        stopper.cancel()
        status = process.wait()
    return QemuRun(None if stopped and status < 0 else status, console.decode("ascii", "backslashreplace"))
