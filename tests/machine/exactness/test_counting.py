"""The instruction counter counts what is retired: a step is one instruction, and a free run makes as many steps."""

from __future__ import annotations

import pytest

from simvirt.guests import catalogue
from simvirt.guests.image import GuestImage
from tests.support import program_frame as frame
from tests.support.exactness import BUDGET, STRATEGIES, build, difference, features_for, snapshot
from tests.support.programs import generate
from tests.support.retirement import Auditor, deliveries

_QUICK_GUESTS = ("hello", "popf-mask", "sensitive", "rings", "faults", "triple-fault")
_LONG_GUESTS = ("ticker", "spin", "bench-sieve", "bench-sha256", "bench-dhrystone", "bench-priv")
_GUEST_MEMORY = 16 << 20


def _audit(image: GuestImage, strategy: str, budget: int, memory_size: int, patch: pytest.MonkeyPatch) -> None:
    stepped = build(image, strategy, memory_size)
    auditor = Auditor(stepped, strategy)
    with deliveries(patch) as found:
        while stepped.machine.outcome is None and stepped.machine.count < budget:
            auditor.step(found)
    free = build(image, strategy, memory_size).machine
    free.run(budget)
    assert not difference(snapshot(stepped.machine), snapshot(free))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(6))
def test_every_step_of_a_random_program_is_one_instruction(
    seed: int, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = generate(seed, features_for(strategy))
    _audit(program.image(), strategy, BUDGET, frame.MEMORY_SIZE, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("first", range(1000, 1400, 20))
def test_every_step_of_many_random_programs_is_one_instruction(
    first: int, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(first, first + 20):
        program = generate(seed, features_for(strategy))
        _audit(program.image(), strategy, BUDGET, frame.MEMORY_SIZE, monkeypatch)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", _QUICK_GUESTS)
def test_a_guest_is_counted_as_it_steps(name: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _audit(catalogue.find(name).image(), strategy, 3_000, _GUEST_MEMORY, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", _LONG_GUESTS)
def test_the_beginning_of_a_long_guest_is_counted_as_it_steps(
    name: str, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _audit(catalogue.find(name).image(), strategy, 100_000, _GUEST_MEMORY, monkeypatch)
