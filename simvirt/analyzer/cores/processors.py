"""The processors there are, by the names of their files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.analyzer.cores.arm import ArmA32
from simvirt.analyzer.cores.description import load
from simvirt.analyzer.cores.m68k import M68000
from simvirt.analyzer.cores.machine import CoreMachine
from simvirt.analyzer.cores.riscv import Rv64

if TYPE_CHECKING:
    from simvirt.analyzer.cores.processor import CoreProcessor

_PROCESSORS: Final[dict[str, type[CoreProcessor]]] = {"arm": ArmA32, "riscv64": Rv64, "m68k": M68000}


def machine(name: str) -> CoreMachine:
    """The processor of this name, to be classified."""
    return CoreMachine(_PROCESSORS[name](load(name)))
