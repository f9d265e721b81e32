"""Virtual time: one nanosecond an instruction, plus what is skipped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.errors import MonitorError
from simvirt.machine.clock import GuestClock


class Retired:
    """A processor's count, set by hand."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        return self.count


def test_an_instruction_is_a_nanosecond() -> None:
    retired = Retired()
    clock = GuestClock(retired)
    assert clock.now() == 0
    retired.count = 12345
    assert clock.now() == 12345


def test_skipping_goes_forward_only() -> None:
    retired = Retired()
    clock = GuestClock(retired)
    retired.count = 1000
    clock.skip_to(5000)
    assert (clock.now(), clock.skipped) == (5000, 4000)
    clock.skip_to(4999)
    assert clock.now() == 5000


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**12))), st.integers(0, 10**12))
def test_at_the_instruction_of_a_deadline_the_clock_shows_the_deadline(life: list[tuple[int, int]], ahead: int) -> None:
    retired = Retired()
    clock = GuestClock(retired)
    for instructions, skip in life:
        retired.count += instructions
        clock.skip_to(clock.now() + skip)
    when = clock.now() + ahead
    retired.count = clock.instruction_at(when)
    assert clock.now() == when


def test_restored_time_goes_on() -> None:
    retired = Retired()
    clock = GuestClock(retired)
    clock.skip_to(700)
    other = GuestClock(retired)
    other.restore(clock.save())
    retired.count = 3
    assert other.now() == clock.now() == 703


def test_negative_skipped_time_is_refused() -> None:
    with pytest.raises(MonitorError, match="never negative"):
        GuestClock(lambda: 0).restore(-1)
