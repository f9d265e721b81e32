"""The proof's own obligation, for each form and strategy: map and execute equals execute and map, or a trap.

Popek and Goldberg prove their first theorem by that (1974, §5): an innocuous instruction commutes with the VM map f, a
sensitive one traps. Here every form that the PC executes is executed once on the bare machine and once under the
strategy, from states that f maps into each other, and the states after it are compared through f. Under a strategy
that lives on traps, what does not commute is what the analyzer calls critical.
"""

from __future__ import annotations

from functools import cache

import pytest

from simvirt.analyzer.model.analysis import classify_form
from simvirt.analyzer.model.classification import Classification
from simvirt.analyzer.model.properties import Property
from simvirt.analyzer.registry import find
from simvirt.errors import UnsupportedGuestError
from simvirt.machine.architectural_state import ArchitecturalState
from tests.support import twins
from tests.support.twins import Twins, start

MACHINE = find("x86-32").machine()
FORMS = [form for form in MACHINE.forms() if form.encoding and not form.not_executed]

_POINTERS = {"ebx": 0x2_0100, "esi": 0x2_0200, "edi": 0x2_0300, "ebp": 0x2_0400}
STATES: dict[str, ArchitecturalState] = {
    "kernel, interrupts enabled": start(eflags=0x202, eax=0x2_0000, ecx=1, edx=0x3F8, **_POINTERS),
    "kernel, interrupts disabled": start(eflags=0x2, eax=0x2_0000, ecx=3, edx=0x80, **_POINTERS),
    "kernel, selectors of its own in registers": start(eax=twins.CS0, ecx=twins.DS0, edx=twins.LDT_, **_POINTERS),
    "kernel, selectors of its users": start(eax=twins.CS3, ecx=twins.DS3, edx=twins.CS3_CONFORMING, **_POINTERS),
    "user": start(cs=twins.USER, eflags=0x202, eax=0x2_0000, ecx=2, edx=0x40, **_POINTERS),
}

EACH_STATE = [
    pytest.param(name, marks=[] if name in ("kernel, interrupts enabled", "user") else [pytest.mark.long])
    for name in STATES
]


@cache
def classified(identifier: str) -> Classification:
    return classify_form(MACHINE, MACHINE.form(identifier))


def parted(pair: Twins, state: ArchitecturalState) -> dict[str, str]:
    """The forms that do not commute with the strategy's map from this state, and what differs then.

    What the VMM refuses by name has trapped: it is for a VMM to say what it does then.
    """
    found = {}
    for form in FORMS:
        pair.renew()
        try:
            divergence = pair.compare(form.encoding, state, steps=1)
        except UnsupportedGuestError:
            assert classified(form.identifier).holds(Property.PRIVILEGED_UNDER_C0), form.identifier
            continue
        if divergence:
            found[form.identifier] = str(divergence)
    return found


def test_enough_forms_are_tried() -> None:
    assert len(FORMS) > 700


@pytest.mark.parametrize("state", EACH_STATE)
def test_under_trap_and_emulate_what_does_not_commute_is_critical(state: str) -> None:
    found = parted(Twins(), STATES[state])
    assert {name: what for name, what in found.items() if not classified(name).critical()} == {}


def test_and_there_is_some_that_does_not() -> None:
    found = parted(Twins(), STATES["kernel, interrupts enabled"])
    assert {"popfd", "pushd-cs", "sgdt-m1632", "sidt-m1632", "smsw-rm16", "str-rm16", "sldt-rm16"} <= found.keys()


@pytest.mark.parametrize("state", EACH_STATE)
def test_under_vtx_every_form_commutes(state: str) -> None:
    assert parted(Twins(strategy="vtx"), STATES[state]) == {}
