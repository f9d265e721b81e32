"""The proof's own obligation, for each form and strategy: map and execute equals execute and map, or a trap.

Popek and Goldberg prove their first theorem by that (1974, §5): an innocuous instruction commutes with the VM map f, a
sensitive one traps. Here every form that the PC executes is executed once on the bare machine and once under the
strategy, from states that f maps into each other, and the states after it are compared through f. Under a strategy
that lives on traps, what does not commute is what the analyzer calls critical; under the others everything does. First
all forms from a few states, then all of them from any state that is drawn.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from simvirt.analyzer.model.analysis import classify_form
from simvirt.analyzer.model.classification import Classification
from simvirt.analyzer.model.form import Form
from simvirt.analyzer.model.properties import Property
from simvirt.analyzer.registry import find
from simvirt.errors import UnsupportedGuestError
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.strategies.registry import REFERENCE, STRATEGIES
from simvirt.strategies.strategy import Means
from simvirt.x86.flags import Eflags
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


REFUSED = "refused"
"""The VMM has refused the instruction by name: it has trapped, and it is for the VMM to say what it does then."""


def outcome(pair: Twins, form: Form, state: ArchitecturalState) -> str | None:
    """What differs between mapping and then executing, and executing and then mapping; None if nothing does."""
    pair.renew()
    try:
        divergence = pair.compare(form.encoding, state, steps=1)
    except UnsupportedGuestError:
        one = classified(form.identifier)  # IRET with NT set, which is critical, asks for a task switch
        assert one.holds(Property.PRIVILEGED_UNDER_C0) or one.critical(), form.identifier
        return REFUSED
    return str(divergence) if divergence else None


def parted(pair: Twins, state: ArchitecturalState) -> dict[str, str]:
    """The forms that do not commute with the strategy's map from this state, and what differs then."""
    found = {form.identifier: outcome(pair, form, state) for form in FORMS}
    return {name: what for name, what in found.items() if what not in (None, REFUSED)}


@cache
def twins_of(strategy: str) -> Twins:
    return Twins(strategy=strategy)


MONITORED = [one.info.name for one in STRATEGIES if one.info.name != REFERENCE.info.name]


def test_enough_forms_are_tried() -> None:
    assert len(FORMS) > 700


def may_part(strategy: str, name: str) -> bool:
    """Is a form allowed not to commute under a strategy?"""
    found = next(one.info.means for one in STRATEGIES if one.info.name == strategy)
    return found is Means.TRAPS and bool(classified(name).critical())


@pytest.mark.parametrize("strategy", MONITORED)
@pytest.mark.parametrize("state", EACH_STATE)
def test_what_does_not_commute_is_critical(state: str, strategy: str) -> None:
    found = parted(twins_of(strategy), STATES[state])
    assert {name: what for name, what in found.items() if not may_part(strategy, name)} == {}


def test_and_under_trap_and_emulate_there_is_some_that_does_not() -> None:
    found = parted(twins_of("trap-and-emulate"), STATES["kernel, interrupts enabled"])
    assert {"popfd", "pushd-cs", "sgdt-m1632", "sidt-m1632", "smsw-rm16", "str-rm16", "sldt-rm16"} <= found.keys()


# ------------------------------------------------------------------------------------------------------- any state
_FLAGS = Eflags.CF, Eflags.PF, Eflags.AF, Eflags.ZF, Eflags.SF, Eflags.OF, Eflags.DF, Eflags.IF, Eflags.NT
_SELECTORS = [
    *twins.DESCRIPTORS,
    *(selector | 3 for selector in twins.DESCRIPTORS),
    *twins.LOCAL_DESCRIPTORS,
    0,
    3,
    0xFFF8,
]
_VALUES = draw.one_of(
    draw.sampled_from([0, 1, 0x7F, 0x80, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]),
    draw.sampled_from(_SELECTORS),
    draw.integers(twins.DATA, twins.DATA + 0x800),
    draw.integers(0, 0xFFFF),
)


@draw.composite
def any_state(choose: draw.DrawFn) -> ArchitecturalState:
    """A kernel's or a program's state: flags, registers, and where memory operands lie, what the tables allow."""
    is_user = choose(draw.booleans())
    flags = sum(int(flag) for flag in choose(draw.sets(draw.sampled_from(_FLAGS))))
    iopl = choose(draw.sampled_from([0, 0, 0, 3])) << 12
    registers = {name: choose(_VALUES) for name in ("eax", "ecx", "edx", "ebx", "esi", "edi", "ebp")}
    cs = twins.USER if is_user else choose(draw.sampled_from([twins.CS0, twins.CS0, twins.CS0_CONFORMING]))
    return start(cs=cs, eflags=flags | iopl | 2, **registers)


@pytest.mark.parametrize("strategy", MONITORED)
@pytest.mark.parametrize("examples", [150, pytest.param(6000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_from_any_state(strategy: str, examples: int) -> None:
    pair = twins_of(strategy)

    @settings(max_examples=examples)
    @given(name=draw.sampled_from([form.identifier for form in FORMS]), state=any_state())
    def commutes(name: str, state: ArchitecturalState) -> None:
        assert outcome(pair, MACHINE.form(name), state) in (None, REFUSED) or may_part(strategy, name)

    commutes()
