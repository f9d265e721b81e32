"""Random guests of trapping and innocuous instructions run de-privileged exactly as on the bare PC."""

from __future__ import annotations

import pytest

from tests.support import trapping_programs
from tests.support.trapping_programs import RESUME, generate
from tests.support.twins import CODE, Twins

PROGRAMS = 60
"""In the default run, in one test each ten."""


def run(twins: Twins, seed: int) -> int:
    """Step through a program on both; the number of instructions compared."""
    program = generate(seed)
    twins.renew()
    for address, data in program.parts.items():
        twins.write(address, data)
    difference = twins.compare(program.parts[CODE], steps=trapping_programs.STEPS)
    assert difference is None, f"seed {seed}: {difference}"
    return twins.bare.machine.count


@pytest.mark.parametrize("first", range(0, PROGRAMS, 10))
def test_random_programs(twins: Twins, first: int) -> None:
    assert sum(run(twins, seed) for seed in range(first, first + 10)) > 500


@pytest.mark.long
@pytest.mark.parametrize("first", range(10_000, 13_000, 100))
def test_many_random_programs(twins: Twins, first: int) -> None:
    assert sum(run(twins, seed) for seed in range(first, first + 100)) > 5000


def test_a_program_goes_on_behind_its_faults(twins: Twins) -> None:
    """The frame of the programs works: all pieces of most programs are reached."""
    reached = 0
    for seed in range(20):
        run(twins, seed)
        end = int.from_bytes(twins.memory(twins.bare.machine)[RESUME : RESUME + 4], "little")
        reached += twins.bare.machine.processor.guest_state().rip == end + 1
    assert reached >= 10
