"""The sensitive no-op: an instruction that in one of two states silently does nothing of what it does in the other.

CPS in user mode on ARM, POPF's change of IF, RDSSP with shadow stacks off. It is the hardest kind for a monitor, which
learns of nothing, and no trap: "it does nothing in user mode" does not make an instruction privileged.

One pair is not enough to tell. An instruction that loads 0 does nothing from a state that has 0 there already. So
either one mode drops a change of a resource that the other makes, or the instruction did nothing at all from every
state with that value of the component, and something from its partners.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simvirt.analyzer.model.outcome import Completed
from simvirt.analyzer.model.state import RESOURCES, Part, changes

if TYPE_CHECKING:
    from simvirt.analyzer.model.experiment import Observation
    from simvirt.analyzer.model.state import Architecture, State, Value


@dataclass(slots=True)
class NoOps:
    """What the observations of one form say about it."""

    architecture: Architecture
    dropped: dict[str, Observation] = field(default_factory=dict)
    """By component: a pair of which one run changed another resource, and the other left that alone."""
    _idle: dict[tuple[str, Value], Observation] = field(default_factory=dict)
    """By component and value: a pair whose run from that value did nothing, and the other's something."""
    _worked: set[tuple[str, Value]] = field(default_factory=set)

    def note(self, seen: Observation) -> bool:
        """Look at one pair. Does it say anything?"""
        component = seen.pair.component
        if component.name != self.architecture.mode and component.part is not Part.CONFIGURATION:
            return False
        first, second = seen.outcomes
        if not (isinstance(first, Completed) and isinstance(second, Completed)):
            return False
        starts = (seen.pair.first, seen.pair.second)
        # A configuration register that is set to what it holds already is no work left undone.
        aside = "" if component.name == self.architecture.mode else component.name
        done = [self._work(start, end, aside) for start, end in zip(starts, (first.end, second.end), strict=True)]
        for run, other in ((0, 1), (1, 0)):
            key = (component.name, starts[run][component.name])
            if done[run]:
                self._worked.add(key)
            elif done[other]:
                self._idle.setdefault(key, seen)
        dropped = ({*done[0]} ^ {*done[1]}) - {component.name}
        if not aside and any(self.architecture.part(name) in RESOURCES for name in dropped):
            self.dropped.setdefault(component.name, seen)
        return True

    def found(self) -> dict[str, Observation]:
        """The witnesses, by the component that makes the difference."""
        idle = {name: seen for (name, value), seen in self._idle.items() if (name, value) not in self._worked}
        return {**idle, **self.dropped}

    def _work(self, start: State, end: State, aside: str) -> tuple[str, ...]:
        part = self.architecture.part
        return tuple(name for name in changes(start, end) if part(name) is not Part.PROGRAM_COUNTER and name != aside)
