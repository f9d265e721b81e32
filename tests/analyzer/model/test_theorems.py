"""The theorems: hypothesis met or not, from hand-made machines of several instructions."""

from __future__ import annotations

import pytest

from simvirt.analyzer.model.classification import Classification
from simvirt.analyzer.model.form import Declared
from simvirt.analyzer.model.properties import Evidence, NonRoot, Reading
from simvirt.analyzer.model.theorems import NOTHING_FOLLOWS, Hypothesis, Theorem, TheoremVerdict, verdicts
from tests.analyzer.model import tiny
from tests.analyzer.model.tiny import Instruction, Tiny


def judged(
    *instructions: Instruction, reading: Reading = Reading.REPAIRED, timing_free: bool | None = None
) -> dict[Theorem, TheoremVerdict]:
    found = [Tiny(instruction, c0={"C": 0}).classified() for instruction in instructions]
    said = verdicts(tiny.architecture({"C": 0}), found, reading=reading, timing_free_vmm=timing_free)
    return {verdict.theorem: verdict for verdict in said}


def hypotheses(*instructions: Instruction) -> tuple[str, ...]:
    return tuple(verdict.hypothesis.value for verdict in judged(*instructions, timing_free=True).values())


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        ((tiny.load, tiny.lpsw, tiny.halt, tiny.lra_360_67), ("met", "met", "met", "met")),
        ((tiny.load, tiny.lpsw, tiny.jrst_1), ("not-met", "not-met", "met", "met")),
        ((tiny.load, tiny.lpsw, tiny.lra), ("not-met", "not-met", "not-met", "not-met")),
        ((tiny.load, tiny.lpsw, tiny.pushf), ("not-met", "not-met", "met", "not-met")),
        ((tiny.load, tiny.lpsw, tiny.svc), ("met", "met", "met", "met")),
    ],
    ids=["classic", "PDP-10", "unprivileged LRA", "PUSHF", "system call"],
)
def test_hypotheses(instructions: tuple[Instruction, ...], expected: tuple[str, ...]) -> None:
    assert hypotheses(*instructions) == expected


def test_by_the_letter_a_system_call_spoils_theorem_1() -> None:
    verdict = judged(tiny.load, tiny.svc, reading=Reading.LETTER)[Theorem.VMM]
    assert verdict.hypothesis is Hypothesis.NOT_MET


def test_nothing_follows_from_a_hypothesis_that_is_not_met() -> None:
    verdict = judged(tiny.jrst_1)[Theorem.VMM]
    assert verdict.conclusion == NOTHING_FOLLOWS
    assert verdict.critical == ("tiny",)
    assert judged(tiny.lpsw)[Theorem.VMM].conclusion == "a virtual machine monitor may be constructed"


def test_theorem_2_is_undecided_until_somebody_shows_a_vmm() -> None:
    assert judged(tiny.lpsw)[Theorem.RECURSIVE].hypothesis is Hypothesis.UNDECIDED
    assert judged(tiny.lpsw, timing_free=False)[Theorem.RECURSIVE].hypothesis is Hypothesis.NOT_MET


def test_an_unknown_form_leaves_it_undecided() -> None:
    machine = Tiny(tiny.load)
    unknown = Classification(machine.forms()[0])
    verdict = verdicts(machine.architecture, [machine.classified(), unknown])[0]
    assert verdict.hypothesis is Hypothesis.UNDECIDED
    assert verdict.open == ("tiny",)
    assert verdict.evidence is Evidence.UNKNOWN


def test_some_forms_show_that_a_hypothesis_is_not_met_and_never_that_it_is() -> None:
    machine = Tiny(tiny.load)
    verdict = verdicts(machine.architecture, [machine.classified()], timing_free_vmm=True, is_whole=False)
    assert {one.hypothesis for one in verdict} == {Hypothesis.UNDECIDED}
    found = [Tiny(tiny.jrst_1, c0={"C": 0}).classified()]
    assert verdicts(tiny.architecture({"C": 0}), found, is_whole=False)[0].hypothesis is Hypothesis.NOT_MET


def test_configuration_c0_decides() -> None:
    found = [Tiny(tiny.in_port, c0={"C": 0}).classified()]
    architecture = tiny.architecture({"C": 0})
    assert verdicts(architecture, found)[0].hypothesis is Hypothesis.MET
    assert verdicts(architecture, found, under_c0=False)[0].hypothesis is Hypothesis.NOT_MET


def test_root_mode_asks_what_each_sensitive_instruction_does_in_non_root_mode() -> None:
    def found(instruction: Instruction, non_root: NonRoot | None) -> Classification:
        return Tiny(instruction, declared=Declared("manual", non_root=non_root), c0={"C": 0}).classified()

    def hypothesis(*all_of_them: Classification) -> Hypothesis | None:
        said = verdicts(tiny.architecture({"C": 0}), all_of_them)
        return next((verdict.hypothesis for verdict in said if verdict.theorem is Theorem.ROOT_MODE), None)

    kept_apart = found(tiny.popf, NonRoot.DUPLICATE)
    assert hypothesis(kept_apart, found(tiny.lpsw, NonRoot.TRAPS), found(tiny.load, None)) is Hypothesis.MET
    assert hypothesis(kept_apart, found(tiny.pushf, None)) is Hypothesis.UNDECIDED
    assert hypothesis(found(tiny.popf, None)) is None, "a machine without such modes"
