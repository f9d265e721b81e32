"""The event queue: a total order, and a state that is only names and times."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.errors import MonitorError, SnapshotError
from simvirt.machine.event_queue import EventQueue

NAMES = ("c", "a", "b")


def recording_queue() -> tuple[EventQueue, list[str]]:
    queue = EventQueue()
    ran: list[str] = []
    for name in NAMES:
        queue.register(name, partial(ran.append, name))
    return queue, ran


def test_earlier_deadlines_run_first_and_only_when_due() -> None:
    queue, ran = recording_queue()
    queue.schedule("a", 30)
    queue.schedule("b", 10)
    queue.schedule("c", 20)
    assert queue.next_deadline() == 10
    queue.run_due(9)
    assert ran == []
    queue.run_due(20)
    assert ran == ["b", "c"]
    assert queue.next_deadline() == 30


def test_ties_run_in_the_order_of_registration() -> None:
    queue, ran = recording_queue()
    for name in ("b", "a", "c"):
        queue.schedule(name, 5)
    queue.run_due(5)
    assert ran == ["c", "a", "b"]


def test_scheduling_again_moves_the_event() -> None:
    queue, ran = recording_queue()
    queue.schedule("a", 5)
    queue.schedule("a", 50)
    assert queue.next_deadline() == queue.pending("a") == 50
    queue.run_due(49)
    assert ran == []
    queue.run_due(50)
    queue.run_due(99)
    assert ran == ["a"]


def test_cancelled_events_do_not_run() -> None:
    queue, ran = recording_queue()
    queue.schedule("a", 5)
    queue.cancel("a")
    queue.cancel("a")
    assert queue.next_deadline() is None
    queue.run_due(10)
    assert ran == []


def test_the_earliest_of_all_others() -> None:
    queue = EventQueue()
    for name, when in (("a", 10), ("b", 5), ("c", 7)):
        queue.register(name, lambda: None)
        queue.schedule(name, when)
    assert [queue.earliest_but(name) for name in "abc"] == [5, 7, 5]
    queue.clear()
    queue.schedule("a", 1)
    assert queue.earliest_but("a") is None


def test_what_a_handler_schedules_for_a_passed_moment_runs_in_the_same_call() -> None:
    queue = EventQueue()
    times: list[int] = []

    def tick() -> None:
        times.append(len(times) * 10)
        if len(times) < 4:
            queue.schedule("tick", len(times) * 10)

    queue.register("tick", tick)
    queue.schedule("tick", 0)
    queue.run_due(25)
    assert times == [0, 10, 20]
    assert queue.next_deadline() == 30


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 50)), st.integers(0, 60))
def test_restored_queues_behave_alike(deadlines: dict[str, int], now: int) -> None:
    first, ran_first = recording_queue()
    for name, when in deadlines.items():
        first.schedule(name, when)
    second, ran_second = recording_queue()
    second.schedule("b", 1)
    second.restore(first.save())
    assert second.next_deadline() == first.next_deadline() == min(deadlines.values(), default=None)
    for queue in (first, second):
        queue.run_due(now)
    due = [name for name in NAMES if deadlines.get(name, 99) <= now]
    assert ran_first == ran_second == sorted(due, key=lambda name: deadlines[name])
    assert first.save() == second.save()


def test_misuse_is_named() -> None:
    queue, _ = recording_queue()
    with pytest.raises(MonitorError, match="'a' is registered already"):
        queue.register("a", lambda: None)
    with pytest.raises(MonitorError, match="'z' is not registered"):
        queue.schedule("z", 1)
    queue.schedule("a", 7)
    with pytest.raises(SnapshotError, match="schedules y, z"):
        queue.restore({"z": 1, "a": 2, "y": 3})
    assert queue.save() == {"a": 7}
