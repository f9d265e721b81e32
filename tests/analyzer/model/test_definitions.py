"""The definitions on a machine whose answers are worked out by hand: the papers' examples, and what modern ones add."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simvirt.analyzer.model.classify import classify
from simvirt.analyzer.model.experiment import Manner
from simvirt.analyzer.model.form import Declared
from simvirt.analyzer.model.outcome import Outcome
from simvirt.analyzer.model.properties import Evidence, Property, Reading
from simvirt.analyzer.model.state import State, result_differences
from tests.analyzer.model import tiny
from tests.analyzer.model.tiny import Instruction, Tiny

COLUMNS = (
    Property.PRIVILEGED,
    Property.PRIVILEGED_UNDER_C0,
    Property.CONTROL_SENSITIVE,
    Property.MODE_SENSITIVE,
    Property.CONFIGURATION_SENSITIVE,
    Property.LOCATION_SENSITIVE,
    Property.USER_SENSITIVE,
    Property.USER_SENSITIVE_PENNEMAN,
    Property.SUPERVISOR_SENSITIVE,
    Property.SENSITIVE_NO_OP,
)
SIGNS = {"T": True, "F": False, "?": None}

# Letter and repaired, by column: privileged, under C0 (C = 0), control, mode, configuration, location sensitive, user
# sensitive after Popek and Goldberg and after Penneman, supervisor sensitive, sensitive no-op. "?": no pair tells.
BY_HAND: list[tuple[Instruction, str]] = [
    #                 priv C0 ctl mod cnf loc usr pen sup nop
    (tiny.lpsw, "      TT  TT  TT  ?T  FF  ?F  TF  TF  TT  FF"),
    (tiny.jrst_1, "    FF  FF  TT  ?F  FF  FF  FF  FF  TT  TT"),
    (tiny.lra, "       FF  FF  FF  FF  FF  TT  TT  FF  TT  FF"),
    (tiny.lra_360_67, "TT  TT  TF  ?T  FF  TT  TF  TF  TT  FF"),
    (tiny.mfpi, "      FF  FF  FF  TT  FF  FF  FF  FF  FF  FF"),
    (tiny.load, "      FF  FF  FF  FF  FF  FF  FF  FF  FF  FF"),
    (tiny.far_load, "  FF  FF  FF  FF  FF  ??  FF  FF  FF  FF"),
    (tiny.halt, "      TT  TT  TF  ?T  FF  FF  TF  TF  FF  FF"),
    (tiny.svc, "       FF  FF  TF  ?F  F?  ??  TF  TF  FF  ??"),
    (tiny.wrmsr, "     FT  FT  TT  ?T  FF  FF  TF  TF  TT  FF"),
    (tiny.popf, "      FF  FF  TT  FT  FF  FF  FF  FF  TT  TT"),
    (tiny.pushf, "     FF  FF  FF  FF  TT  FF  FF  TT  FF  FF"),
    (tiny.in_port, "   FF  TT  TF  FT  TF  FF  TF  TF  FF  FF"),
    (tiny.fadd, "      FF  FF  TF  FF  T?  FF  TF  TF  FF  FF"),
    (tiny.pop_ss, "    FF  FF  TF  ?T  FF  FF  TF  TF  FF  FF"),
    (tiny.div, "       FF  FF  FF  FF  FF  FF  FF  FF  FF  FF"),
    (tiny.undefined, " F?  F?  TF  ?F  F?  ??  TF  TF  FF  ??"),
]


@pytest.mark.parametrize(("instruction", "row"), BY_HAND, ids=[function.__name__ for function, _ in BY_HAND])
def test_as_worked_out_by_hand(instruction: Instruction, row: str) -> None:
    found = Tiny(instruction, c0={"C": 0}).classified()
    for which, cell in zip(COLUMNS, row.split(), strict=True):
        answers = tuple(found.holds(which, reading) for reading in (Reading.LETTER, Reading.REPAIRED))
        assert answers == tuple(SIGNS[sign] for sign in cell), which


CRITICAL: dict[Instruction, tuple[bool, bool, bool]] = {
    # by the letter; repaired; repaired and privileged for all configurations
    tiny.lpsw: (False, False, False),
    tiny.jrst_1: (True, True, True),
    tiny.lra: (True, True, True),
    tiny.lra_360_67: (False, False, False),
    tiny.svc: (True, False, False),
    tiny.wrmsr: (True, False, False),
    tiny.popf: (True, True, True),
    tiny.in_port: (False, False, True),
    tiny.fadd: (True, False, False),
    tiny.pop_ss: (True, True, True),
    tiny.undefined: (True, False, False),
    tiny.load: (False, False, False),
}


@pytest.mark.parametrize("instruction", CRITICAL, ids=lambda function: function.__name__)
def test_critical(instruction: Instruction) -> None:
    found = Tiny(instruction, c0={"C": 0}).classified()
    answers = (found.critical(Reading.LETTER), found.critical(), found.critical(under_c0=False))
    assert answers == CRITICAL[instruction]


def test_evidence_of_a_finite_machine_and_of_a_real_one() -> None:
    on_toy, on_real = Tiny(tiny.halt).classified(), Tiny(tiny.halt, exhaustive=False).classified()
    assert on_toy.claim(Property.PRIVILEGED).evidence is Evidence.PROVED
    assert on_real.claim(Property.PRIVILEGED).evidence is Evidence.NOT_REFUTED
    assert on_real.claim(Property.LOCATION_SENSITIVE).evidence is Evidence.NOT_REFUTED
    assert on_real.claim(Property.MODE_SENSITIVE).evidence is Evidence.WITNESSED
    assert (on_toy.evidence, on_real.evidence) == (Evidence.PROVED, Evidence.NOT_REFUTED)
    assert Tiny(tiny.jrst_1, exhaustive=False).classified().evidence is Evidence.WITNESSED
    assert Tiny(tiny.load, exhaustive=False).classified().evidence is Evidence.NOT_REFUTED


def test_coverage_counts_pairs() -> None:
    found = Tiny(tiny.load).classified()
    assert found.coverage.observations == 3 * 2 * 2 * 2 * 2
    assert found.claim(Property.MODE_SENSITIVE).coverage.applicable == 16


def test_a_witness_shows_both_runs_and_what_differs() -> None:
    (witness,) = Tiny(tiny.popf).classified().claim(Property.MODE_SENSITIVE).witnesses
    assert witness.manner is Manner.SILENT
    assert witness.differences == ("C",)
    pair = witness.observation.pair
    assert pair.component.name == "M"
    assert {name for name in pair.first if pair.first[name] != pair.second[name]} == {"M"}
    assert witness.identifier.startswith("tiny/mode-sensitive/")
    again = Tiny(tiny.popf).classified().claim(Property.MODE_SENSITIVE).witnesses[0]
    assert again.identifier == witness.identifier


def test_a_counter_example_to_privileged_is_a_witness() -> None:
    claim = Tiny(tiny.popf).classified().claim(Property.PRIVILEGED)
    assert claim.evidence is Evidence.WITNESSED
    assert [witness.manner for witness in claim.witnesses] == [Manner.NO_TRAP]


def test_silent_and_trap_gated_are_kept_apart() -> None:
    assert Tiny(tiny.pop_ss).classified().claim(Property.MODE_SENSITIVE).manners == {Manner.TRAP_GATED}
    assert Tiny(tiny.mfpi).classified().claim(Property.MODE_SENSITIVE).manners == {Manner.SILENT}


def test_every_component_that_matters_has_its_witness() -> None:
    def reads_both(s: State) -> Outcome:
        return tiny.done(s, A=int(s["C"]) if tiny.user(s) else int(s["R"]))

    found = Tiny(reads_both).classified()
    assert [w.observation.pair.component.name for w in found.claim(Property.CONFIGURATION_SENSITIVE).witnesses] == ["C"]
    assert [w.observation.pair.component.name for w in found.claim(Property.LOCATION_SENSITIVE).witnesses] == ["R"]
    assert len({witness.identifier for witness in found.witnesses}) == len(found.witnesses)


def test_what_a_manual_leaves_open_is_no_trap() -> None:
    """A machine that traps where the manual says "unpredictable" has promised nothing (MRS SPSR in user mode)."""
    manual = Declared(source="manual", unpredictable_modes=frozenset({"u"}))
    found = Tiny(tiny.halt, declared=manual).classified()
    assert found.holds(Property.UNPREDICTABLE)
    assert found.holds(Property.PRIVILEGED, Reading.LETTER)
    assert found.holds(Property.PRIVILEGED) is False
    assert found.claim(Property.PRIVILEGED).evidence is Evidence.DECLARED
    assert found.critical()
    assert found.holds(Property.CONTROL_SENSITIVE) is False, "the runs from user mode do not count"


def test_what_was_not_executed_is_declared_or_unknown() -> None:
    machine = Tiny(tiny.halt)
    silent = replace(machine.forms()[0], not_executed="VEX encodings run wrong here")
    found = classify(machine.architecture, silent, ())
    assert (found.sensitive(), found.critical(), found.evidence) == (None, None, Evidence.UNKNOWN)

    said = Declared("manual", privileged=False, properties=frozenset({Property.CONFIGURATION_SENSITIVE}))
    found = classify(machine.architecture, replace(silent, declared=said), ())
    assert (found.sensitive(), found.critical(), found.evidence) == (True, True, Evidence.DECLARED)

    said = Declared("manual", privileged=False, properties=frozenset())
    found = classify(machine.architecture, replace(silent, declared=said), ())
    assert (found.sensitive(), found.critical(), found.evidence) == (False, False, Evidence.DECLARED)


def test_toggling_what_differs_is_a_result_and_leaving_it_is_not() -> None:
    starts: tuple[State, State] = ({"R": 0}, {"R": 1})
    assert result_differences(starts, ({"R": 0}, {"R": 1})) == ()
    assert result_differences(starts, ({"R": 1}, {"R": 1})) == ()
    assert result_differences(starts, ({"R": 1}, {"R": 0})) == ("R",)
    assert result_differences(starts, ({"R": 0}, {"R": 2})) == ("R",)
