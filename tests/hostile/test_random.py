"""Random guests under each strategy, on a machine that is used again and again: every one ends, and says clearly how.

The guests and their families are in tests/hostile/guests.py, the processes they run in and the watchdog in workers.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from simvirt.machine.machine import Outcome
from tests.hostile.arena import UNSUPPORTED, Arena, Report
from tests.hostile.guests import MEMORY_SIZE, Family, hostile_guest
from tests.hostile.workers import Death, run_all, run_all_in_parallel

STRATEGIES = ("bare-metal", "trap-and-emulate", "vtx")
_ENDS = {
    Outcome.FINISHED, Outcome.HALTED, Outcome.WAITING_FOR_INPUT, Outcome.RESET, Outcome.TRIPLE_FAULT, Outcome.LIMIT,
}  # fmt: skip
CLEAR = {outcome.value for outcome in _ENDS}
_BYTES = range(0, 10_000 * 10, 10)
"""The seeds of Family.BYTES end in 0."""


def _unclear(strategy: str, results: Iterable[Report | Death], instructions: int) -> list[str]:
    """What is not as it should be."""
    bad = []
    for result in results:
        if isinstance(result, Death):
            bad.append(str(result))
        elif result.outcome == UNSUPPORTED and strategy == "trap-and-emulate":
            if not result.error.startswith("the guest "):
                bad.append(f"seed {result.seed}: not clear: {result.error}")
        elif result.outcome not in CLEAR or result.count > instructions:
            bad.append(f"seed {result.seed}: {result}")
    return bad


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sample_of_all_families(strategy: str) -> None:
    assert not _unclear(strategy, run_all(strategy, range(150), 300), 300)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sample_of_random_bytes(strategy: str) -> None:
    assert not _unclear(strategy, run_all(strategy, _BYTES[1000:1300], 3000), 3000)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ten_thousand_strings_of_random_bytes(strategy: str) -> None:
    """On two processors some three minutes on the bare PC, a quarter of an hour under each VMM: one guest in twenty makes
    an exit of each of its 100,000 instructions, since it runs through zeros with EAX in a hole."""
    assert not _unclear(strategy, run_all_in_parallel(strategy, _BYTES, 100_000), 100_000)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_thousands_of_all_families(strategy: str) -> None:
    assert not _unclear(strategy, run_all_in_parallel(strategy, range(150, 6150), 3000), 3000)


def _same_under_vtx(seeds: Iterable[int], instructions: int) -> list[str]:
    """Where bare metal and non-root mode part: in count, outcome, processor or memory."""
    bare, vtx = Arena("bare-metal"), Arena("vtx")
    different = []
    for seed in seeds:
        guest = hostile_guest(seed)
        first, second = bare.run(guest, instructions), vtx.run(guest, instructions)
        same = (first.outcome, first.count) == (second.outcome, second.count)
        states = [arena.machine.processor.guest_state() for arena in (bare, vtx)]
        if not same or states[0].differences(states[1]) or bare.memory() != vtx.memory():
            different.append(f"seed {seed}: {first} {second} {states[0].differences(states[1])[:3]}")
    return different


def test_hostile_guests_run_under_vtx_as_on_bare_metal() -> None:
    assert not _same_under_vtx(range(10_000, 10_060), 400)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_hostile_guests_run_under_vtx_as_on_bare_metal() -> None:
    assert not _same_under_vtx(range(10_060, 11_060), 1500)


def _stops_matter(strategy: str, seeds: Iterable[int], instructions: int) -> list[str]:
    """Where a run in pieces, on a machine that has been used before, ends otherwise than a run in one go on a new one."""
    used = Arena(strategy)
    different = []
    for seed in seeds:
        guest = hostile_guest(seed)
        rng = random.Random(seed)
        fresh = Arena(strategy)
        whole = fresh.run(guest, instructions)
        used.load(guest)
        try:
            while used.machine.outcome is None and used.machine.count < instructions:
                used.machine.run_to(min(instructions, used.machine.count + rng.randint(1, 40)))
        except Exception as error:  # noqa: BLE001 - compared with what the other run said
            if str(error) != whole.error:
                different.append(f"seed {seed}: {error!r}, {whole}")
            continue
        outcome = Outcome.LIMIT if used.machine.outcome is None else used.machine.outcome
        states = [arena.machine.processor.guest_state() for arena in (fresh, used)]
        differences = states[0].differences(states[1])
        if (outcome.value, used.machine.count) != (whole.outcome, whole.count) or differences:
            different.append(f"seed {seed}: {whole} {outcome} {used.machine.count} {differences[:3]}")
        elif fresh.memory() != used.memory():
            different.append(f"seed {seed}: memory")
    return different


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stops_and_former_guests_leave_no_trace(strategy: str) -> None:
    assert not _stops_matter(strategy, range(20_000, 20_030), 300)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stops_and_former_guests_leave_no_trace_in_many_guests(strategy: str) -> None:
    assert not _stops_matter(strategy, range(20_030, 20_630), 1000)


def test_the_same_number_is_the_same_guest() -> None:
    families = {Family.BYTES, Family.TABLES, Family.SOUP, Family.SYSTEM, Family.PAGING, Family.RING3, Family.REAL}
    guests = [hostile_guest(seed) for seed in range(10)]
    assert guests == [hostile_guest(seed) for seed in range(10)]
    assert {guest.family for guest in guests} == families
    assert all(at + len(data) <= MEMORY_SIZE for guest in guests for at, data in guest.pieces)
