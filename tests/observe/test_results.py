"""The JSON contract, to the letter, and how results look."""

from __future__ import annotations

import json
from typing import Any

import pytest

import simvirt
from simvirt.observe.comparison import Comparison
from simvirt.observe.results import Counted, Run
from simvirt.observe.session import compare, run
from simvirt.vmm.exit_log import Intervention
from tests.observe.faulty import Faulty, flip_memory

OUTCOMES = {
    "finished", "halted", "waiting-for-input", "reset", "triple-fault", "limit", "interrupted", "monitor-error",
}  # fmt: skip


def shape(value: Any) -> Any:
    """The keys and types of a JSON value."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


RUN_SHAPE = {
    "schema": "str",
    "guest": "str",
    "sha256": "str",
    "strategy": "str",
    "config": {"cpu": "str", "memory": "int", "seed": "int", "max_instructions": "int"},
    "outcome": "str",
    "guest_status": "int",
    "console": "str",
    "counted": {"instructions": "int", "interventions": "int", "direct_fraction": "float", "vm_exits": {}},
    "modelled": {"preset": "str", "cycles": "int"},
    "measured": {"host_seconds": "float"},
    "error": "NoneType",
}


def test_a_run_as_json() -> None:
    result = run("hello", max_instructions=5000, seed=7, cpu="pentium", memory="32M")
    data = json.loads(result.to_json())
    assert shape(data) == RUN_SHAPE
    assert list(data) == list(RUN_SHAPE)
    assert data["schema"] == "simvirt.run/1"
    assert data["config"] == {"cpu": "pentium", "memory": 32 << 20, "seed": 7, "max_instructions": 5000}
    assert (data["guest"], data["strategy"], data["outcome"]) == ("hello", "bare-metal", "finished")
    assert data["console"] == "Hello from ring 0.\n"
    assert data["counted"]["instructions"] == 267
    assert len(data["sha256"]) == 64


def test_a_comparison_as_json() -> None:
    data = json.loads(compare("hello", [Faulty(9, flip_memory(0x300000))]).to_json(indent=1))
    assert list(data) == ["schema", "guest", "reference", "runs", "verdicts"]
    assert data["schema"] == "simvirt.compare/1"
    assert data["reference"] == "bare-metal"
    assert [shape(each) for each in data["runs"]] == [RUN_SHAPE, RUN_SHAPE]
    verdict = data["verdicts"]["faulty"]
    assert shape(verdict) == {
        "equivalence": "str",
        "exemptions": ["str", "str", "str"],
        "first_divergence": {
            "instruction": "int",
            "address": "int",
            "mnemonic": "str",
            "component": "str",
            "reference_value": "int",
            "value": "int",
            "explanation": "str",
        },
        "efficiency": {"direct_fraction": "float", "innocuous_interventions": "int"},
        "resource_control": {"violations": []},
    }


def test_no_divergence_is_null() -> None:
    data = compare("hello", [Faulty()]).to_dict()
    assert data["verdicts"]["faulty"]["first_divergence"] is None


def test_a_triple_fault_has_no_status() -> None:
    data = run("triple-fault").to_dict()
    assert (data["outcome"], data["guest_status"]) == ("triple-fault", None)


def test_outcomes_are_those_of_the_contract() -> None:
    from simvirt.machine.machine import Outcome

    """A debugger's stop is no outcome of `run`: whoever sets break- and watchpoints takes the run up again."""
    assert {outcome.value for outcome in Outcome} - {Outcome.BREAKPOINT.value} == OUTCOMES


def test_console_bytes_that_are_no_text() -> None:
    from dataclasses import replace

    result = replace(run("hello"), console_bytes="für \xe9".encode() + b"\xff\x00")
    assert result.console == "für é\\xff\x00"
    assert json.loads(result.to_json())["console"] == result.console


@pytest.mark.parametrize(("instructions", "emulated", "fraction"), [(0, 0, 1.0), (100, 0, 1.0), (100, 25, 0.75)])
def test_direct_fraction(instructions: int, emulated: int, fraction: float) -> None:
    assert Counted(instructions, emulated).direct_fraction == fraction


def test_interventions_are_the_sum_of_all_exits() -> None:
    counted = Counted(10, 3, {"HLT": 2, "CPUID": 5}, {Intervention.EMULATED: 7})
    assert counted.interventions == 7


def test_results_look_alike_everywhere() -> None:
    result = run("hello")
    text, html = str(result), result._repr_html_()
    for word in ("Hello from ring 0.", "finished", "counted", "modelled", "measured", "267"):
        assert word in text
        assert word in html
    assert html.startswith("<pre")
    comparison = compare("hello", [Faulty(9, flip_memory(0x300000))])
    for shown in (str(comparison), comparison._repr_html_()):
        assert "diverged" in shown
        assert "instruction 9" in shown
    assert "<script" not in html


def test_public_names() -> None:
    assert {"run", "compare", "Run", "Comparison"} <= set(dir(simvirt))
    assert (simvirt.run, simvirt.compare, simvirt.Run, simvirt.Comparison) == (run, compare, Run, Comparison)
