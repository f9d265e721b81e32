"""Counts by group, and the critical forms by mnemonic: the content of every report, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.experiment import Manner
from simvirt.analyzer.model.outcome import Called, Completed, Trapped
from simvirt.analyzer.model.properties import SENSITIVE, Evidence, Property
from simvirt.analyzer.report.values import text

if TYPE_CHECKING:
    from simvirt.analyzer.model.analysis import Analysis
    from simvirt.analyzer.model.classification import Classification
    from simvirt.analyzer.model.experiment import Witness


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


LETTERS: Final = {
    Property.CONTROL_SENSITIVE: "control",
    Property.MODE_SENSITIVE: "mode",
    Property.CONFIGURATION_SENSITIVE: "configuration",
    Property.LOCATION_SENSITIVE: "location",
}
"""The kinds of sensitivity, in one word each."""


@dataclass(frozen=True, slots=True)
class CriticalLine:
    """All critical forms of one mnemonic in one group."""

    group: str
    mnemonic: str
    forms: tuple[Classification, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """In which ways it is sensitive."""
        shown = {which for one in self.forms for which in SENSITIVE if one.holds(which)}
        return tuple(LETTERS[which] for which in SENSITIVE if which in shown)

    @property
    def is_no_op(self) -> bool:
        """Does it silently do nothing where it should do something?"""
        return any(one.holds(Property.SENSITIVE_NO_OP) for one in self.forms)

    @property
    def witness(self) -> Witness | None:
        """The plainest evidence: a silent one before one that a trap shows; None where a manual's word is all."""
        found = [witness for one in self.forms for which in SENSITIVE for witness in one.claim(which).witnesses]
        plainest = sorted(found, key=lambda witness: (witness.manner is not Manner.SILENT, not witness.differences))
        return plainest[0] if plainest else None

    @property
    def seen(self) -> str:
        """What the plainest evidence shows, in words."""
        if self.witness is not None:
            return shows(self.witness)
        return f"declared, not seen: {self.forms[0].form.declared.source}"

    @property
    def listed(self) -> str:
        """Is it in the literature? "yes", "prose", "no", or "" where nobody lists it."""
        facts = (str(one.form.declared.facts.get("paper", "")) for one in self.forms)
        return next((fact for fact in facts if fact), "")


def critical_lines(analysis: Analysis) -> tuple[CriticalLine, ...]:
    """The critical forms, those of one mnemonic in a line, in the order of groups."""
    lines: dict[tuple[str, str], list[Classification]] = {}
    for one in analysis.critical():
        lines.setdefault((str(one.form.group), one.form.mnemonic), []).append(one)
    order = [tally.group for tally in by_group(analysis)]
    found = [CriticalLine(group, mnemonic, tuple(forms)) for (group, mnemonic), forms in lines.items()]
    return tuple(sorted(found, key=lambda line: order.index(line.group)))


_WORDS: Final = {Completed: "completes", Trapped: "traps", Called: "enters the supervisor"}


def shows(witness: Witness) -> str:
    """In words, what a witness shows."""
    pair = witness.observation.pair
    component = pair.component.name
    first, second = text(pair.first[component]), text(pair.second[component])
    if witness.manner is Manner.TRAP_GATED:
        outcomes = [_WORDS[type(outcome)] for outcome in witness.observation.outcomes]
        return f"{outcomes[0]} with {component} {first}, {outcomes[1]} with {second}"
    if witness.manner is Manner.TRAP:
        return f"its trap changes {component if not witness.differences else witness.differences[0]}"
    if witness.manner is Manner.NO_TRAP:
        outcomes = [_WORDS[type(outcome)] for outcome in witness.observation.outcomes]
        return f"{outcomes[0]} with {component} {first}, and {outcomes[1]} with {second}"
    what = ", ".join(witness.differences[:3]) + (" …" if len(witness.differences) > 3 else "")
    if witness.manner is Manner.CHANGE:
        return f"changes {what}, and nothing traps"
    return f"{what} differ{'s' if len(witness.differences) == 1 else ''} with {component} {first} and {second}"
