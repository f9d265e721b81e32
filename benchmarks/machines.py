"""simvirt as a contestant: a guest on a machine of one strategy, through the interfaces that `simvirt run` uses."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Final

from benchmarks.timing import cpu_seconds
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig
from simvirt.x86.cpuid import DEFAULT_CPU_MODEL, find_cpu_model

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage
    from simvirt.machine.machine import Machine

MEMORY: Final = 64 << 20
BARE, VTX, TAE = "bare-metal", "vtx", "trap-and-emulate"
STRATEGIES: Final = (BARE, VTX, TAE)


class WrongEndingError(RuntimeError):
    """A guest did not end as it should have, so its time means nothing."""


def build(image: GuestImage, strategy: str) -> Machine:
    """A machine with the guest loaded and ready, alone in the process as it is in a run of its own.

    Machines are cyclic garbage when nobody needs them any more. Until Python collects them they keep their memory, and
    what is mapped meanwhile lies far from the libraries, which has halved the speed of translated code.
    """
    gc.collect()
    return find(strategy).build(image, MachineConfig(MEMORY, find_cpu_model(DEFAULT_CPU_MODEL))).machine


def run_to_end(image: GuestImage, strategy: str) -> tuple[float, Machine]:
    """Processor seconds from the guest's first instruction to its last, without the building of the machine.

    Raises:
        WrongEndingError: the guest did not write to the debug-exit port.
    """
    machine = build(image, strategy)
    seconds = cpu_seconds(machine.run)
    if machine.board.exit_status is None:
        raise WrongEndingError(f"{image.name} under {strategy} ended as {machine.outcome}")
    return seconds, machine
