"""The definitions, each a predicate on one observation: does this pair of runs show it, or refute it, and how?

An existential definition ("there is a state …") is witnessed by one observation. A universal one (privileged) is
refuted by one. Predicates answer with a `Sign`, or None where the pair says nothing about the definition.

Two readings of each. The letter, where Popek and Goldberg's machine has nothing like it, breaks on modern ones:

privileged
    *Letter*: from every pair that differs in the mode and does not memory-trap, user mode traps and the supervisor does
    not. WRMSR of a bad address traps in both: not privileged. SVC traps in both: not privileged.
    *Repaired*: pairs in which both trap say nothing, since an operand fault is no privilege trap. An instruction that
    calls the supervisor has not trapped, it has done its work.

control sensitive
    *Letter*: it changes M or R (or C, A, D^P), other than by a memory or an arithmetic trap. Any trap from user mode
    changes M, so SVC is control sensitive.
    *Repaired*: it completes, and has changed one of them. Traps and calls go through the vector, where the VMM waits.

mode sensitive
    *Letter*: both runs of a pair complete and leave M and R as they were; storage, registers or P differ.
    *Repaired*: both complete and anything differs; or one traps and the other does not.

configuration sensitive (Penneman et al., Definition 9)
    *Letter*: results differ, or one run traps and the other does not. FADD is, by CR0.TS.
    *Repaired*: both complete and anything differs: *silent* differences only. A trap that the configuration asks for is
    how a VMM wants it.

location sensitive
    *Letter*: as mode sensitive, for pairs that differ in R or A.
    *Repaired*: both complete and anything differs.

user sensitive, supervisor sensitive
    Control or location sensitive from a state in that mode, of the same reading. Penneman's user sensitive: control or
    configuration sensitive from a state in user mode.

Where the manual calls a mode's outcome unpredictable, what one machine does there promises nothing. `classify` takes
such a form for not privileged and mode sensitive in the repaired reading, on the manual's word, and passes over
observations from that mode.

Popek & Goldberg 1974, §3; Penneman et al. 2013, Definitions 6 to 12.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from simvirt.analyzer.model.experiment import Manner, Observation
from simvirt.analyzer.model.outcome import Called, Completed, TrapKind, Trapped, is_exempt
from simvirt.analyzer.model.properties import Property, Reading
from simvirt.analyzer.model.state import RESOURCES, RESULTS, Part, changes, result_differences

if TYPE_CHECKING:
    from simvirt.analyzer.model.outcome import Outcome
    from simvirt.analyzer.model.state import Architecture, State


@dataclass(frozen=True, slots=True)
class Sign:
    """What one observation says about one definition.

    :ivar shows: it witnesses the existential definition, or refutes the universal one.
    """

    shows: bool
    manner: Manner = Manner.SILENT
    differences: tuple[str, ...] = ()
    run: int | None = None


_NO: Final = Sign(shows=False)

Predicate: TypeAlias = Callable[["Architecture", Observation, Reading], Sign | None]


# ------------------------------------------------------------------------------------------------------- privileged
def not_privileged(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """Does the pair refute that the instruction is privileged? Only pairs that differ in the mode say anything."""
    if seen.pair.component.name != architecture.mode or any(is_exempt(outcome) for outcome in seen.outcomes):
        return None
    supervisor, user = seen.outcomes
    if reading is Reading.LETTER:
        return _NO if _leaves_program(user) and isinstance(supervisor, Completed) else Sign(True, Manner.NO_TRAP)
    if isinstance(user, Trapped):
        return None if isinstance(supervisor, Trapped) else _NO
    return Sign(True, Manner.NO_TRAP)


def not_privileged_under_c0(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """The same, for a guest in the configuration that a VMM sets up."""
    return not_privileged(architecture, seen, reading) if architecture.under_c0(seen.pair.second) else None


# ------------------------------------------------------------------------------------------------ control sensitive
def control_sensitive(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """Has one of the runs changed what only a control program may change?"""
    return _control(architecture, seen, reading, lambda _: True)


def _control(
    architecture: Architecture, seen: Observation, reading: Reading, wanted: Callable[[State], bool]
) -> Sign | None:
    said = None
    for run, (start, outcome) in enumerate(zip((seen.pair.first, seen.pair.second), seen.outcomes, strict=True)):
        if not wanted(start) or is_exempt(outcome):
            continue
        said = _NO
        changed = tuple(name for name in changes(start, outcome.end) if architecture.part(name) in RESOURCES)
        if isinstance(outcome, Completed):
            if changed:
                return Sign(True, Manner.CHANGE, changed, run)
        elif (
            reading is Reading.LETTER and outcome.trap.kind is TrapKind.OTHER and not architecture.is_privileged(start)
        ):
            return Sign(True, Manner.TRAP, (architecture.mode,), run)
    return said


# ----------------------------------------------------------------------------------------------- behavior sensitive
def mode_sensitive(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """Do the runs of a pair that differs in the mode come to different things?"""
    if seen.pair.component.name != architecture.mode:
        return None
    return _by_letter(architecture, seen) if reading is Reading.LETTER else _with_traps(seen)


def configuration_sensitive(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """Do the runs of a pair that differs in a configuration register come to different things?"""
    del architecture
    if seen.pair.component.part not in {Part.CONFIGURATION, Part.PORT_DEVICES}:
        return None
    return _with_traps(seen) if reading is Reading.LETTER else _silent(seen)


def location_sensitive(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """Do the runs of a pair that differs in where its storage really is come to different things?"""
    if seen.pair.component.part not in {Part.RELOCATION, Part.ADDRESS_MAP}:
        return None
    return _by_letter(architecture, seen) if reading is Reading.LETTER else _silent(seen)


def virtual_location_sensitive(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """Do the runs of a pair that differs in P leave different results, other than P itself?"""
    del architecture, reading
    if seen.pair.component.part is not Part.PROGRAM_COUNTER:
        return None
    said = _silent(seen)
    if said is None or not said.shows:
        return said
    differences = tuple(name for name in said.differences if name != seen.pair.component.name)
    return Sign(bool(differences), Manner.SILENT, differences)


def _by_letter(architecture: Architecture, seen: Observation) -> Sign | None:
    """Both complete with M and R as they were; storage, registers or P differ."""
    ends = _both_completed(seen)
    if ends is None:
        return None
    starts = (seen.pair.first, seen.pair.second)
    kept = {Part.MODE, Part.RELOCATION}
    if any(architecture.part(name) in kept for run in (0, 1) for name in changes(starts[run], ends[run])):
        return None
    found = tuple(name for name in result_differences(starts, ends) if architecture.part(name) in RESULTS)
    return Sign(bool(found), Manner.SILENT, found)


def _silent(seen: Observation) -> Sign | None:
    """Both complete, and anything differs."""
    ends = _both_completed(seen)
    if ends is None:
        return None
    found = result_differences((seen.pair.first, seen.pair.second), ends)
    return Sign(bool(found), Manner.SILENT, found)


def _with_traps(seen: Observation) -> Sign | None:
    """As `_silent`; and one that traps, or calls the supervisor, differs from one that does not."""
    first, second = seen.outcomes
    if is_exempt(first) or is_exempt(second):
        return None
    if type(first) is not type(second):
        return Sign(True, Manner.TRAP_GATED)
    if isinstance(first, Called) and isinstance(second, Called):
        return Sign(first.trap.vector != second.trap.vector, Manner.SILENT)
    return _NO if isinstance(first, Trapped) else _silent(seen)


# ---------------------------------------------------------------------------------------- by the mode of the start
def user_sensitive(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """Popek and Goldberg's: from a state in user mode, control sensitive or location sensitive."""
    return _in_mode(architecture, seen, reading, architecture.is_user, location_sensitive)


def user_sensitive_penneman(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """Penneman's Definition 11: in the unprivileged mode, control or configuration sensitive."""
    return _in_mode(architecture, seen, reading, architecture.is_user, configuration_sensitive)


def supervisor_sensitive(architecture: Architecture, seen: Observation, reading: Reading) -> Sign | None:
    """Popek and Goldberg's: from a state in supervisor mode, control sensitive or location sensitive."""
    return _in_mode(architecture, seen, reading, architecture.is_privileged, location_sensitive)


def _in_mode(
    architecture: Architecture,
    seen: Observation,
    reading: Reading,
    wanted: Callable[[State], bool],
    behavior: Predicate,
) -> Sign | None:
    control = _control(architecture, seen, reading, wanted)
    if control is not None and control.shows:
        return control
    if not (wanted(seen.pair.first) and wanted(seen.pair.second)):
        return control
    return behavior(architecture, seen, reading) or control


# ---------------------------------------------------------------------------------------------------------- helpers
def _leaves_program(outcome: Outcome) -> bool:
    return isinstance(outcome, (Trapped, Called))


def _both_completed(seen: Observation) -> tuple[State, State] | None:
    first, second = seen.outcomes
    return (first.end, second.end) if isinstance(first, Completed) and isinstance(second, Completed) else None


UNIVERSAL: Final = (Property.PRIVILEGED, Property.PRIVILEGED_UNDER_C0)
"""The definitions that one observation refutes; all others are witnessed by one."""

DEFINITIONS: Final[dict[Property, Predicate]] = {
    Property.PRIVILEGED: not_privileged,
    Property.PRIVILEGED_UNDER_C0: not_privileged_under_c0,
    Property.CONTROL_SENSITIVE: control_sensitive,
    Property.MODE_SENSITIVE: mode_sensitive,
    Property.CONFIGURATION_SENSITIVE: configuration_sensitive,
    Property.LOCATION_SENSITIVE: location_sensitive,
    Property.VIRTUAL_LOCATION_SENSITIVE: virtual_location_sensitive,
    Property.USER_SENSITIVE: user_sensitive,
    Property.USER_SENSITIVE_PENNEMAN: user_sensitive_penneman,
    Property.SUPERVISOR_SENSITIVE: supervisor_sensitive,
}
