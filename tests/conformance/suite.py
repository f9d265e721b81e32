"""The conformance guests: what they check, and how one is run on each strategy and under QEMU.

A guest is an assembly source in `guests/`, whose checks each have an identifier, the section of the manual that says
what is to happen, and a title. It prints a line for each check. A check that ends the guest has failed; the guest is
then run again from the check behind it on.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Final

from simvirt.errors import SimvirtError
from simvirt.guests.build import build
from simvirt.guests.image import GuestImage
from simvirt.guests.recognise import recognise
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import find_cpu_model
from tests.differential.machines import CPU, QEMU, boot_rom

GUESTS: Final = Path(__file__).with_name("guests")
MEMORY_SIZE: Final = 32 << 20
LIMIT: Final = 400_000
"""Instructions that a guest may need."""
_CHECK: Final = re.compile(r'^ {4}\w+ (\w+), "([^"]+)", "([^"]+)"', re.MULTILINE)

_INCLUDE: Final = re.compile(r'^#include "(\w+\.h)"', re.MULTILINE)
_MACRO: Final = re.compile(r"^\.macro (\w+_checks)$(.*?)^\.endm$", re.MULTILINE | re.DOTALL)


class Place(Enum):
    """What a guest runs on; the value is the strategy's name."""

    BARE_METAL = "bare-metal"
    VTX = "vtx"
    TRAP_AND_EMULATE = "trap-and-emulate"
    QEMU = "QEMU"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that the manual says."""

    guest: str
    identifier: str
    section: str
    """Of the SDM: volume and section, or volume and instruction."""
    title: str


@dataclass(frozen=True, slots=True)
class Guest:
    """A source, and where it can run."""

    name: str
    places: tuple[Place, ...]

    @property
    def source(self) -> Path:
        """Its file."""
        return GUESTS / f"{self.name}.S"

    @property
    def checks(self) -> tuple[Check, ...]:
        """What it checks, in order."""
        text = self.source.read_text(encoding="utf-8")
        for header in _INCLUDE.findall(text):
            # Checks that several guests share are the body of a macro.
            for name, body in _MACRO.findall((GUESTS / header).read_text(encoding="utf-8")):
                text = re.sub(rf"^    {name}$", lambda _, body=body: body, text, flags=re.MULTILINE)  # type: ignore[misc]
        return tuple(Check(self.name, *found.groups()) for found in _CHECK.finditer(text))

    @property
    def title(self) -> str:
        """The first line of its source, without the name."""
        return self.source.read_text(encoding="utf-8").split("\n", 1)[0].partition(": ")[2].removesuffix(" */")


_EVERYWHERE: Final = (Place.BARE_METAL, Place.VTX, Place.TRAP_AND_EMULATE, Place.QEMU)
_UNMODIFIED: Final = (Place.BARE_METAL, Place.VTX, Place.QEMU)
SUITE: Final = (
    Guest("exceptions", _EVERYWHERE),
    Guest("double_faults", _EVERYWHERE),
    Guest("shadows", _EVERYWHERE),
    Guest("transfers", _EVERYWHERE),
    Guest("tasks", _UNMODIFIED),
    Guest("paging32", _EVERYWHERE),
    Guest("paging_pae", _EVERYWHERE),
    Guest("long", _UNMODIFIED),
    Guest("v86", _UNMODIFIED),
    Guest("real", _UNMODIFIED),
)


@cache
def image(guest: Guest, folder: Path) -> GuestImage:
    """The guest, assembled."""
    return recognise(build(guest.source, folder / f"{guest.name}.elf"))


def results(guest: Guest, place: Place, folder: Path) -> dict[str, str]:
    """What came of each check: "pass", "fail" with what was seen, or how the guest ended in it."""
    run = _run_qemu if place is Place.QEMU else _run_here
    built = image(guest, folder)
    found: dict[str, str] = {}
    checks = guest.checks
    first = 0
    while len(found) < len(checks):
        console, ended = run(built, place, first, folder)
        for line in console.splitlines():
            name, _, values = line[1:].partition(" ")
            found[name] = "pass" if line.startswith("+") else f"fail: {values}"
        missing = [number for number, check in enumerate(checks) if check.identifier not in found]
        if not missing:
            break
        found[checks[missing[0]].identifier] = f"ended: {ended}"
        first = missing[0] + 2
        if first > len(checks):
            break
    return found


def _run_here(built: GuestImage, place: Place, first: int, folder: Path) -> tuple[str, str]:
    del folder
    virtualized = find(place.value).build(built, MachineConfig(MEMORY_SIZE, find_cpu_model("x86-64")))
    machine = virtualized.machine
    at = built.symbols.address("first_check")
    assert at is not None
    machine.write_physical(Gpa(at), first.to_bytes(4, "little"))
    try:
        ended = machine.run(LIMIT).value
    except SimvirtError as error:
        ended = f"{type(error).__name__}: {error}"
    return bytes(machine.board.console).decode("ascii", "replace"), ended


def _run_qemu(built: GuestImage, place: Place, first: int, folder: Path) -> tuple[str, str]:
    del place
    rom, ram = folder / "boot.rom", folder / "conformance.ram"
    rom.write_bytes(boot_rom(built.entry))
    at = built.symbols.address("first_check")
    assert at is not None
    with ram.open("wb") as file:
        file.truncate(MEMORY_SIZE)
        for segment in built.segments:
            file.seek(segment.gpa)
            file.write(segment.data)
        file.seek(at)
        file.write(first.to_bytes(4, "little"))
    command = [QEMU, "-accel", "tcg", "-cpu", CPU, "-m", str(MEMORY_SIZE >> 20), "-bios", str(rom)]
    command += ["-object", f"memory-backend-file,id=ram,mem-path={ram},share=on,size={MEMORY_SIZE}"]
    command += ["-machine", "pc,hpet=off,memory-backend=ram", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    command += ["-nodefaults", "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False, stdin=subprocess.DEVNULL)
        return done.stdout.decode("ascii", "replace"), "finished" if done.returncode & 1 else "triple-fault"
    except subprocess.TimeoutExpired as expired:
        return (expired.stdout or b"").decode("ascii", "replace"), "hangs"
