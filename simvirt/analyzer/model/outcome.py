"""What executing one instruction from one state came to.

Popek and Goldberg know a trap and everything else. A modern machine needs a third outcome: an instruction whose very
purpose is to enter the supervisor, SVC or INT n, has done what it was asked to do when it did. `Called` is that; the
letter of the definitions takes it for a trap, the repaired reading for a result (`definitions`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from simvirt.analyzer.model.state import State


class TrapKind(Enum):
    """What a trap is about, where the definitions ask for that."""

    MEMORY = "memory"
    """An access that bounds, segments or paging refuse: the papers' memory trap, exempt from most definitions."""
    ARITHMETIC = "arithmetic"
    """An arithmetic exception: exempt from control sensitivity by a footnote."""
    LEFT_OUT = "left-out"
    """No trap of the machine: stands for a run that is not to count, since the manual leaves open what happens."""
    OTHER = "other"
    """The mode, an operand, or the configuration."""


@dataclass(frozen=True, slots=True)
class Trap:
    """The vector that a trap went through."""

    vector: int
    name: str
    """As the manual spells it: ``#GP``, ``privilege violation``."""
    kind: TrapKind = TrapKind.OTHER
    error_code: int | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """The instruction did its work, and the machine is in state `end`."""

    end: State


@dataclass(frozen=True, slots=True)
class Trapped:
    """The instruction trapped. `end` is the state that the trap found: before the trap sequence's own effects."""

    trap: Trap
    end: State


@dataclass(frozen=True, slots=True)
class Called:
    """The instruction entered the supervisor on purpose, through a vector. `end` is as for a trap."""

    trap: Trap
    end: State


Outcome: TypeAlias = Completed | Trapped | Called


def is_exempt(outcome: Outcome) -> bool:
    """Is it a memory trap, which the definitions except, or a run that is not to count?"""
    return isinstance(outcome, Trapped) and outcome.trap.kind in {TrapKind.MEMORY, TrapKind.LEFT_OUT}
