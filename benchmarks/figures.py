"""What the benchmarks find, as values: timings, targets, figures, and the report that holds them."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from enum import Enum
from statistics import median
from typing import Any, Final

SCHEMA: Final = "simvirt.bench/1"


class Unit(Enum):
    """What a figure counts."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "µs"
    MIPS = "million instructions/s"
    PER_SECOND = "/s"
    RATIO = "×"
    MEBIBYTES = "MiB"
    YES_OR_NO = "yes or no"


class Direction(Enum):
    """Which side of a limit is the good one."""

    AT_LEAST = "≥"
    AT_MOST = "≤"


@dataclass(frozen=True, slots=True)
class Target:
    """What the project wants of a figure."""

    direction: Direction
    limit: float

    def met_by(self, value: float) -> bool:
        """Is `value` on the good side of the limit?

        >>> at_most(8).met_by(7.5), at_least(3).met_by(2.9)
        (True, False)
        """
        compare = operator.ge if self.direction is Direction.AT_LEAST else operator.le
        return bool(compare(value, self.limit))

    def __str__(self) -> str:
        return f"{self.direction.value} {self.limit:g}"


def at_least(limit: float) -> Target:
    """A figure that should be this or more."""
    return Target(Direction.AT_LEAST, limit)


def at_most(limit: float) -> Target:
    """A figure that should be this or less."""
    return Target(Direction.AT_MOST, limit)


@dataclass(frozen=True, slots=True)
class Timing:
    """The same thing timed once a round.

    The least is what the work itself takes: other programs can only add to it. The median tells how much they did.

    >>> timing = Timing((3.0, 2.0, 9.0))
    >>> timing.least, timing.median
    (2.0, 3.0)
    """

    seconds: tuple[float, ...]

    @property
    def least(self) -> float:
        """The quickest round."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The round in the middle."""
        return median(self.seconds)

    def times_as_fast_as(self, other: Timing) -> tuple[float, float]:
        """How many times quicker this is than `other`: by the least of each, and the median over rounds, pair by pair.

        >>> Timing((1.0, 2.0)).times_as_fast_as(Timing((4.0, 6.0)))
        (4.0, 3.5)
        """
        pairs = [theirs / mine for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        return other.least / self.least, median(pairs)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: what of which subject, and what is wanted of it."""

    subject: str
    quantity: str
    value: float
    unit: Unit
    median: float | None = None
    target: Target | None = None

    @property
    def met(self) -> bool | None:
        """Is the target met? None where there is none."""
        return None if self.target is None else self.target.met_by(self.value)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "subject": self.subject,
            "quantity": self.quantity,
            "value": self.value,
            "median": self.median,
            "unit": self.unit.value,
            "target": str(self.target) if self.target else None,
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Section:
    """The figures of one benchmark, and what a reader has to know about them."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "name": self.name,
            "title": self.title,
            "figures": [figure.to_dict() for figure in self.figures],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run of the benchmarks."""

    host: dict[str, str]
    rounds: int
    sections: list[Section] = field(default_factory=list)

    @property
    def missed(self) -> list[tuple[Section, Figure]]:
        """Every figure that is not what is wanted."""
        return [(section, figure) for section in self.sections for figure in section.figures if figure.met is False]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "schema": SCHEMA,
            "host": self.host,
            "rounds": self.rounds,
            "sections": [section.to_dict() for section in self.sections],
        }
