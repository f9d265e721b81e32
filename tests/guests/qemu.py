"""QEMU as the independent PC: it boots the same images, so what it prints is what a guest must print."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from simvirt.guests.catalogue import Ending

EMULATOR = "qemu-system-i386"
CPU = "pentium3"
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
    return shutil.which(EMULATOR) is not None


def run(image: Path, cpu: str = CPU, seconds: float = 60, typed: str = "", prompt: str = "") -> QemuRun:
    """Boots a multiboot image, with console input once it has printed `prompt`.

    A triple fault ends QEMU with status 0 (-no-reboot).
    """
    command = [EMULATOR, "-kernel", str(image), "-cpu", cpu, "-no-reboot", "-serial", "stdio"]
    command += ["-display", "none", "-monitor", "none", "-nic", "none"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as emulator:
        assert emulator.stdin is not None
        assert emulator.stdout is not None
        stopper = Timer(seconds, emulator.kill)
        stopper.start()
        console = b""
        while not (prompt and console.endswith(prompt.encode())) and (byte := emulator.stdout.read(1)):
            console += byte
        if typed and emulator.poll() is None:
            emulator.stdin.write(typed.encode())
            emulator.stdin.flush()
        console += emulator.stdout.read()
        stopped = not stopper.is_alive()
        stopper.cancel()
        status = emulator.wait()
    return QemuRun(None if stopped and status < 0 else status, console.decode("ascii", "backslashreplace"))
