"""One machine, used for guest after guest: the engine is made once, and a pristine state is restored between them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from simvirt.errors import UnsupportedGuestError
from simvirt.guests.flat import flat_image
from simvirt.machine.machine import Machine
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig, Virtualized
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import DEFAULT_CPU_MODEL, find_cpu_model
from tests.hostile.guests import MEMORY_SIZE, HostileGuest

UNSUPPORTED: Final = "unsupported"


@dataclass(frozen=True, slots=True)
class Report:
    """How one guest ended.

    :ivar outcome: the outcome's value, "unsupported" for what a strategy says it does not virtualize, or None if it
        raised something else.
    :ivar error: what was raised.
    """

    seed: int
    outcome: str | None
    count: int
    seconds: float
    error: str = ""


class Arena:
    """A machine of one strategy that is used again and again."""

    def __init__(self, strategy: str, memory_size: int = MEMORY_SIZE) -> None:
        self.strategy = strategy
        config = MachineConfig(memory_size, find_cpu_model(DEFAULT_CPU_MODEL))
        self.virtualized: Virtualized = find(strategy).build(flat_image(b"\xf4", "pristine"), config)
        self.machine: Machine = self.virtualized.machine
        self._pristine = self.machine.save()

    def reset(self) -> None:
        """The machine as it was before its first guest."""
        self.machine.restore(self._pristine)

    def load(self, guest: HostileGuest) -> None:
        """A fresh machine with `guest` in its memory."""
        self.reset()
        for at, data in guest.pieces:
            self.machine.write_physical(Gpa(at), data)

    def run(self, guest: HostileGuest, instructions: int) -> Report:
        """Run `guest` from the start."""
        self.load(guest)
        begin = time.perf_counter()
        error = ""
        outcome: str | None
        try:
            outcome = self.machine.run(instructions).value
        except UnsupportedGuestError as unsupported:
            outcome, error = UNSUPPORTED, str(unsupported)
        except Exception as anything:  # noqa: BLE001 - whatever it is, it is reported with the guest's seed
            outcome, error = None, f"{type(anything).__name__}: {anything} at {_where(anything)}"
        return Report(guest.seed, outcome, self.machine.count, time.perf_counter() - begin, error)

    def memory(self) -> bytes:
        """What the guest has in its memory."""
        view = self.machine.memory.view
        return b"".join(view[region.host : region.host + region.size] for region in self.machine.space.ram)


def _where(error: BaseException) -> str:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return "?" if traceback is None else f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
