"""The x86 as a machine: start states that differ in one component, runs that leave nothing behind."""

from __future__ import annotations

import random

import pytest

from simvirt.analyzer.model.experiment import Observation
from simvirt.analyzer.model.outcome import Called, Completed, Outcome, TrapKind, Trapped
from simvirt.analyzer.probe.sweep import machine_of
from simvirt.analyzer.x86 import layout
from simvirt.analyzer.x86.components import MODE
from simvirt.analyzer.x86.machine import X86Machine

FORMS = ("popfd", "sgdt-m1632", "lar-r32-r32m16", "int-imm8", "call-m1632", "in-al-dx", "add-rm32-r32", "les-r32-m1632")


@pytest.fixture(scope="module")
def machine() -> X86Machine:
    found = machine_of("x86-32")
    assert isinstance(found, X86Machine)
    return found


def _first(machine: X86Machine, name: str, **settings: int | str) -> tuple[Outcome, Outcome]:
    """The outcomes of the first pair that differs in the mode and whose second state has these components."""
    wanted = {key.replace("__", "."): value for key, value in settings.items()}
    for seen in machine.observe(machine.form(name)):
        second = seen.pair.second
        if seen.pair.component.name == MODE and all(second[key] == value for key, value in wanted.items()):
            return seen.outcomes
    raise AssertionError(name)


@pytest.mark.parametrize("name", FORMS)
def test_the_states_of_a_pair_differ_in_one_component(machine: X86Machine, name: str) -> None:
    pointer = "[0x8100]", "[0x8500]"  # where the instruction stands is shown by where EIP points
    for pair in machine.pairs(machine.form(name)):
        assert pair.first.keys() - {*pointer} == pair.second.keys() - {*pointer}
        found = [key for key in pair.first if key not in pointer and pair.first[key] != pair.second[key]]
        assert found == [pair.component.name]


@pytest.mark.parametrize("name", FORMS)
def test_a_run_depends_on_nothing_but_its_start(machine: X86Machine, name: str) -> None:
    """Any experiment again, alone, from what its state says, after others of another kind."""
    form = machine.form(name)
    seen = list(machine.observe(form))
    for observation in random.Random(name).sample(seen, 12):
        for start, outcome in zip((observation.pair.first, observation.pair.second), observation.outcomes, strict=True):
            assert machine.execute(form, dict(start)) == outcome


def test_the_same_again_in_another_order(machine: X86Machine) -> None:
    def observed(names: tuple[str, ...]) -> dict[str, list[Observation]]:
        return {name: list(machine.observe(machine.form(name))) for name in names}

    forward = observed(FORMS)
    backward = observed(FORMS[::-1])
    assert forward == {name: backward[name] for name in FORMS}


def test_what_the_processor_does_about_an_instruction_belongs_to_it(machine: X86Machine) -> None:
    """The engine alone knows neither I/O permission nor delivery through the IDT."""
    allowed, denied = _first(machine, "in-al-dx"), _first(machine, "in-al-dx", EFLAGS__IOPL=0)
    assert [type(outcome) for outcome in allowed] == [Completed, Completed]
    assert [type(outcome) for outcome in denied] == [Completed, Trapped]
    assert allowed[1].end["EAX"] == 0x5A
    called = _first(machine, "int-imm8")[1]
    assert isinstance(called, Called)
    assert called.trap.vector == layout.VECTOR_DPL3


def test_a_trap_leaves_the_state_that_it_found(machine: X86Machine) -> None:
    outcome = _first(machine, "hlt")[1]
    assert isinstance(outcome, Trapped)
    assert (outcome.trap.vector, outcome.trap.error_code, outcome.trap.kind) == (13, 0, TrapKind.OTHER)
    assert outcome.end[MODE] == 3
    assert outcome.end["EIP"] == layout.CODE


def test_results_of_every_kind_are_seen(machine: X86Machine) -> None:
    changed = {
        name: {
            key
            for seen in machine.observe(machine.form(name))
            for start, outcome in zip((seen.pair.first, seen.pair.second), seen.outcomes, strict=True)
            for key in outcome.end
            if isinstance(outcome, Completed) and outcome.end[key] != start.get(key)
        }
        - {"EIP"}
        for name in ("mov-r32m16-sreg", "out-dx-al", "hlt", "lgdt-m1632", "fld1", "cli", "ltr-rm16", "jmp-ptr1632")
    }
    assert changed["mov-r32m16-sreg"] == {"ECX", "[0x5000]"}
    assert changed["out-dx-al"] == {"port 80h"}
    assert changed["hlt"] == {"activity"}
    assert changed["lgdt-m1632"] == {"GDTR.base", "GDTR.limit"}
    assert changed["cli"] == {"EFLAGS.IF"}
    assert "TR" in changed["ltr-rm16"]
    assert changed["fld1"] >= {"x87, MMX and SSE registers"}
    assert changed["jmp-ptr1632"] <= {"CS", "CS descriptor"}


def test_instructions_that_the_processor_lacks_are_marked() -> None:
    machine = machine_of("x86-32-modern")
    assert isinstance(machine, X86Machine)
    assert machine.form("vmptrld-m64").not_executed.startswith("#UD")
    assert machine.form("vex-vpaddd-xmm-xmm-xmmm128").not_executed.startswith("VEX")
    assert not machine.form("ud2").not_executed
    assert not machine.form("paddd-xmm-xmmm128").not_executed
