"""The scheduler: turns in order, slices of the length that was asked for, and none for who has ended."""

from __future__ import annotations

import pytest

from simvirt.errors import UsageError
from simvirt.vmm.scheduler import RoundRobin


class Vm:
    def __init__(self, name: str, work: int, log: list[tuple[str, int]], sleeps_after: int = 1 << 60) -> None:
        self.name, self.work, self.log, self.sleeps_after = name, work, log, sleeps_after
        self.entered = False

    @property
    def runnable(self) -> bool:
        return self.work > 0

    def enter(self) -> None:
        self.entered = True

    def run_slice(self, instructions: int) -> None:
        assert self.entered
        self.entered = False
        done = min(instructions, self.work, self.sleeps_after)
        self.work -= done
        self.log.append((self.name, done))


def test_turns_go_round_until_all_have_ended() -> None:
    log: list[tuple[str, int]] = []
    scheduler = RoundRobin([Vm("a", 25, log), Vm("b", 5, log), Vm("c", 0, log), Vm("d", 6, log, 3)], 10)
    scheduler.run()
    assert log == [("a", 10), ("b", 5), ("d", 3), ("a", 10), ("d", 3), ("a", 5)]
    assert scheduler.slices == len(log)


def test_a_slice_is_at_least_an_instruction() -> None:
    with pytest.raises(UsageError, match="at least one"):
        RoundRobin([], 0)
