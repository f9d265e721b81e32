"""What each strategy has to do about an instruction is made from what the strategies register."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simvirt.analyzer import coping
from simvirt.analyzer.model.analysis import Analysis, classify_form
from simvirt.analyzer.probe.sweep import sweep
from simvirt.analyzer.registry import find
from simvirt.strategies.registry import REFERENCE, STRATEGIES
from simvirt.strategies.strategy import Means, StrategyInfo
from simvirt.x86.decode import decode
from simvirt.x86.sensitivity import classify

MACHINE = find("x86-32").machine()


def copings(name: str) -> dict[str, coping.Coping]:
    form = MACHINE.form(name)
    row = classify(decode(form.encoding, 0, 32))
    return {one.strategy: one for one in coping.copings(classify_form(MACHINE, form), row)}


def test_every_strategy_but_the_reference_has_means() -> None:
    assert [s.info.name for s in STRATEGIES if s.info.means is Means.NONE] == [REFERENCE.info.name]


def test_all_strategies_are_in_the_table() -> None:
    assert list(copings("popfd")) == [s.info.name for s in STRATEGIES if s is not REFERENCE]


def test_popf() -> None:
    found = copings("popfd")
    assert not found["trap-and-emulate"].is_safe
    assert found["vtx"].is_safe
    assert "guest's own state" in found["vtx"].text


def test_hlt() -> None:
    found = copings("hlt")
    assert "emulates it" in found["trap-and-emulate"].text
    assert found["vtx"].text.startswith("exits to the VMM if a control asks for it")


def test_what_was_not_executed_goes_by_what_is_written() -> None:
    modern = find("x86-32-modern").machine()

    def of(name: str, bytes_of_it: str) -> dict[str, coping.Coping]:
        row = classify(decode(bytes.fromhex(bytes_of_it), 0, 32))
        return {one.strategy: one for one in coping.copings(classify_form(modern, modern.form(name)), row)}

    assert "gets a trap" in of("rdpmc", "0f33")["trap-and-emulate"].text
    assert "does not learn of it" in of("xgetbv", "0f01d0")["trap-and-emulate"].text
    assert {one.is_safe for one in of("tpause-r32", "660faef1").values()} == {False}


def test_an_innocuous_instruction_runs_as_it_is() -> None:
    assert {one.text for one in copings("nopd").values()} == {"runs it as it is"}


@pytest.mark.parametrize("means", Means)
def test_each_means_has_its_answer(means: Means, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        info: StrategyInfo = replace(STRATEGIES[-1].info, name="other", means=means)

    monkeypatch.setattr(coping, "STRATEGIES", (REFERENCE, Other()))
    (found,) = copings("popfd").values()
    assert found.strategy == "other"
    assert found.is_safe is (means not in {Means.NONE, Means.TRAPS})


def test_the_table_of_a_whole_instruction_set(pentium: Analysis) -> None:
    rows = coping.coping_rows(pentium)
    assert {form for row in rows for form in row.forms} == {one.form.identifier for one in pentium.critical()}
    assert {row.title for row in rows} >= {"SGDT", "FNSTENV"}
    assert {one.is_safe for row in rows for one in row.copings if one.strategy == "trap-and-emulate"} == {False}


def test_a_machine_that_no_strategy_is_for() -> None:
    assert coping.coping_rows(sweep("third-generation+lra")) == ()
