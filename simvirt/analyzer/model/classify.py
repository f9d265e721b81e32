"""From observations of one form to claims about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.classification import Claim, Classification, Coverage
from simvirt.analyzer.model.definitions import DEFINITIONS, UNIVERSAL, Sign
from simvirt.analyzer.model.experiment import Manner, Observation, Witness
from simvirt.analyzer.model.no_op import NoOps
from simvirt.analyzer.model.outcome import Completed, Trap, TrapKind, Trapped
from simvirt.analyzer.model.properties import Evidence, Property, Reading
from simvirt.analyzer.model.state import changes, result_differences

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from simvirt.analyzer.model.form import Form
    from simvirt.analyzer.model.outcome import Outcome
    from simvirt.analyzer.model.state import Architecture, State

_LEFT_OUT: Final = Trap(-1, "unpredictable", TrapKind.LEFT_OUT)


@dataclass(slots=True)
class _Tally:
    """What the observations have said about one property in one reading."""

    applicable: int = 0
    witnesses: dict[str, Witness] = field(default_factory=dict)
    """By the component that the pair differs in, or by what one run changed: the first of each."""


def classify(
    architecture: Architecture, form: Form, observations: Iterable[Observation], *, exhaustive: bool = False
) -> Classification:
    """All claims about `form`. Observations are tried in their order: put the simplest first, it becomes the witness.

    :param exhaustive: the observations are all pairs of states that the machine has; then universal claims are proved.
    """
    if form.not_executed:
        return Classification(form, _declared(form))
    tallies = {(which, reading): _Tally() for which in DEFINITIONS for reading in Reading}
    no_ops, idle = NoOps(architecture), _Tally()
    said: dict[Hashable, list[_Tally]] = {}
    total = 0
    for seen in observations:
        total += 1
        aspect = _aspect(architecture, seen)
        if aspect not in said:
            counted = {Reading.LETTER: seen, Reading.REPAIRED: _without_unpredictable(architecture, form, seen)}
            said[aspect] = [
                tally
                for (which, reading), tally in tallies.items()
                if _note(
                    tally, form, which, counted[reading], DEFINITIONS[which](architecture, counted[reading], reading)
                )
            ]
            if no_ops.note(counted[Reading.REPAIRED]):
                said[aspect].append(idle)
        for tally in said[aspect]:
            tally.applicable += 1
    claims = {
        (which, reading): _claim(which, tally, Coverage(total, tally.applicable, exhaustive))
        for (which, reading), tally in tallies.items()
    }
    for name, seen in no_ops.found().items():
        ends = (seen.outcomes[0].end, seen.outcomes[1].end)
        differences = result_differences((seen.pair.first, seen.pair.second), ends)
        idle.witnesses[name] = Witness(form, Property.SENSITIVE_NO_OP, seen, Manner.SILENT, differences)
    no_op = _claim(Property.SENSITIVE_NO_OP, idle, Coverage(total, idle.applicable, exhaustive))
    claims |= {(Property.SENSITIVE_NO_OP, reading): no_op for reading in Reading}
    return Classification(form, claims | _promised(architecture, form, claims))


def _aspect(architecture: Architecture, seen: Observation) -> Hashable:
    """All that any definition asks of an observation: those that agree in it say the same, and are judged once."""
    pair, (first, second) = seen.pair, seen.outcomes
    starts = (pair.first, pair.second)
    runs = tuple(
        (
            type(outcome),
            None if isinstance(outcome, Completed) else outcome.trap,
            changes(start, outcome.end),
            start[architecture.mode],
            start.get(pair.component.name),
            architecture.under_c0(start),
        )
        for start, outcome in zip(starts, seen.outcomes, strict=True)
    )
    return pair.component, runs, result_differences(starts, (first.end, second.end))


def _note(tally: _Tally, form: Form, which: Property, seen: Observation, sign: Sign | None) -> bool:
    """Keep the witness, if it is one and the first. Does the observation say anything about this?"""
    if sign is None:
        return False
    # What one run changes does not hang on what the other differs in.
    key = ", ".join(sign.differences) if sign.manner is Manner.CHANGE else seen.pair.component.name
    if sign.shows and key not in tally.witnesses and not (which in UNIVERSAL and tally.witnesses):
        tally.witnesses[key] = Witness(form, which, seen, sign.manner, sign.differences, sign.run)
    return True


def _claim(which: Property, tally: _Tally, coverage: Coverage) -> Claim:
    shown = tuple(tally.witnesses.values())
    if not tally.applicable:
        return Claim(None, Evidence.UNKNOWN, coverage)
    if shown:
        return Claim(which not in UNIVERSAL, Evidence.WITNESSED, coverage, shown)
    return Claim(which in UNIVERSAL, Evidence.PROVED if coverage.exhaustive else Evidence.NOT_REFUTED, coverage)


def _without_unpredictable(architecture: Architecture, form: Form, seen: Observation) -> Observation:
    """The observation without the runs of which the manual leaves open what they come to."""
    open_modes = form.declared.unpredictable_modes
    if not open_modes:
        return seen
    first, second = seen.outcomes

    def kept(start: State, outcome: Outcome) -> Outcome:
        return Trapped(_LEFT_OUT, start) if start[architecture.mode] in open_modes else outcome

    return Observation(seen.pair, (kept(seen.pair.first, first), kept(seen.pair.second, second)))


def _promised(
    architecture: Architecture, form: Form, claims: dict[tuple[Property, Reading], Claim]
) -> dict[tuple[Property, Reading], Claim]:
    """What follows from what the manual leaves open: an outcome that is not promised is no trap to build on."""
    open_modes = form.declared.unpredictable_modes
    marks: dict[tuple[Property, Reading], Claim] = {}
    if form.declared.source:
        mark = Claim(bool(open_modes), Evidence.DECLARED)
        marks |= {(Property.UNPREDICTABLE, reading): mark for reading in Reading}
    if architecture.user_mode in open_modes:
        for which, answer in ((Property.MODE_SENSITIVE, True), *((which, False) for which in UNIVERSAL)):
            coverage = claims[which, Reading.REPAIRED].coverage
            marks[which, Reading.REPAIRED] = Claim(answer, Evidence.DECLARED, coverage)
    return marks


def _declared(form: Form) -> dict[tuple[Property, Reading], Claim]:
    """The claims about a form that was not executed: what is declared, and nothing else."""
    declared = form.declared
    claims: dict[tuple[Property, Reading], Claim] = {}
    for reading in Reading:
        if declared.privileged is not None:
            under_c0 = declared.privileged if declared.privileged_under_c0 is None else declared.privileged_under_c0
            claims[Property.PRIVILEGED, reading] = Claim(declared.privileged, Evidence.DECLARED)
            claims[Property.PRIVILEGED_UNDER_C0, reading] = Claim(under_c0, Evidence.DECLARED)
        if declared.properties is not None:
            claims |= {
                (which, reading): Claim(which in declared.properties, Evidence.DECLARED)
                for which in Property
                if which not in UNIVERSAL
            }
    return claims
