"""Strategies with a known fault: bare metal on which something changes at one instruction, and must be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from simvirt.guests.image import GuestImage
from simvirt.machine.machine import Machine, Processor, Stop
from simvirt.strategies.bare_metal import BareMetal
from simvirt.strategies.strategy import MachineConfig, StrategyInfo, Virtualized
from simvirt.x86.addresses import Gpa
from simvirt.x86.registers import GeneralRegister

Change = Callable[[Machine], None]


def flip_register(register: GeneralRegister, mask: int = 1) -> Change:
    """Flip bits of a general register."""

    def change(machine: Machine) -> None:
        state = machine.processor.guest_state()
        general = list(state.general)
        general[register] ^= mask
        machine.processor.set_guest_state(replace(state, general=tuple(general)))

    return change


def flip_flags(mask: int) -> Change:
    """Flip bits of EFLAGS."""

    def change(machine: Machine) -> None:
        state = machine.processor.guest_state()
        machine.processor.set_guest_state(replace(state, eflags=state.eflags ^ mask))

    return change


def flip_memory(gpa: int, mask: int = 1) -> Change:
    """Flip bits of a byte of guest-physical memory."""

    def change(machine: Machine) -> None:
        value = machine.read_physical(Gpa(gpa), 1)[0] ^ mask
        machine.write_physical(Gpa(gpa), bytes([value]))

    return change


def put_console(byte: int) -> Change:
    """Send a character that the guest did not send."""

    def change(machine: Machine) -> None:
        machine.board.console.append(byte)

    return change


def fail(error: Exception) -> Change:
    """Fail as a monitor with a bug does."""

    def change(_machine: Machine) -> None:
        raise error

    return change


class FaultyProcessor:
    """Runs as the one below it, and after exactly `at` instructions makes the change, once."""

    def __init__(self, machine: Machine, at: int, change: Change) -> None:
        self._machine, self._at, self._change = machine, at, change
        self._below = machine.processor
        self._done = False

    def run(self, limit: int, *, window: bool) -> Stop:
        """As far as the change, or past it."""
        stop = self._below.run(limit if self._done else min(limit, self._at), window=window)
        if not self._done and self._below.count >= self._at:
            self._done = True
            self._change(self._machine)
        return stop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)


class Faulty:
    """Bare metal under another name, with a change at one instruction, or none."""

    def __init__(
        self, at: int = 1 << 60, change: Change | None = None, *, name: str = "faulty", hindrance: str | None = None
    ) -> None:
        self.info: StrategyInfo = replace(BareMetal.info, name=name, aliases=())
        self.name = name
        self.at = at
        self.change = change
        self.hindrance = hindrance

    def obstacle(self, image: GuestImage) -> str | None:
        del image
        return self.hindrance

    def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
        built = BareMetal().build(image, config)
        if self.change is not None:
            built.machine.processor = cast(Processor, FaultyProcessor(built.machine, self.at, self.change))
        return built
