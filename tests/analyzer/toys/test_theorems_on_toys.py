"""The third-generation machine and its variants, every state tried: what the paper says of them is proved."""

from __future__ import annotations

from functools import cache

import pytest

from simvirt.analyzer import registry
from simvirt.analyzer.model.analysis import Analysis, classify_form
from simvirt.analyzer.model.classification import Classification
from simvirt.analyzer.model.properties import Evidence, Property, Reading
from simvirt.analyzer.model.theorems import Theorem
from simvirt.analyzer.toys import machines


@cache
def classified(name: str) -> Classification:
    """An instruction of the largest machine that has it; a variant differs from the machine by what it adds."""
    variant = {"JRST1": machines.JRST1, "LRA": machines.LRA}.get(name, machines.THIRD_GENERATION)
    machine = machines.machine(variant)
    return classify_form(machine, next(form for form in machine.forms() if form.mnemonic == name))


def analysis(name: str) -> Analysis:
    row = registry.find(name)
    machine = row.machine()
    found = tuple(classified(form.mnemonic) for form in machine.forms())
    return Analysis(row.info, machine.engine, machine.architecture, found, tuple(row.compare(found)))


NAMES = (machines.THIRD_GENERATION, machines.JRST1, machines.LRA)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (machines.THIRD_GENERATION, ("met", "met", "met", "met")),
        (machines.JRST1, ("not-met", "not-met", "met", "met")),
        (machines.LRA, ("not-met", "not-met", "not-met", "not-met")),
    ],
)
@pytest.mark.parametrize("reading", Reading)
def test_hypotheses(name: str, expected: tuple[str, ...], reading: Reading) -> None:
    found = analysis(name).theorems(reading)
    assert tuple(verdict.hypothesis.value for verdict in found.values()) == expected


@pytest.mark.parametrize("name", NAMES)
def test_what_the_description_declares_is_what_was_found(name: str) -> None:
    assert analysis(name).disagreements == ()


def test_met_hypotheses_are_proved_and_others_have_witnesses() -> None:
    assert analysis(machines.THIRD_GENERATION).theorems()[Theorem.VMM].evidence is Evidence.PROVED
    assert analysis(machines.JRST1).theorems()[Theorem.HYBRID].evidence is Evidence.PROVED
    verdict = analysis(machines.JRST1).theorems()[Theorem.VMM]
    assert (verdict.evidence, verdict.critical) == (Evidence.WITNESSED, ("third-generation+jrst1:jrst1",))


def test_jrst1_is_supervisor_control_sensitive_and_not_user_sensitive() -> None:
    found = classified("JRST1")
    assert found.holds(Property.SUPERVISOR_SENSITIVE)
    assert found.holds(Property.CONTROL_SENSITIVE)
    assert found.holds(Property.USER_SENSITIVE) is False
    assert found.claim(Property.USER_SENSITIVE).evidence is Evidence.PROVED
    assert found.holds(Property.SENSITIVE_NO_OP), "a jump and nothing else, in user mode"


def test_a_witness_is_run_again() -> None:
    machine = machines.machine(machines.LRA)
    for witness in classified("LRA").witnesses:
        pair = witness.observation.pair
        again = tuple(machine.execute(witness.form, start) for start in (pair.first, pair.second))
        assert again == witness.observation.outcomes


@pytest.mark.parametrize("name", NAMES)
def test_the_registry_says_what_the_file_says(name: str) -> None:
    assert registry.find(name).info == machines.description(name).info
