"""With native delivery or without, a program is in the same state at each instruction and leaves the same records."""

from __future__ import annotations

from random import Random

import pytest

from simvirt.machine.engine import DELIVER_NOTHING
from tests.support.exactness import BUDGET, STRATEGIES, build, features_for, snapshot
from tests.support.programs import generate

_STOPS = 40


def _compare(strategy: str, seed: int) -> int:
    """Run to the same random instructions, and then to the end.

    :return: how many exceptions and interrupts have been delivered.
    """
    image = generate(seed, features_for(strategy)).image()
    native, reference = build(image, strategy), build(image, strategy)
    reference.cpu.native_delivery = DELIVER_NOTHING
    random = Random(seed)
    for stop in sorted({random.randrange(1, BUDGET) for _ in range(_STOPS)} | {BUDGET}):
        for side in (native, reference):
            side.machine.run_to(stop)
        assert snapshot(native.machine) == snapshot(reference.machine), f"seed {seed}, at {stop}"
        assert native.cpu.engine.save_image() == reference.cpu.engine.save_image(), f"seed {seed}, at {stop}"
    ours, theirs = native.cpu.engine.deliveries, reference.cpu.engine.deliveries
    assert ours.by_vector == theirs.by_vector, f"seed {seed}"
    assert list(ours.fault_chain) == list(theirs.fault_chain), f"seed {seed}"
    assert native.log.save() == reference.log.save(), f"seed {seed}"
    return sum(ours.by_vector.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_random_programs(strategy: str) -> None:
    assert sum(_compare(strategy, seed) for seed in range(900, 912)) > 100


@pytest.mark.long
@pytest.mark.parametrize("first", range(9000, 9400, 20))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_many_random_programs(strategy: str, first: int) -> None:
    for seed in range(first, first + 20):
        _compare(strategy, seed)
