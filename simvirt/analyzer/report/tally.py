"""Counts by group, and what a witness shows in words: the content of every report, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from simvirt.analyzer.model.experiment import Manner
from simvirt.analyzer.model.outcome import Completed, Trapped
from simvirt.analyzer.model.properties import Evidence, Property
from simvirt.analyzer.report.values import text

if TYPE_CHECKING:
    from simvirt.analyzer.model.analysis import Analysis
    from simvirt.analyzer.model.classification import Classification
    from simvirt.analyzer.model.experiment import Witness
    from simvirt.analyzer.model.outcome import Outcome


class Answer(Enum):
    """What an instruction form is to somebody who builds a VMM."""

    CRITICAL = "critical"
    """Sensitive, and does not trap."""
    PRIVILEGED = "privileged"
    """Traps in user mode, under the VMM's configuration."""
    INNOCUOUS = "innocuous"
    """Not sensitive, as far as was tried."""
    DECLARED = "declared"
    """Not executed here; privileged by what is written."""
    UNKNOWN = "unknown"
    """Not executed here, and nothing is written."""


def answer(one: Classification) -> Answer:
    """The answer for one form."""
    if one.form.not_executed:
        privileged = one.holds(Property.PRIVILEGED_UNDER_C0)
        return Answer.DECLARED if privileged or one.evidence is Evidence.DECLARED else Answer.UNKNOWN
    critical = one.critical()
    if critical is None:
        return Answer.UNKNOWN
    if critical:
        return Answer.CRITICAL
    return Answer.PRIVILEGED if one.holds(Property.PRIVILEGED_UNDER_C0) else Answer.INNOCUOUS


@dataclass(frozen=True, slots=True)
class GroupTally:
    """How many forms of a group are what."""

    group: str
    counts: dict[Answer, int]

    @property
    def total(self) -> int:
        """All forms of the group."""
        return sum(self.counts.values())


def by_group(analysis: Analysis) -> tuple[GroupTally, ...]:
    """The groups in the order in which critical forms come first, then by name of first appearance."""
    found: dict[str, dict[Answer, int]] = {}
    for one in analysis.classifications:
        counts = found.setdefault(str(one.form.group), dict.fromkeys(Answer, 0))
        counts[answer(one)] += 1
    tallies = [GroupTally(group, counts) for group, counts in found.items()]
    return tuple(sorted(tallies, key=lambda tally: (-tally.counts[Answer.CRITICAL], -tally.counts[Answer.PRIVILEGED])))


def totals(analysis: Analysis) -> dict[Answer, int]:
    """How many forms of the whole instruction set are what."""
    counts = dict.fromkeys(Answer, 0)
    for one in analysis.classifications:
        counts[answer(one)] += 1
    return counts


def _word(outcome: Outcome) -> str:
    if isinstance(outcome, Completed):
        return "completes"
    return f"traps ({outcome.trap.name})" if isinstance(outcome, Trapped) else "enters the supervisor"


def shows(witness: Witness) -> str:
    """In words, what a witness shows."""
    pair = witness.observation.pair
    component = pair.component.name
    first, second = text(pair.first[component]), text(pair.second[component])
    outcomes = [_word(outcome) for outcome in witness.observation.outcomes]
    if witness.manner is Manner.TRAP_GATED:
        return f"{outcomes[0]} with {component} {first}, {outcomes[1]} with {second}"
    if witness.manner is Manner.TRAP:
        return f"its trap changes {component if not witness.differences else witness.differences[0]}"
    if witness.manner is Manner.NO_TRAP:
        return f"{outcomes[0]} with {component} {first}, and {outcomes[1]} with {second}"
    what = ", ".join(witness.differences[:3]) + (" …" if len(witness.differences) > 3 else "")
    if witness.manner is Manner.CHANGE:
        return f"changes {what}, and nothing traps"
    return f"{what} differ{'s' if len(witness.differences) == 1 else ''} with {component} {first} and {second}"
