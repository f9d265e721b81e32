"""Strategies with a known fault: bare metal on which something changes at one instruction, and must be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from simvirt.guests.image import GuestImage
from simvirt.machine.machine import Machine, Processor, Stop
from simvirt.strategies.bare_metal import BareMetal
from simvirt.strategies.strategy import MachineConfig, StrategyInfo, Virtualized

Change = Callable[[Machine], None]


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


@dataclass(frozen=True)
class Faulty:
    """Bare metal under another name, with a change at one instruction."""

    at: int
    change: Change
    name: str = "faulty"

    @property
    def info(self) -> StrategyInfo:
        return replace(BareMetal.info, name=self.name, aliases=())

    def obstacle(self, image: GuestImage) -> str | None:
        del image
        return None

    def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
        built = BareMetal().build(image, config)
        built.machine.processor = cast(Processor, FaultyProcessor(built.machine, self.at, self.change))
        return built
