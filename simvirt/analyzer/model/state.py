"""What a state consists of: S = <E, M, P, R>, extended by G, C, A and devices (Penneman et al. 2013, §3).

A state is a mapping from names to values. What each name is in the model stands in the machine's `Architecture`, as
data, because verdicts hang on it: a flag that counts as configuration makes its readers sensitive, one that counts as
a general register does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from itertools import compress
from operator import ne
from typing import Final, TypeAlias

Value: TypeAlias = int | str | bytes
State: TypeAlias = Mapping[str, Value]
"""Names of components to their values. Storage is listed *as the program sees it*, through R or A, one name a cell or
block, in brackets: so two states that differ only in R hold the same storage (the papers' e|r)."""

NO_DIFFERENCES: Final[tuple[str, ...]] = ()


class Part(Enum):
    """A part of the state, by its letter."""

    STORAGE = "E"
    """Executable storage."""
    MODE = "M"
    PROGRAM_COUNTER = "P"
    """Relative to R, where there is one."""
    RELOCATION = "R"
    """The relocation-bounds register (l, b)."""
    GENERAL = "G"
    """General registers; Popek and Goldberg leave them out as being like storage."""
    CONFIGURATION = "C"
    """Configuration registers: what a supervisor sets up and a program should neither see nor change."""
    ADDRESS_MAP = "A"
    """What takes R's place on a machine with paging or segments."""
    MEMORY_DEVICES = "D^M"
    PORT_DEVICES = "D^P"


RESOURCES: Final = frozenset({Part.MODE, Part.RELOCATION, Part.CONFIGURATION, Part.ADDRESS_MAP, Part.PORT_DEVICES})
"""The parts that only a control program may change (control sensitivity)."""
RESULTS: Final = frozenset({Part.STORAGE, Part.PROGRAM_COUNTER, Part.GENERAL, Part.MEMORY_DEVICES})
"""The parts in which a program finds its results (behavior sensitivity)."""


@dataclass(frozen=True, slots=True)
class Component:
    """One register, field or flag of the machine, and the part of the state that it belongs to."""

    name: str
    """As the manual spells it: ``EFLAGS.IF``, ``CR4.UMIP``, ``SCTLR``."""
    part: Part
    title: str = ""
    """What it is, in a few words."""


@dataclass(frozen=True)
class Architecture:
    """A machine's state in terms of the model, and which modes play s and u.

    :ivar mode: the component that holds the processor's mode.
    :ivar privileged_modes: the values of `mode` that are privileged, the most usual first.
    :ivar user_mode: the value that plays u; the papers have one unprivileged mode.
    :ivar vmm_configuration: C0, what a VMM sets in C while a guest runs; a state is under C0 if it agrees with all.
    :ivar assumptions: what the papers assume and this machine does not keep, each in a sentence.
    """

    name: str
    components: tuple[Component, ...]
    mode: str
    privileged_modes: tuple[Value, ...]
    user_mode: Value
    vmm_configuration: State = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    @cached_property
    def _parts(self) -> dict[str, Part]:
        return {component.name: component.part for component in self.components}

    def part(self, name: str) -> Part:
        """The part that a name in a state belongs to; names in brackets are storage.

        :raises KeyError: the architecture has no such component.
        """
        return Part.STORAGE if name.startswith("[") else self._parts[name]

    def is_privileged(self, state: State) -> bool:
        """Is the machine in a privileged mode?"""
        return state[self.mode] in self.privileged_modes

    def is_user(self, state: State) -> bool:
        """Is the machine in the mode that plays u?"""
        return state[self.mode] == self.user_mode

    def under_c0(self, state: State) -> bool:
        """Is the configuration the one in which a VMM runs its guests?"""
        return all(state.get(name) == value for name, value in self.vmm_configuration.items())


def changes(start: State, end: State) -> tuple[str, ...]:
    """The names of what an instruction changed.

    >>> changes({"A": 1, "P": 0}, {"A": 1, "P": 1})
    ('P',)
    """
    if start is end:
        return NO_DIFFERENCES
    names = list(end)
    if names[: len(start)] == list(start):  # the usual case, and ten times as quick as by name
        return (*compress(names, map(ne, start.values(), end.values())), *names[len(start) :])
    return tuple(name for name in _names(start, end) if start.get(name) != end.get(name))


def result_differences(starts: tuple[State, State], ends: tuple[State, State]) -> tuple[str, ...]:
    """The names in which the results of two runs differ.

    A difference that was there at the start and that neither run touched is no result.

    >>> result_differences(({"M": 0, "A": 7}, {"M": 1, "A": 7}), ({"M": 0, "A": 0}, {"M": 1, "A": 1}))
    ('A',)
    """
    (start1, start2), (end1, end2) = starts, ends
    return tuple(
        name
        for name in changes(end1, end2)
        if start1.get(name) == start2.get(name)
        or end1.get(name) != start1.get(name)
        or end2.get(name) != start2.get(name)
    )


def _names(first: State, second: State) -> list[str]:
    return list(first) if first.keys() == second.keys() else [*first, *(name for name in second if name not in first)]
