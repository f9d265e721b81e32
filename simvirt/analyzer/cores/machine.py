"""Pairs of states of a processor on Unicorn, and what its instructions do from them."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from simvirt.analyzer.cores import description
from simvirt.analyzer.cores.processor import DATA_NAME, DATA_SIZE, ENGINE
from simvirt.analyzer.model.experiment import Observation, Pair
from simvirt.analyzer.model.outcome import Completed
from simvirt.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from simvirt.analyzer.cores.processor import CoreProcessor
    from simvirt.analyzer.model.form import Form
    from simvirt.analyzer.model.outcome import Outcome
    from simvirt.analyzer.model.state import Component, State, Value

_FILL = bytes(range(0x11, 0x11 + DATA_SIZE))


class CoreMachine:
    """A processor on Unicorn as the definitions want it."""

    exhaustive = False
    engine = ENGINE

    def __init__(self, processor: CoreProcessor) -> None:
        self._processor = processor
        self._told = processor.told
        self.architecture = description.architecture(self._told)
        self._rows = {description.identifier(self._told.machine.name, row.text): row for row in self._told.form}

    def forms(self) -> Sequence[Form]:
        """The forms of the file."""
        return [description.form(self._told, row) for row in self._rows.values()]

    def form_names(self) -> Collection[str]:
        """The identifiers of the forms."""
        return self._rows.keys()

    def form(self, identifier: str) -> Form:
        """One of the forms.

        :raises UnknownNameError: there is none of this identifier.
        """
        if identifier not in self._rows:
            raise UnknownNameError("form", identifier, self._rows)
        return description.form(self._told, self._rows[identifier])

    def pairs(self, form: Form) -> Iterator[Pair]:
        """Pairs that differ in the mode, from each start state, and under C0; then in what the form asks to vary.

        The latter in each mode: a register may matter to the supervisor alone.
        """
        row = self._rows[form.identifier]
        components = {one.name: one for one in self.architecture.components}
        tried = {one.name: one.tried for one in self._told.component}
        mode = self.architecture.mode
        modes: list[Value] = [*self._told.machine.privileged]
        user = self._told.machine.user
        for start in row.starts:
            for privileged in modes:
                yield self._pair(start, {}, components[mode], (privileged, user))
        if self.architecture.vmm_configuration:
            for start in row.starts:
                for privileged in modes:
                    yield self._pair(start, self.architecture.vmm_configuration, components[mode], (privileged, user))
        for name in row.vary:
            for start in row.starts:
                for value in (*modes, user):
                    for values in combinations(tried[name], 2):
                        yield self._pair(start, {mode: value}, components[name], values)

    def execute(self, form: Form, start: State) -> Outcome:
        """One instruction, on an engine of its own."""
        outcome = self._processor.execute(form.encoding, start)
        exempt = self._rows[form.identifier].exempt
        if exempt and isinstance(outcome, Completed):
            return Completed({**outcome.end, **{name: start[name] for name in exempt}})
        return outcome

    def observe(self, form: Form) -> Iterator[Observation]:
        """The form from all its pairs."""
        for pair in self.pairs(form):
            yield Observation(pair, (self.execute(form, pair.first), self.execute(form, pair.second)))

    def _pair(self, start: State, fixed: State, component: Component, values: tuple[Value, Value]) -> Pair:
        plain: dict[str, Value] = {**self._told.machine.start, DATA_NAME: _FILL, **start, **fixed}
        if isinstance(plain[DATA_NAME], str):
            plain[DATA_NAME] = bytes.fromhex(str(plain[DATA_NAME])).ljust(DATA_SIZE, b"\0")
        return Pair({**plain, component.name: values[0]}, {**plain, component.name: values[1]}, component)
