"""QEMU's whole process on the same image: a translator too, and the one that Unicorn was made of."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from benchmarks.machines import MEMORY, WrongEndingError
from benchmarks.processes import spend

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM: Final = "qemu-system-i386"
PLAIN: Final = ()
COUNTED: Final = ("-icount", "shift=0")
"""One instruction is one nanosecond of virtual time, as it is in simvirt."""
_OPTIONS: Final = (
    *("-accel", "tcg", "-cpu", "pentium3", "-m", str(MEMORY >> 20), "-no-reboot", "-nic", "none"),
    *("-display", "none", "-monitor", "none", "-serial", "null", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
)


def is_installed() -> bool:
    """Is there a QEMU to compare with?"""
    return shutil.which(PROGRAM) is not None


def run(image: Path, options: tuple[str, ...] = PLAIN) -> float:
    """Processor seconds of a whole QEMU that boots a multiboot image and ends with it.

    Raises:
        WrongEndingError: it did not end by the debug-exit port with the status 0.
    """
    spent = spend([PROGRAM, *_OPTIONS, *options, "-kernel", str(image)])
    if spent.status != 1:  # twice the guest's status, plus one
        raise WrongEndingError(f"QEMU ended with the status {spent.status} on {image}")
    return spent.cpu
