"""The processors on Unicorn against what was published of them; every disagreement has its reason."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest

from simvirt.analyzer import registry
from simvirt.analyzer.cores import comparison, description, processors
from simvirt.analyzer.model.analysis import Analysis, analyze, classify_form
from simvirt.analyzer.model.classification import Classification
from simvirt.analyzer.model.properties import Evidence, Property, Reading
from simvirt.analyzer.model.theorems import Hypothesis, Theorem

NAMES = ("arm", "riscv64", "m68k")


@cache
def analysis(name: str) -> Analysis:
    row = registry.find(name)
    found = analyze(row.info, row.machine())
    return replace(found, disagreements=tuple(row.compare(found.classifications)))


def by_name(name: str) -> dict[str, Classification]:
    return {one.form.identifier.partition(":")[2]: one for one in analysis(name).classifications}


@pytest.mark.parametrize("name", NAMES)
def test_every_disagreement_is_explained_and_every_explanation_is_of_one(name: str) -> None:
    assert [one for one in analysis(name).disagreements if not (one.reason and one.right)] == []
    assert comparison.stale(description.load(name), analysis(name).classifications) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_registry_says_what_the_file_says(name: str) -> None:
    told, info = description.load(name).machine, registry.find(name).info
    assert (told.name, told.title, told.summary) == (info.name, info.title, info.summary)


# Penneman et al. 2013, Table 1: control, mode, configuration sensitive, privileged. Typed in once more, so that
# the file of forms is checked, too.
PENNEMAN = {
    "CPS": "CM",
    "LDC": "MF",
    "LDM (exception return)": "CMF",
    "LDM (user registers)": "M",
    "MCR": "CM",
    "MRC": "MF",
    "MRS (SPSR)": "MF",
    "MSR": "CM",
    "RFE": "CM",
    "SEV": "C",
    "SRS": "MF",
    "STC": "CM",
    "STM (user registers)": "M",
    "SVC": "CP",
    "SUBS and its kin with PC": "CMF",
    "WFE": "CF",
    "WFI": "C",
}
LETTERS = {
    Property.CONTROL_SENSITIVE: "C",
    Property.MODE_SENSITIVE: "M",
    Property.CONFIGURATION_SENSITIVE: "F",
    Property.PRIVILEGED: "P",
}


@pytest.mark.parametrize("row", PENNEMAN)
def test_pennemans_table_row_by_row(row: str) -> None:
    """What was found, with the explained disagreements put right, is the row."""
    source = f"Penneman et al. 2013, Table 1: {row}"
    forms = [one for one in analysis("arm").classifications if one.form.declared.source.split("; ")[0] == source]
    assert forms
    for one in forms:
        found = {letter for which, letter in LETTERS.items() if one.holds(which)}
        theirs = [other.declared for other in analysis("arm").disagreements if other.form == one.form.identifier]
        explained = {LETTERS[Property(declared.removeprefix("not "))] for declared in theirs}
        assert found ^ explained == set(PENNEMAN[row]), one.form.text


def test_arm_instructions_that_do_nothing_in_user_mode_without_a_trap() -> None:
    found = {name for name, one in by_name("arm").items() if one.holds(Property.SENSITIVE_NO_OP) and one.critical()}
    assert {"cps-#31", "cpsie-aif", "cpsid-aif", "msr-cpsr-c-r0"} <= found


def test_what_arms_manual_leaves_open_is_unpredictable_and_no_trap() -> None:
    one = by_name("arm")["mrs-r0-spsr"]
    assert one.holds(Property.UNPREDICTABLE)
    assert one.holds(Property.PRIVILEGED, Reading.LETTER)
    assert one.holds(Property.PRIVILEGED) is False
    assert one.claim(Property.PRIVILEGED).evidence is Evidence.DECLARED


def test_move_from_sr_is_the_68000s_only_critical_instruction() -> None:
    critical = {one.form.mnemonic for one in analysis("m68k").critical()}
    assert critical == {"MOVE"}
    assert {one.form.text for one in analysis("m68k").critical()} == {"MOVE SR, D0", "MOVE SR, (A0)"}
    assert analysis("m68k").theorems()[Theorem.VMM].hypothesis is Hypothesis.NOT_MET
    witness = by_name("m68k")["move-sr-d0"].claim(Property.MODE_SENSITIVE).witnesses[0]
    assert witness.differences == ("D0",)


def test_riscv_is_critical_in_nothing_but_the_floating_point_units_state() -> None:
    assert {one.form.group for one in analysis("riscv64").critical()} == {"floating point"}


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_proved_on_a_real_processor(name: str) -> None:
    claims = [claim for one in analysis(name).classifications for claim in one.claims.values()]
    assert Evidence.PROVED not in {claim.evidence for claim in claims}


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_forms_does_not_matter(name: str) -> None:
    machine = processors.machine(name)
    forms = [form for form in machine.forms() if not form.not_executed]
    random.Random(4).shuffle(forms)
    known = {one.form.identifier: one for one in analysis(name).classifications}
    for form in forms[:20]:
        again = classify_form(machine, form)
        assert again.properties() == known[form.identifier].properties()
        assert [w.identifier for w in again.witnesses] == [w.identifier for w in known[form.identifier].witnesses]


@pytest.mark.parametrize("name", NAMES)
def test_witnesses_are_run_again(name: str) -> None:
    machine = processors.machine(name)
    for one in analysis(name).critical():
        for witness in one.witnesses:
            pair = witness.observation.pair
            again = tuple(machine.execute(witness.form, start) for start in (pair.first, pair.second))
            assert again == witness.observation.outcomes
