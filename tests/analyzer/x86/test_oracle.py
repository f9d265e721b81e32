"""The x86 against what is published about it: which instructions are sensitive and not privileged.

The rule that decides: a trap in one run and a result in the other counts as a difference for pairs that differ in the
mode, and not for pairs that differ in configuration, where only silent differences count (`model.definitions`, repaired
reading). The oracle is a set, never a count.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from simvirt.analyzer.model.analysis import Analysis, Disagreement
from simvirt.analyzer.model.properties import Property
from simvirt.analyzer.probe.executors import open_executor
from simvirt.analyzer.probe.sweep import machine_of, sweep
from simvirt.analyzer.toml_file import TomlFileError
from simvirt.analyzer.x86 import comparison
from simvirt.analyzer.x86.declared import sensitivity_of
from simvirt.analyzer.x86.variants import Variant, find_variant
from simvirt.x86.forms import find_form
from simvirt.x86.sensitivity import InPaper, Sensitivity

TRAPPED_UNDER_C0 = {"rdtsc"}
"""What a VMM makes trap by configuration (CR4.TSD), beside the I/O instructions, CLI and STI."""


def _rows(variant: Variant) -> dict[str, Sensitivity]:
    """The published rows by form; the forms that the machine does not execute are left out."""
    executed = [form.identifier for form in machine_of(variant.name).forms() if not form.not_executed]
    rows = ((name, sensitivity_of(find_form(name), int(variant.bits))) for name in executed)
    return {name: row for name, row in rows if row is not None}


def _names(analysis: Analysis, *, under_c0: bool) -> set[str]:
    return {one.form.identifier for one in analysis.critical(under_c0=under_c0)}


def test_critical_are_robin_and_irvines_and_the_omissions(pentium: Analysis, found_here: frozenset[str]) -> None:
    rows = _rows(find_variant("x86-32"))
    named = {name for name, row in rows.items() if row.paper in (InPaper.YES, InPaper.PROSE)}
    omitted = {name for name, row in rows.items() if row.paper is InPaper.NO and row.is_critical}
    assert _names(pentium, under_c0=True) == (named | omitted | found_here) - TRAPPED_UNDER_C0


def test_for_all_configurations_those_that_iopl_and_tsd_guard_are_critical_too(pentium: Analysis) -> None:
    rows = _rows(find_variant("x86-32"))
    guarded = {name for name, row in rows.items() if row.privileged_when.startswith("CPL > IOPL")}
    assert guarded >= {"cli", "sti", "in-al-dx", "outsb-dx-m8"}
    assert _names(pentium, under_c0=False) - _names(pentium, under_c0=True) == guarded | TRAPPED_UNDER_C0


def test_what_is_published_as_privileged_is(pentium: Analysis) -> None:
    rows = _rows(find_variant("x86-32"))
    privileged = {name for name, row in rows.items() if row.privileged}
    observed = {c.form.identifier for c in pentium.classifications if c.holds(Property.PRIVILEGED_UNDER_C0)}
    assert observed == privileged | TRAPPED_UNDER_C0


def test_every_disagreement_is_explained(pentium: Analysis) -> None:
    assert len(pentium.disagreements) > 15
    assert [one for one in pentium.disagreements if not (one.reason and one.right)] == []


def test_one_that_nobody_has_explained_is_told(pentium: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "load", comparison.ReasonsFile)
    found = list(comparison.disagreements("x86-32", pentium.classifications))
    assert {one.form for one in found if not one.reason} >= {"fnstenv-m28byte", "rdtsc", "smsw-rm16"}


def test_a_file_of_reasons_that_names_no_form(tmp_path: Path) -> None:
    file = tmp_path / "reasons.toml"
    file.write_text('[[disagreement]]\nforms = ["popfx"]\nabout = "lists"\nreason = "so"\nright = "me"\n')
    with pytest.raises(TomlFileError, match=r"reasons.toml:2: forms: there is no form 'popfx'"):
        comparison.load(file)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_forms_that_there_are(found_here: frozenset[str]) -> None:
    """Those included that nobody has ever suspected; and every reason is of a disagreement."""
    found: list[Disagreement] = []
    for name in ("x86-32", "x86-32-modern", "x86-64"):
        with open_executor() as executor:
            analysis = sweep(name, executor)
        assert [one for one in analysis.disagreements if not one.reason] == []
        found += analysis.disagreements
        if name == "x86-32":
            rows = _rows(find_variant(name))
            published = {form for form, row in rows.items() if row.is_critical}
            assert _names(analysis, under_c0=True) == (published | found_here) - TRAPPED_UNDER_C0
    assert comparison.stale(found) == []


def test_umip_takes_five_instructions_away() -> None:
    bits = int(find_variant("x86-32+umip").bits)

    def critical(name: str) -> set[str]:
        forms = [f for f in machine_of(name).forms() if not f.not_executed and f.group == "descriptor-table registers"]
        forms += [machine_of(name).form(identifier) for identifier in ("smsw-rm16", "smsw-r32m16", "pushfd")]
        return _names(sweep(name, forms=forms), under_c0=True)

    gone = critical("x86-32-modern") - critical("x86-32+umip")
    rows = {name: sensitivity_of(find_form(name), bits) for name in gone}
    assert {str(operation) for row in rows.values() if row for operation in row.operations} == {
        "sgdt", "sidt", "sldt", "str", "smsw",
    }  # fmt: skip
    assert critical("x86-32+umip") == {"pushfd"}
