"""`run_to(n)` stops at instruction n, whatever n, and however the machine came there."""

from __future__ import annotations

import random

import pytest

from simvirt.machine.machine import Machine
from tests.support.exactness import BUDGET, STRATEGIES, Snapshot, build, difference, features_for, snapshot, steps
from tests.support.programs import Program, generate


def _same(trace: list[Snapshot], machine: Machine) -> None:
    expected = trace[-1] if machine.outcome is not None else trace[machine.count - trace[0].count]
    assert not difference(expected, snapshot(machine))


def _every_stop(program: Program, strategy: str) -> None:
    """From the same start to every n in turn."""
    machine = build(program.image(), strategy).machine
    start = machine.save()
    trace = steps(machine)
    for expected in trace[:-1]:
        machine.restore(start)
        machine.run_to(expected.count)
        assert not difference(expected, snapshot(machine))


def _leaps(program: Program, strategy: str, seed: int) -> None:
    """In leaps of all sizes, on machines that never ran in any other way."""
    trace = steps(build(program.image(), strategy).machine)
    rng = random.Random(seed)
    for longest in (2, 3, 7, 20, 100, 1000):
        machine = build(program.image(), strategy).machine
        while machine.outcome is None and machine.count < BUDGET:
            machine.run_to(min(machine.count + rng.randint(1, longest), BUDGET))
            _same(trace, machine)
    free = build(program.image(), strategy).machine
    free.run(BUDGET)
    _same(trace, free)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(102, 104))
def test_every_instruction_can_be_stopped_at(seed: int, strategy: str) -> None:
    _every_stop(generate(seed, features_for(strategy), pieces=12), strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(200, 204))
def test_leaps_and_steps_meet_the_same_states(seed: int, strategy: str) -> None:
    _leaps(generate(seed, features_for(strategy)), strategy, seed)


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("first", range(2000, 2200, 10))
def test_leaps_and_steps_meet_the_same_states_in_many_programs(first: int, strategy: str) -> None:
    for seed in range(first, first + 10):
        _leaps(generate(seed, features_for(strategy)), strategy, seed)


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("first", range(3000, 3040, 4))
def test_every_instruction_of_many_programs_can_be_stopped_at(first: int, strategy: str) -> None:
    for seed in range(first, first + 4):
        _every_stop(generate(seed, features_for(strategy), pieces=16), strategy)


@pytest.mark.parametrize("seed", range(300, 306))
def test_vtx_runs_as_bare_metal_does(seed: int) -> None:
    """A stronger statement: the same states at the same counts under two strategies."""
    program = generate(seed)
    reference = steps(build(program.image(), "bare-metal").machine)
    machine = build(program.image(), "vtx").machine
    for expected in reference[:-1]:
        machine.run_to(expected.count)
        assert not difference(expected, snapshot(machine))
