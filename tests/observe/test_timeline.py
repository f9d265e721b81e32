"""Going forward and back in a run: every position is the same whenever and however one comes to it."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from simvirt.guests.resolve import resolve
from simvirt.machine.breakpoints import WatchedAccess, Watchpoint
from simvirt.machine.machine import Outcome
from simvirt.observe import checkpoints
from simvirt.observe.results import RunConfig
from simvirt.observe.stops import (
    AtBeginning,
    AtBreakpoint,
    AtExit,
    AtHandler,
    AtWatchpoint,
    Ended,
    Interrupted,
    Reached,
    Stops,
)
from simvirt.observe.timeline import Timeline
from simvirt.observe.trial import Trial
from simvirt.strategies.registry import find
from simvirt.x86.addresses import Gpa, Gva
from simvirt.x86.registers import GeneralRegister
from tests.support.exactness import STRATEGIES, digest, features_for
from tests.support.programs import generate

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage

BARE = "bare-metal"
TIMER = 0x20


def timeline(
    guest: str | GuestImage, strategy: str = BARE, *, most: int = 10**8, budget: int = 1 << 28, chunk: int | None = None
) -> Timeline:
    image = resolve(guest) if isinstance(guest, str) else guest
    trial = Trial(image, find(strategy), RunConfig("core2", 4 << 20, 0, most))
    made = Timeline(trial, budget=budget)
    if chunk is not None:
        made._chunk = chunk
    return made


def symbol(t: Timeline, name: str) -> Gva:
    address = t.trial.image.symbols.address(name)
    assert address is not None
    return address


def value(t: Timeline, address: int) -> int:
    return int.from_bytes(t.trial.machine.read_physical(Gpa(address), 4), "little")


# ------------------------------------------------------------------------------------------------- the same every time


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(3))
def test_every_jump_leads_to_the_same_machine(strategy: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots of a run without a debugger, against the same moments reached by jumps to and fro."""
    monkeypatch.setattr(checkpoints, "MOST_CHECKPOINTS", 12)
    program = generate(seed + 20, features_for(strategy))
    plain = Trial(program.image(), find(strategy), RunConfig("core2", 4 << 20, 0, 10**6))
    moments = sorted(random.Random(seed).sample(range(1200), 25))
    expected = {}
    for moment in moments:
        plain.advance(moment)
        expected[plain.count] = digest(plain.machine)
    reached = sorted(expected)
    monkeypatch.setattr("simvirt.observe.timeline._CHUNK_SECONDS", 1e9)  # the chunk stays as it is
    t = timeline(program.image(), strategy, chunk=40)
    monkeypatch.setattr("simvirt.observe.timeline._CHUNK_SECONDS", 0.0)
    t._chunk = 40
    monkeypatch.setattr("simvirt.observe.timeline._SMALLEST_CHUNK", 40)
    t.go_to(reached[-1])
    assert len(t.checkpoints) > 4
    rng = random.Random(seed)
    for _ in range(40):
        moment = rng.choice(reached)
        t.go_to(moment)
        assert t.trial.count == moment
        assert digest(t.trial.machine) == expected[moment], f"at {moment}"
    assert len(t.checkpoints) <= 12


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stepping_back_retraces_the_steps(strategy: str) -> None:
    """Deliveries of timer interrupts and exceptions are steps of their own, in both directions."""
    for guest in ("ticker", "faults"):
        t = timeline(guest, strategy)
        t.run(Stops(vectors=frozenset(range(256))))
        t.go_to(t.trial.count - 5)
        positions, counters = [t.position], [t.trial.machine.board.save()]
        for _ in range(30):
            t.step()
            positions.append(t.position)
            counters.append(t.trial.machine.board.save())
        assert len({p.count for p in positions}) < len(positions), "something was delivered"
        for at, board in zip(reversed(positions[:-1]), reversed(counters[:-1]), strict=True):
            assert t.step_back() == Reached()
            assert t.position == at
            assert t.trial.machine.board.save() == board


def test_a_handler_is_seen_at_its_first_instruction() -> None:
    t = timeline("ticker")
    t.run(Stops(vectors=frozenset({TIMER})))
    handler = t.position
    t.step_back()
    before = t.position
    assert (before.count, before.address == handler.address) == (handler.count, False)
    t.step()
    assert t.position == handler


# -------------------------------------------------------------------------------------------------------------- stops


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_last_write_of_a_variable(strategy: str) -> None:
    t = timeline("ticker", strategy)
    ticks = symbol(t, "ticks")
    assert t.run() == Ended(Outcome.FINISHED)
    end = t.position
    stops = Stops(watchpoints=(Watchpoint(ticks, 4, WatchedAccess.WRITE),))
    for expected in range(9, -1, -1):
        assert isinstance(t.run_back(stops), AtWatchpoint)
        assert value(t, ticks) == expected, "the write has not happened yet"
        here = t.position
        t.step()
        assert value(t, ticks) == expected + 1
        t.step_back()
        assert t.position == here
    assert t.run_back(stops) == AtBeginning()
    for expected in range(1, 11):
        assert isinstance(t.run(stops), AtWatchpoint)
        assert value(t, ticks) == expected
    assert t.run(stops) == Ended(Outcome.FINISHED)
    assert t.position == end


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_stops_on_the_way_back_are_those_of_the_way_forward(strategy: str) -> None:
    t = timeline("rings", strategy, chunk=300)
    stops = Stops(
        breakpoints=frozenset({symbol(t, "put_char"), symbol(t, "dispatch_interrupt")}),
        vectors=frozenset({0x80}),
    )
    seen = []
    while not isinstance(reason := t.run(stops), Ended):
        seen.append((reason, t.position))
    assert {type(reason) for reason, _ in seen} == {AtBreakpoint, AtHandler}
    for expected in seen[:-15:-1]:
        assert (t.run_back(stops), t.position) == expected
    t.go_to(seen[8][1].count)
    for expected in seen[7::-1]:
        assert (t.run_back(stops), t.position) == expected
    assert t.run_back(stops) == AtBeginning()


def test_exits_to_the_vmm() -> None:
    t = timeline("ticker", "vtx")
    stops = Stops(exits=frozenset({"HLT"}))
    counts = []
    while isinstance(reason := t.run(stops), AtExit):
        assert reason.record.reason.name == "HLT"
        counts.append((t.trial.count, t.trial.log.total))
    assert len(counts) == t.trial.log.counts[next(r for r in t.trial.log.counts if r.name == "HLT")] > 3
    for count in reversed(counts):
        assert isinstance(t.run_back(stops), AtExit)
        assert (t.trial.count, t.trial.log.total) == count


def test_accesses_on_the_way_back() -> None:
    t = timeline("ticker")
    stops = Stops(watchpoints=(Watchpoint(symbol(t, "ticks"), 4, WatchedAccess.ACCESS),))
    forward = []
    while isinstance(t.run(stops), AtWatchpoint):
        forward.append(t.position.count)
    back = []
    while isinstance(t.run_back(stops), AtWatchpoint):
        back.append(t.position.count + 1)
    assert back == forward[::-1]
    assert len(back) > 10


def test_millions_of_instructions_back() -> None:
    """The last write of a variable in a long run, in which another breakpoint is never hit."""
    t = timeline("bench-sieve", most=3_000_000)
    t.run()
    assert len(t.checkpoints) > 1
    assert t.run_back(Stops(breakpoints=frozenset({symbol(t, "guest_main")}))) == AtBreakpoint(symbol(t, "guest_main"))
    assert t.trial.count < 1000


# ------------------------------------------------------------------------------------------------------- outside


def test_a_changed_register_ends_the_future_and_stays() -> None:
    t = timeline("ticker")
    t.run()
    end = t.position
    t.go_to(700)
    state = t.trial.machine.processor.guest_state()
    t.trial.machine.write_physical(Gpa(symbol(t, "ticks")), bytes(4))
    t.change()
    assert t.run() == Ended(Outcome.FINISHED)
    longer = t.position
    assert longer != end
    console = bytes(t.trial.machine.board.console)
    t.go_to(300)
    assert t.run() == Ended(Outcome.FINISHED)
    assert (t.position, bytes(t.trial.machine.board.console)) == (longer, console)
    t.go_to(699)
    assert value(t, symbol(t, "ticks")) > 0
    t.step()
    t.step_back()
    t.go_to(700)
    assert value(t, symbol(t, "ticks")) == 0
    assert t.trial.machine.processor.guest_state().rip == state.rip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_nmi_from_outside_is_part_of_the_past_from_then_on(strategy: str) -> None:
    t = timeline("faults", strategy)
    t.go_to(200)
    before = t.position
    t.raise_nmi()
    t.step()
    state = t.trial.machine.processor.guest_state()
    gate = int.from_bytes(t.trial.machine.read_physical(Gpa(state.idtr.base + 16), 8), "little")
    assert state.rip == gate & 0xFFFF | gate >> 32 & 0xFFFF_0000
    assert t.position.count == before.count
    handler = t.position
    t.step()
    t.step_back()
    assert t.position == handler


def test_a_register() -> None:
    t = timeline("hello")
    t.go_to(40)
    processor = t.trial.machine.processor
    state = processor.guest_state()
    general = (0x1234_5678, *state.general[1:])
    from dataclasses import replace

    processor.set_guest_state(replace(state, general=general))
    t.change()
    t.step()
    t.go_to(20)
    t.go_to(40)
    assert processor.guest_state().general[GeneralRegister.RAX] == 0x1234_5678


def test_a_stop_that_is_asked_for() -> None:
    t = timeline("spin")
    asked = iter([False, False, True])
    t.asked_to_stop = lambda: next(asked)
    assert t.run() == Interrupted()
    assert t.trial.outcome is None
    here = t.position
    t.asked_to_stop = lambda: True
    assert t.run_back(Stops(breakpoints=frozenset({Gva(1)}))) in (Interrupted(), AtBeginning())
    t.asked_to_stop = lambda: False
    t.go_to(here.count)
    assert t.position == here


def test_console_output_is_shown_once() -> None:
    t = timeline("hello")
    shown = bytearray()
    t._on_console = shown.append
    t.run()
    t.go_to(100)
    t.run()
    t.go_to(0)
    t.run()
    assert shown == t.trial.machine.board.console


def test_memory_of_checkpoints_stays_within_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simvirt.observe.timeline._CHUNK_SECONDS", 0.0)
    t = timeline("bench-sieve", most=400_000, budget=1 << 19, chunk=2000)
    monkeypatch.setattr("simvirt.observe.timeline._SMALLEST_CHUNK", 2000)
    t.run()
    assert t.checkpoints.size <= 1 << 19
    counts = t.checkpoints.counts
    gaps = [b - a for a, b in pairwise(counts)]
    assert len(counts) > 8
    assert max(gaps[: len(gaps) // 2]) >= gaps[-1], "what is long ago is kept more sparsely"
