"""Breakpoints and watchpoints of a debugger in random programs, against what single steps see."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.breakpoints import Breakpoint, WatchedAccess, Watchpoint
from simvirt.machine.machine import Outcome
from simvirt.observe.code import code_bits, linear_address
from simvirt.x86.addresses import Gpa, Gva
from tests.support import program_frame as frame
from tests.support.exactness import STRATEGIES, build, features_for, snapshot
from tests.support.programs import generate
from tests.support.retirement import deliveries


def _address(state: ArchitecturalState) -> Gva:
    return linear_address(state, code_bits(state))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(5))
def test_random_programs_stop_where_single_stepping_saw_it(
    strategy: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is hit is what stepping saw, and the run is the same as one that nobody watched."""
    program = generate(seed, features_for(strategy))
    stepped = build(program.image(), strategy).machine
    rng = random.Random(seed)
    watched = [rng.randrange(frame.CODE, frame.MEMORY_SIZE) & ~3 for _ in range(4)]

    def values() -> list[bytes]:
        return [stepped.read_physical(Gpa(address), 4) for address in watched]

    seen, delivered_at = [], set()
    with deliveries(monkeypatch) as delivered:
        while True:
            count, before = stepped.count, len(delivered)
            seen.append((count, _address(stepped.processor.guest_state()), values()))
            if count >= 1500:
                break
            outcome = stepped.step()
            if len(delivered) > before:
                delivered_at.add(count)
            if outcome is not None:
                break
    last = stepped.count
    candidates = sorted({address for _, address, _ in seen})
    places = rng.sample(candidates, min(8, len(candidates)))
    expected = {n for n, address, _ in seen if address in places and n < last and n not in delivered_at}

    machine = build(program.image(), strategy).machine
    breakpoints = machine.processor.breakpoints
    for place in places:
        breakpoints.insert(Breakpoint(place))
    for address in watched:
        breakpoints.insert(Watchpoint(Gva(address), 4, WatchedAccess.WRITE))
    hits, writes = set(), set()
    while machine.run_to(last) is Outcome.BREAKPOINT:
        for point in breakpoints.hit:
            if isinstance(point, Breakpoint):
                hits.add(machine.count)
                assert _address(machine.processor.guest_state()) == point.address
            else:
                writes.add(machine.count)
        machine.resume()
    assert snapshot(machine) == snapshot(stepped)
    assert expected <= hits
    assert hits - expected <= delivered_at, "only handlers are reached without a step that shows it"
    changes = {n for (_, _, old), (n, _, new) in pairwise(seen) if old != new and n - 1 not in delivered_at}
    assert changes <= writes
