"""Runs long enough to cross the engine's own limits: its slices, and the room that it has for translated code."""

from __future__ import annotations

import random
import threading
import time

import pytest

from simvirt.machine.machine import Machine, Outcome
from simvirt.x86.addresses import Gpa
from tests.support import program_frame as frame
from tests.support.assembler import d32
from tests.support.exactness import STRATEGIES, build, digest
from tests.support.program_memory_pieces import routine
from tests.support.program_pieces import Body, Feature
from tests.support.programs import Program, assemble

_TIMES = 20_000_000


def _loop() -> Program:
    """DEC ECX; JNZ, for ever as far as the tests go."""

    def body(b: Body) -> None:
        b.load(1, _TIMES)
        b.a.emit("49 75fd")

    return assemble("loop", body)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_stop_far_away_is_exact(strategy: str) -> None:
    program = _loop()
    machine = build(program.image(), strategy).machine
    while machine.processor.guest_state().rip != program.body:
        machine.step()
    first = machine.count + 1
    rng = random.Random(1)
    for _ in range(300):
        n = machine.count + rng.choice((1, 2, 500, 511, 512, 513, 1 << 19, rng.randrange(1 << 20)))
        if n > first + 2 * _TIMES:
            break
        machine.run_to(n)
        state = machine.processor.guest_state()
        assert machine.count == n
        done, half = divmod(n - first, 2)
        assert state.general[1] == _TIMES - done - half
        assert state.rip == program.body + 5 + half


def _patched_loop(times: int) -> Program:
    """Nine instructions, one of which overwrites a routine that is then called."""

    def body(b: Body) -> None:
        def inside() -> None:
            b.a.emit("ff05", d32(frame.ROUTINES + 1))
            b.load(3, frame.ROUTINES)
            b.a.emit("ffd3")

        b.looped(times, inside)

    return assemble("patched", body)


def _count_of_patched_loop(times: int, strategy: str) -> int:
    program = _patched_loop(times)
    machine = build(program.image(), strategy).machine
    while machine.processor.guest_state().rip != program.body:
        machine.step()
    before = machine.count
    assert machine.run() is Outcome.FINISHED
    return machine.count - before


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_room_for_translations_runs_out(strategy: str) -> None:
    """Each round translates anew; the engine throws everything away now and then."""
    assert routine(0)[:1] == b"\x05"
    times = 400_000
    assert _count_of_patched_loop(times, strategy) == 1 + 9 * times + 4


def _finish_interrupted(machine: Machine, seed: int) -> int:
    """Run to the end while another thread asks for stops; returns how often it did."""
    rng = random.Random(seed)
    ended = threading.Event()

    def bother() -> None:
        while not ended.is_set():
            time.sleep(rng.random() * 0.002)
            machine.request_stop()

    thread = threading.Thread(target=bother)
    thread.start()
    stops = 0
    try:
        while machine.run() is Outcome.INTERRUPTED:
            stops += 1
            machine.resume()
    finally:
        ended.set()
        thread.join()
    return stops


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_interruptions_by_the_host_leave_no_trace(strategy: str) -> None:
    """Ctrl-C at any time, and on again: the machine ends as if nothing had been."""

    def body(b: Body) -> None:
        def inside() -> None:
            b.load(1, 30_000)
            b.a.emit("e2fe fb 0f31 3105", d32(frame.ACCUMULATOR))
            b.a.emit("b041 e680")

        b.looped(100, inside)

    image = assemble("interrupted", body, Feature.INTERRUPTS, random.Random(2)).image()
    quiet = build(image, strategy).machine
    quiet.run()
    bothered = build(image, strategy).machine
    assert _finish_interrupted(bothered, 3) > 0
    assert digest(bothered) == digest(quiet)
    assert int.from_bytes(quiet.read_physical(Gpa(frame.TICKS), 4), "little") > 50
