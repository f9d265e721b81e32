"""Debian's kernels, BusyBox and memtest86+, where `scripts/fetch-real-systems.sh` has put them, and their boots."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from simvirt.guests.resolve import resolve
from simvirt.machine.devices.screen import Screen
from simvirt.machine.disk import DiskOption
from simvirt.machine.machine import Outcome
from simvirt.observe.results import RunConfig
from simvirt.observe.trial import Trial
from simvirt.strategies.registry import find
from tests.support.initramfs import initramfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from simvirt.guests.image import GuestImage
    from simvirt.guests.recognise import BootKind

_HERE = Path(__file__).resolve().parents[2] / ".cache" / "real-systems"
DIRECTORY = Path(os.environ.get("SIMVIRT_REAL_SYSTEMS", _HERE))
PROMPT = b"/ # "
MIB = 1 << 20
LIMIT = 10_000_000_000
"""The 686 kernel needs three thousand million instructions to unpack itself."""
COMMANDS = ("uname -a", "cat /proc/cpuinfo", "dmesg | head", "ls -l /", "poweroff -f")


@dataclass(frozen=True)
class Linux:
    """One of the kernels, with what it needs."""

    flavour: str
    busybox: str
    cpu: str
    memory: int

    @property
    def kernel(self) -> Path:
        return DIRECTORY / f"vmlinuz-{self.flavour}"

    def symbols(self) -> Path:
        """What the kernel says of itself in /proc/kallsyms, at the addresses that it has with `nokaslr`.

        The System.map in Debian's package is empty. The kernel is booted for it once.
        """
        path = DIRECTORY / f"kallsyms-{self.flavour}"
        if not path.exists():
            with TemporaryDirectory() as scratch:
                part = path.with_suffix(f".{os.getpid()}")
                part.write_bytes(self._symbols(Path(scratch)))
                part.replace(path)
        return path

    def _symbols(self, scratch: Path) -> bytes:
        disk = scratch / "disk"
        disk.write_bytes(bytes(32 * MIB))
        modules = [self.module(name) for name in ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk")]
        ram_disk = self.ram_disk(scratch / "initrd", modules=modules)
        image = self.image(ram_disk, "console=ttyS0 nokaslr")
        options = {"disk": DiskOption(disk, writable=True, virtio=True)}
        session = Session(image, "bare-metal", self.cpu, self.memory, options)
        session.run_until(PROMPT)
        session.command("cat /proc/kallsyms >/dev/vda; sync")
        lines = disk.read_bytes().partition(b"\0")[0].splitlines(keepends=True)
        return b"".join(line for line in lines if b"[" not in line)  # a module's name is in brackets

    def module(self, name: str) -> Path:
        return DIRECTORY / f"modules-{self.flavour}" / f"{name}.ko"

    def ram_disk(self, path: Path, **options: Any) -> Path:
        """Write its initial RAM disk; `options` are those of `initramfs`."""
        path.write_bytes(initramfs((DIRECTORY / self.busybox).read_bytes(), **options))
        return path

    def image(self, ram_disk: Path, append: str = "console=ttyS0", boot: BootKind | None = None) -> GuestImage:
        return resolve(self.kernel, append=append, initrd=[ram_disk], boot=boot)


CLOUD = Linux("cloud-amd64", "busybox-amd64", "x86-64", 128 * MIB)
KERNEL_686 = Linux("686", "busybox-i386", "core2", 96 * MIB)

needs_real_systems = pytest.mark.skipif(
    not (DIRECTORY / "fetched").exists(), reason="no real systems: run scripts/fetch-real-systems.sh"
)


@dataclass
class Session:
    """A system under a strategy, with somebody at its console."""

    image: GuestImage
    strategy: str
    cpu: str
    memory: int
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = RunConfig(self.cpu, self.memory, 0, LIMIT, **self.options)
        self.trial = Trial(self.image, find(self.strategy), config)
        self.machine = self.trial.machine
        self.machine.board.on_console = self._printed
        self._tail = bytearray()
        self._awaited = b""

    def _printed(self, byte: int) -> None:
        self._tail.append(byte)
        if self._awaited and self._tail.endswith(self._awaited):
            self.machine.pause()

    def run_until(self, text: bytes) -> bytes:
        """Run until the console ends with `text`; what it has printed meanwhile."""
        self._tail.clear()
        self._awaited = text
        self.machine.resume()
        outcome = self.machine.run(LIMIT)
        assert outcome is Outcome.INTERRUPTED, (outcome, bytes(self._tail[-2000:]))
        return bytes(self._tail)

    def command(self, text: str) -> list[str]:
        """Type a command at the prompt; the lines of its output."""
        self.machine.board.input(text.encode() + b"\n")
        return lines(self.run_until(PROMPT))[1:-1]

    def last_command(self, text: str) -> tuple[Outcome, list[str]]:
        """One after which the machine runs no more."""
        self._awaited = b""
        self._tail.clear()
        self.machine.board.input(text.encode() + b"\n")
        self.machine.resume()
        return self.machine.run(LIMIT), lines(bytes(self._tail))[1:]

    def screen(self) -> str:
        shown = self.machine.screen
        assert isinstance(shown, Screen)
        return shown.text

    def run_until_screen(self, wanted: Callable[[str], bool], step: int = 100_000_000) -> str:
        """Run until the screen shows what is wanted."""
        while self.machine.count < LIMIT:
            assert self.machine.run_to(self.machine.count + step) is None
            if wanted(text := self.screen()):
                return text
        raise AssertionError(self.screen())


def lines(console: bytes) -> list[str]:
    """Without what a terminal does with them."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.decode("latin-1")).replace("\r", "").split("\n")


def without_time(text: Iterable[str]) -> list[str]:
    """The lines of a kernel's log without its time stamps."""
    return [re.sub(r"^\[ *\d+\.\d+\] ", "", line) for line in text]
