"""A pair of states that differ in one component, what came of both, and the witness that remains."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvirt.analyzer.model.form import Form
    from simvirt.analyzer.model.outcome import Outcome
    from simvirt.analyzer.model.properties import Property
    from simvirt.analyzer.model.state import Component, State


@dataclass(frozen=True, slots=True)
class Pair:
    """Two states that differ in exactly one component.

    Of a pair that differs in the mode, the first is the privileged one.
    """

    first: State
    second: State
    component: Component


@dataclass(frozen=True, slots=True)
class Observation:
    """A pair of states and what an instruction came to from each."""

    pair: Pair
    outcomes: tuple[Outcome, Outcome]


class Manner(Enum):
    """How a witness shows its property."""

    CHANGE = "change"
    """One run changed what only a control program may change, and nothing trapped."""
    TRAP = "trap"
    """Its trap, or call, changed the mode: control sensitive by the letter alone."""
    SILENT = "silent"
    """The two runs ended differently, and nobody trapped."""
    TRAP_GATED = "trap-gated"
    """One run trapped, or entered the supervisor, and the other did not."""
    NO_TRAP = "no-trap"
    """A counter-example to being privileged: it did not trap where it should, or did where it should not."""


@dataclass(frozen=True, slots=True)
class Witness:
    """What shows that a form has a property, or has it not where the property is universal.

    :ivar differences: the components that show it: what a run changed, or in which the results differ.
    :ivar run: for `CHANGE` and `TRAP`, which of the two runs (0 or 1) shows it.
    """

    form: Form
    shows: Property
    observation: Observation
    manner: Manner
    differences: tuple[str, ...] = ()
    run: int | None = None

    @property
    def identifier(self) -> str:
        """The same for as long as form, property, component and start states are: ``popfd/mode-sensitive/1f0a33c2``."""
        pair = self.observation.pair
        text = repr((pair.component.name, sorted(pair.first.items()), sorted(pair.second.items())))
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        return f"{self.form.identifier}/{self.shows.value}/{digest}"
