"""The 8254 of a PC: control words, and OUT 0 on IRQ 0 at its exact moments (Intel 231164; 1,193,182 Hz)."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.machine.clock import GuestClock
from simvirt.machine.devices.pit import PIT_HZ, Pit8254, pulse_at, pulse_time
from simvirt.machine.event_queue import EventQueue

CONTROL: Final = 3
NS: Final = 10**9


class Bench:
    """A timer with a clock that is set by hand, and the history of its interrupt line."""

    def __init__(self) -> None:
        self.retired = 0
        self.clock = GuestClock(lambda: self.retired)
        self.events = EventQueue()
        self.edges: list[tuple[int, bool]] = []
        self._level = False
        self.pit = Pit8254(self.clock, self.events, self._line)
        self.edges.clear()

    def _line(self, high: bool) -> None:
        if high is not self._level:
            self._level = high
            self.edges.append((self.clock.now(), high))

    def write(self, offset: int, *values: int) -> None:
        for value in values:
            self.pit.write(offset, 1, value)

    def read(self, offset: int) -> int:
        return self.pit.read(offset, 1)

    def start(self, mode: int, count: int, counter: int = 0) -> None:
        self.write(CONTROL, counter << 6 | 0x30 | mode << 1)
        self.write(counter, count & 0xFF, count >> 8 & 0xFF)

    def run_until(self, now_ns: int) -> None:
        """As a processor does: stop exactly at each deadline, then let what is due run."""
        while (deadline := self.events.next_deadline()) is not None and deadline <= now_ns:
            self.retired = self.clock.instruction_at(deadline)
            self.events.run_due(self.clock.now())
        self.retired = self.clock.instruction_at(now_ns)

    def count(self, counter: int) -> int:
        self.write(CONTROL, counter << 6)
        return self.read(counter) | self.read(counter) << 8


@given(st.integers(0, 10**15))
def test_pulse_times_are_exact(pulse: int) -> None:
    when = pulse_time(pulse)
    assert when == ceil(Fraction(pulse * NS, PIT_HZ))
    assert pulse_at(when) == pulse
    assert pulse == 0 or pulse_at(when - 1) == pulse - 1


@pytest.mark.parametrize("mode", [2, 3])
@pytest.mark.parametrize("count", [2, 3, 11932, 0])
@pytest.mark.parametrize("start", [0, 1, 838, 839, 123_456_789])
def test_irq_0_ticks_at_exact_times_without_drift(mode: int, count: int, start: int) -> None:
    bench = Bench()
    bench.run_until(start)
    bench.start(mode, count)
    period = count or 0x10000
    ticks = 50
    # Loaded by the first CLK pulse after the write; from there a rising edge every `period` pulses.
    loaded = start * PIT_HZ // NS + 1
    expected = [ceil(Fraction(loaded * NS, PIT_HZ) + Fraction(k * period * NS, PIT_HZ)) for k in range(1, ticks + 1)]
    bench.run_until(expected[-1])
    assert [when for when, high in bench.edges if high] == expected


def test_irq_0_after_an_hour_is_still_exact() -> None:
    bench = Bench()
    bench.start(2, 0xFFFF)
    hour = 3600 * NS
    bench.clock.skip_to(hour)  # a driver that is late by far; every edge is told all the same
    bench.events.run_due(bench.clock.now())
    assert sum(high for _, high in bench.edges) == (pulse_at(hour) - 1) // 0xFFFF
    deadline = bench.events.next_deadline()
    assert deadline is not None
    assert hour < deadline < hour + 0xFFFF * NS // PIT_HZ + 1


def test_mode_2_is_low_for_the_last_pulse_of_each_period() -> None:
    bench = Bench()
    bench.start(2, 100)
    bench.run_until(pulse_time(202))
    assert bench.edges == [
        (pulse_time(100), False),
        (pulse_time(101), True),
        (pulse_time(200), False),
        (pulse_time(201), True),
    ]


def test_mode_0_rises_once_after_n_plus_1_pulses() -> None:
    bench = Bench()
    bench.start(0, 1000)
    assert bench.edges == [(0, False)]
    bench.run_until(NS)
    assert bench.edges[1:] == [(pulse_time(1001), True)]
    assert bench.events.next_deadline() is None


def test_mode_4_strobes_for_one_pulse() -> None:
    bench = Bench()
    bench.start(4, 1000)
    bench.run_until(NS)
    assert bench.edges == [(pulse_time(1001), False), (pulse_time(1002), True)]


def test_a_half_written_count_leaves_the_running_period_alone() -> None:
    bench = Bench()
    bench.start(2, 100)
    bench.run_until(pulse_time(50))
    bench.write(0, 0x05)
    bench.run_until(pulse_time(102))
    bench.write(0, 0x00)
    bench.run_until(pulse_time(212))
    rises = [when for when, high in bench.edges if high]
    assert rises == [pulse_time(pulse) for pulse in (101, 201, 206, 211)]


def test_a_control_word_stops_the_ticks() -> None:
    bench = Bench()
    bench.start(2, 100)
    bench.run_until(pulse_time(30))
    bench.write(CONTROL, 0x34)
    assert bench.events.next_deadline() is None
    bench.run_until(NS)
    assert bench.edges == []


@given(st.integers(2, 0xFFFF), st.integers(0, NS), st.integers(0, NS))
def test_the_count_is_what_virtual_time_has_made_of_it(count: int, start: int, later: int) -> None:
    bench = Bench()
    bench.run_until(start)
    bench.start(2, count, counter=2)
    bench.pit.set_gate2(True)
    bench.run_until(start + later)
    pulses = pulse_at(start + later) - pulse_at(start)
    assert bench.count(2) == (count - (pulses - 1) % count if pulses else 0)


def test_the_latch_command_holds_the_count_of_its_moment() -> None:
    bench = Bench()
    bench.start(2, 0x8000)
    bench.run_until(pulse_time(0x11))
    bench.write(CONTROL, 0x00)
    bench.run_until(pulse_time(0x5000))
    assert bench.read(0) | bench.read(0) << 8 == 0x7FF0


def test_read_back_latches_several_counters_at_once() -> None:
    bench = Bench()
    bench.start(2, 0x1000)
    bench.start(3, 0x2000, counter=1)
    bench.run_until(pulse_time(0x11))
    bench.write(CONTROL, 0xC0 | 0x02 | 0x04)  # count and status of counters 0 and 1
    bench.run_until(pulse_time(0x80))
    assert [bench.read(0) for _ in range(3)] == [0x80 | 0x30 | 2 << 1, 0xF0, 0x0F]
    assert [bench.read(1) for _ in range(3)] == [0x80 | 0x30 | 3 << 1, 0xE0, 0x1F]
    bench.write(CONTROL, 0xE0 | 0x08)  # status alone, of counter 2, which nobody has given a count
    assert bench.read(2) & 0x40
    assert bench.read(CONTROL) == 0xFF


def test_null_count_falls_with_the_pulse_that_loads() -> None:
    bench = Bench()
    bench.start(3, 1000)
    bench.write(CONTROL, 0xE2)
    assert bench.read(0) & 0x40
    bench.run_until(pulse_time(1))
    bench.write(CONTROL, 0xE2)
    assert not bench.read(0) & 0x40


def test_gate_2_suspends_counter_2_and_its_output_is_seen() -> None:
    bench = Bench()
    bench.start(0, 10, counter=2)
    bench.run_until(pulse_time(100))
    assert not bench.pit.out2()
    bench.pit.set_gate2(True)
    bench.run_until(pulse_time(109))
    assert not bench.pit.out2()
    bench.run_until(pulse_time(110))
    assert bench.pit.out2()


def test_reset_stops_everything() -> None:
    bench = Bench()
    bench.start(0, 100)
    bench.pit.reset()
    assert bench.events.next_deadline() is None
    bench.run_until(NS)
    assert bench.edges == [(0, False), (0, True)]
