"""What one operation came to under one strategy: what was counted, and this host's time."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import Enum

    from simvirt.observe.trial import Trial

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Moment:
    """What a trial's counters and this process's clock show at one moment."""

    instructions: int
    emulated: int
    exits: Mapping[Enum, int]
    delivered: Mapping[int, int]
    seconds: float

    @classmethod
    def of(cls, trial: Trial) -> Moment:
        """Now. The time is the processor's for this process, which other processes do not lengthen."""
        log = trial.log
        delivered = trial.cpu.engine.deliveries.by_vector
        return cls(trial.count, log.emulated_instructions, dict(log.counts), delivered, time.process_time())


@dataclass(frozen=True, slots=True)
class Expense:
    """One operation, or a number of them.

    Attributes:
        instructions: guest instructions.
        emulated: how many of them the VMM executed.
        exits: exits by reason.
        delivered: interrupts and exceptions that the processor has delivered, by vector.
        seconds: processor time of this host.
    """

    instructions: float
    emulated: float
    exits: Mapping[Enum, float]
    delivered: Mapping[int, float]
    seconds: float

    @classmethod
    def between(cls, before: Moment, after: Moment) -> Expense:
        """All that happened from one moment to another."""
        return cls(
            after.instructions - before.instructions,
            after.emulated - before.emulated,
            _added(after.exits, 1, before.exits, -1),
            _added(after.delivered, 1, before.delivered, -1),
            after.seconds - before.seconds,
        )

    def plus(self, other: Expense, times: float = 1) -> Expense:
        """This and the other so many times."""
        return Expense(
            self.instructions + times * other.instructions,
            self.emulated + times * other.emulated,
            _added(self.exits, 1, other.exits, times),
            _added(self.delivered, 1, other.delivered, times),
            self.seconds + times * other.seconds,
        )

    def times(self, factor: float) -> Expense:
        """So many of this."""
        return NOTHING.plus(self, factor)

    @property
    def interventions(self) -> float:
        """All exits."""
        return sum(self.exits.values())

    def counted(self) -> dict[str, Any]:
        """What is counted, as it stands in JSON."""
        return {
            "instructions": round(self.instructions, 3),
            "emulated_instructions": round(self.emulated, 3),
            "exits": round(self.interventions, 3),
            "exits_by_reason": {reason.name: round(number, 3) for reason, number in sorted_exits(self.exits)},
        }


def sorted_exits(exits: Mapping[Enum, float]) -> list[tuple[Enum, float]]:
    """The most frequent reason first."""
    return sorted(exits.items(), key=lambda item: (-item[1], item[0].name))


def _added(left: Mapping[K, float], of_left: float, right: Mapping[K, float], of_right: float) -> dict[K, float]:
    total: Counter[K] = Counter()
    for part, factor in ((left, of_left), (right, of_right)):
        for key, number in part.items():
            total[key] += factor * number  # type: ignore[assignment]  # a Counter holds any number
    return {key: number for key, number in total.items() if number}


NOTHING = Expense(0, 0, {}, {}, 0.0)
