"""Trying all states by asking for what matters only, against trying all states one by one."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from simvirt.analyzer.finite.loader import load
from simvirt.analyzer.finite.machine import FiniteMachine
from simvirt.analyzer.model.analysis import classify_form
from simvirt.analyzer.model.classification import Classification
from simvirt.analyzer.model.classify import classify
from simvirt.analyzer.model.experiment import Observation, Pair
from simvirt.analyzer.model.form import Form
from simvirt.analyzer.model.properties import Property, Reading
from simvirt.analyzer.model.state import Component, State, Value
from simvirt.errors import UnknownNameError, UsageError

TOML = """
[machine]
name = "small"
title = "Small"
summary = "small"
module = "small.py"
mode = "M"
privileged = ["s", "t"]
user = "u"
counter = "P"
vmm = { C = 1 }
[storage]
cells = 2
word = {word}
relocation = "L"
bounds = "B"
[[register]]
name = "M"
part = "M"
title = "mode"
values = ["s", "t", "u"]
[[register]]
name = "P"
part = "P"
title = "counter"
bits = 1
[[register]]
name = "L"
part = "R"
title = "relocation"
bits = 1
[[register]]
name = "B"
part = "R"
title = "bound"
bits = 2
[[register]]
name = "C"
part = "C"
title = "configuration"
bits = 1
[[register]]
name = "A"
part = "G"
title = "accumulator"
bits = {word}
"""
BODIES = {
    "load": "cpu.A = cpu.read(a)",
    "store": "cpu.write(a, cpu.A)",
    "mode": "cpu.A = int(cpu.is_privileged)",
    "where": "cpu.A = cpu.L",
    "here": "cpu.A = cpu.P",
    "set": "cpu.require_privilege()\n    cpu.C = cpu.A",
    "drop": "if cpu.is_privileged:\n        cpu.C = cpu.A",
    "leave": "cpu.M = 'u'",
    "gated": "if cpu.C and not cpu.is_privileged:\n        cpu.trap('gated')\n    cpu.A = 1",
    "widen": "cpu.B = 3",
    "fault": "cpu.trap('always')",
    "call": "cpu.call()",
    "both": "cpu.A = cpu.read(cpu.read(a) & 1)\n    cpu.write(a, cpu.C)",
}


@pytest.fixture
def small(tmp_path: Path) -> FiniteMachine:
    return FiniteMachine(load(write(tmp_path, 2)))


def write(folder: Path, word: int) -> Path:
    rows = "".join(
        f'[[instruction]]\nmnemonic = "{name.upper()}"\nfunction = "{name}_"\ntitle = "x"\nsource = "x"\n'
        f'encoding = "{number}:{word - 1} a:1"\n'
        for number, name in enumerate(BODIES)
        if number < 1 << (word - 1)
    )
    (folder / "small.py").write_text(
        "".join(f"def {name}_(cpu, a):\n    {body}\n\n\n" for name, body in BODIES.items())
    )
    path = folder / "small.toml"
    path.write_text(TOML.replace("{word}", str(word)) + rows)
    return path


def one_by_one(machine: FiniteMachine, form: Form) -> Classification:
    """All pairs of all states, none left out: what the other way must come to."""
    told = machine.description
    names = [*told.by_name, "[0]", "[1]", "[operand a:1]"]
    components = {one.name: one for one in machine.architecture.components}

    def observations() -> list[Observation]:
        found = []
        for varied in ("M", "L", "C", "P"):
            rest = [name for name in names if name != varied]
            for values in product(*(machine.domain(name) for name in rest)):
                common: dict[str, Value] = dict(zip(rest, values, strict=True))
                for first, second in machine.differing(varied):
                    found.append(observe(components[varied], {**common, varied: first}, {**common, varied: second}))
        return found

    def observe(component: Component, first: State, second: State) -> Observation:
        return Observation(
            Pair(first, second, component), (machine.execute(form, first), machine.execute(form, second))
        )

    return classify(machine.architecture, form, observations(), exhaustive=True)


QUICK = ("load", "set", "leave", "widen", "drop")
EACH_BODY = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.long]) for name in BODIES]


@pytest.mark.parametrize("name", EACH_BODY)
def test_both_ways_come_to_the_same(tmp_path: Path, name: str) -> None:
    kept = {name: BODIES[name]}
    body = "".join(f"def {one}_(cpu, a):\n    {text}\n" for one, text in kept.items())
    path = write(tmp_path, 2)
    head = path.read_text().partition("[[instruction]]")[0]
    row = f'[[instruction]]\nmnemonic = "ONE"\nfunction = "{name}_"\ntitle = "x"\nsource = "x"\nencoding = "0:1 a:1"\n'
    path.write_text(head + row)
    (tmp_path / "small.py").write_text(body)
    machine = FiniteMachine(load(path))
    form = machine.form("small:one")
    lazily, all_of_them = classify_form(machine, form), one_by_one(machine, form)
    assert lazily.coverage.observations < all_of_them.coverage.observations
    for reading in Reading:
        for which in Property:
            assert lazily.holds(which, reading) == all_of_them.holds(which, reading), (which, reading)


def test_a_machine_is_exhaustive_up_to_six_bits(tmp_path: Path) -> None:
    assert FiniteMachine(load(write(tmp_path, 6))).exhaustive
    assert not FiniteMachine(load(write(tmp_path, 7))).exhaustive


def test_a_machine_that_is_too_large_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simvirt.analyzer.finite.machine.MOST_OBSERVATIONS", 100)
    machine = FiniteMachine(load(write(tmp_path, 6)))
    with pytest.raises(UsageError, match=r"small.toml:\d+: BOTH: more than 100 pairs of states to try"):
        classify_form(machine, machine.form("small:both"))


def test_an_unknown_form(small: FiniteMachine) -> None:
    with pytest.raises(UnknownNameError, match="unknown form 'small:lode'"):
        small.form("small:lode")
