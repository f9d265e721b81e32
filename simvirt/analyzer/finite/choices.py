"""Trying all states, by asking for what matters only.

An instruction is run again and again. The first time it looks at a register or cell, one of the values that this can
hold is chosen; the next runs choose the others. What it never looks at cannot make a difference to it, so the runs
stand for all states of the machine, which are far too many to be tried one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_T = TypeVar("_T")


@dataclass(slots=True)
class Choices:
    """One run's choices, and those still to be made in later runs.

    >>> seen = []
    >>> choices = Choices()
    >>> for _ in choices.runs():
    ...     a = choices.take("a", (0, 1))
    ...     seen.append((a, choices.take("b", "xy")) if a else (a,))
    >>> seen
    [(0,), (1, 'x'), (1, 'y')]
    """

    _path: list[list[int]] = field(default_factory=list)
    """For each choice in order: which value is taken, and how many there are."""
    _depth: int = 0
    _known: dict[str, object] = field(default_factory=dict)

    def runs(self) -> Iterator[None]:
        """One iteration for each run, until all values of everything that was asked for have been taken."""
        while True:
            self._depth = 0
            self._known = {}
            yield
            while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
                self._path.pop()
            if not self._path:
                return
            self._path[-1][0] += 1

    def take(self, name: str, values: Sequence[_T]) -> _T:
        """The value that `name` has in this run."""
        if name in self._known:
            return self._known[name]  # type: ignore[return-value]  # by name always of the same kind
        if self._depth == len(self._path):
            self._path.append([0, len(values)])
        chosen = values[self._path[self._depth][0]]
        self._depth += 1
        self._known[name] = chosen
        return chosen

    def settle(self, name: str, value: object) -> None:
        """Give `name` a value for the rest of this run, of which no other run tries another."""
        self._known[name] = value

    def known(self, name: str) -> bool:
        """Has this run asked for it?"""
        return name in self._known
