"""What a machine has to offer to be classified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from simvirt.analyzer.model.experiment import Observation, Pair
    from simvirt.analyzer.model.form import Form
    from simvirt.analyzer.model.outcome import Outcome
    from simvirt.analyzer.model.state import Architecture, State


class MachineModel(Protocol):
    """A machine whose instructions can be executed from any state."""

    @property
    def architecture(self) -> Architecture:
        """The machine's state in terms of the model."""
        ...

    @property
    def engine(self) -> str:
        """What executes, with its version, for the report: ``Unicorn 2.1.4``."""
        ...

    @property
    def exhaustive(self) -> bool:
        """Does `pairs` give every pair of states that the machine has?"""
        ...

    def forms(self) -> Sequence[Form]:
        """The forms of the instruction set, in the order of the report."""
        ...

    def form_names(self) -> Collection[str]:
        """The identifiers of the forms, for which nothing is executed."""
        ...

    def form(self, identifier: str) -> Form:
        """One of the forms.

        :raises UnknownNameError: there is none of this identifier.
        """
        ...

    def pairs(self, form: Form) -> Iterator[Pair]:
        """Pairs of start states to try the form from, the simplest first."""
        ...

    def execute(self, form: Form, start: State) -> Outcome:
        """What the form comes to from this state: a function of the two, whatever was executed before."""
        ...

    def observe(self, form: Form) -> Iterator[Observation]:
        """The form executed from all of `pairs`; a machine may have a quicker way than one by one."""
        ...
