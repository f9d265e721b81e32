"""Reads that take their time when a program does nothing else.

A program that waits for a counter, a timer or a status bit reads it over and over. On a real bus such a read takes
about a microsecond; here an instruction takes a nanosecond, and a wait of 50 ms would be millions of reads. So one that
follows `LOOKS_OF_A_READER` others without a pause between them takes a microsecond of virtual time, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.clock import Clock

LOOKS_OF_A_READER: Final = 64
ACCESS_NS: Final = 1000
"""How long a read takes then; reads that are further apart are no polling."""


@dataclass(frozen=True, slots=True)
class SlowReadsState:
    """How often the program has looked, and when it did last."""

    looks: int = 0
    looked_at: int = 0


class SlowReads:
    """The reads of one register, or of some that are waited for alike; `wait` lets that many nanoseconds pass."""

    __slots__ = ("_clock", "_looked_at", "_looks", "_wait")

    def __init__(self, clock: Clock, wait: Callable[[int], None]) -> None:
        self._clock = clock
        self._wait = wait
        self._looks = self._looked_at = 0

    def look(self) -> None:
        """A read is about to be answered."""
        now = self._clock.now()
        self._looks = self._looks + 1 if now - self._looked_at <= ACCESS_NS else 0
        if self._looks > LOOKS_OF_A_READER:
            self._wait(ACCESS_NS)
        self._looked_at = self._clock.now()

    def interrupted(self) -> None:
        """The program does something else with the device."""
        self._looks = 0

    def save(self) -> SlowReadsState:
        """Everything, as a value."""
        return SlowReadsState(self._looks, self._looked_at)

    def restore(self, state: SlowReadsState) -> None:
        """Take up a saved state; with `SlowReadsState()` that of power-on."""
        self._looks, self._looked_at = state.looks, state.looked_at
