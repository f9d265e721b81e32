"""The two runs of a witness side by side: the components that differ, that changed, or that show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.analyzer.model.outcome import Completed
from simvirt.analyzer.model.state import changes
from simvirt.analyzer.report.values import text

if TYPE_CHECKING:
    from simvirt.analyzer.model.experiment import Witness
    from simvirt.analyzer.model.outcome import Outcome
    from simvirt.analyzer.model.state import State


@dataclass(frozen=True, slots=True)
class RunRow:
    """A component in both runs, at their starts and at their ends."""

    component: str
    part: str
    """By its letter in the model."""
    values: tuple[str, str, str, str]
    """First run's start and end, second run's start and end; an end that is its start is empty."""
    mark: str
    """Why it is shown: "differs" at the start, or "result"."""


def outcome_text(outcome: Outcome) -> str:
    """What a run came to, in words."""
    if isinstance(outcome, Completed):
        return "completed"
    trap = outcome.trap
    code = "" if trap.error_code is None else f"({trap.error_code:#x})"
    return f"{'trapped' if type(outcome).__name__ == 'Trapped' else 'entered the supervisor'}: {trap.name}{code}"


def rows(witness: Witness, part: dict[str, str]) -> tuple[RunRow, ...]:
    """The rows, in the order of the state; `part` gives the letter of each component."""
    seen = witness.observation
    starts = (seen.pair.first, seen.pair.second)
    ends = (seen.outcomes[0].end, seen.outcomes[1].end)
    shown = {seen.pair.component.name, *witness.differences}
    for start, end in zip(starts, ends, strict=True):
        shown.update(changes(start, end))
    names = [name for name in dict.fromkeys([*starts[0], *ends[0], *ends[1]]) if name in shown]
    return tuple(
        RunRow(
            name,
            part.get(name, "E"),
            (*_values(starts[0], ends[0], name), *_values(starts[1], ends[1], name)),
            "differs" if name == seen.pair.component.name else "result" if name in witness.differences else "",
        )
        for name in names
    )


def _values(start: State, end: State, name: str) -> tuple[str, str]:
    before, after = text(start.get(name)), text(end.get(name))
    return before, "" if start.get(name) == end.get(name) else after
