"""What a run can be stopped at by name: exit reasons of its strategy, and vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import UnknownNameError
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from simvirt.strategies.strategy import Strategy

_VECTORS: Final = 256


def event_named(strategy: Strategy, word: str) -> int | str:
    """A vector, from a number or the manual's name for it, or an exit reason of this strategy, by its name.

    Raises:
        UnknownNameError: it is neither; the message names the nearest.
    """
    name = word.upper().replace("-", "_")
    try:
        number = int(word, 0)
    except ValueError:
        number = -1
    if 0 <= number < _VECTORS:
        return number
    if name.startswith("#") and name[1:] in Vector.__members__:
        return int(Vector[name[1:]])
    reasons = [reason.name for reason in strategy.info.exit_reasons or ()]
    if name in reasons:
        return name
    if name in Vector.__members__:
        return int(Vector[name])
    raise UnknownNameError("exit reason or vector", word, [*reasons, *(f"#{vector.name}" for vector in Vector)])
