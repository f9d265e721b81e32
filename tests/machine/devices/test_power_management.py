"""ACPI power management (ACPI Specification 6.5 §4.8.3)."""

from __future__ import annotations

from simvirt.machine.clock import GuestClock
from simvirt.machine.devices.power_management import (
    CONTROL,
    ENABLE,
    SLEEP_ENABLE,
    SOFT_OFF,
    STATUS,
    TIMER,
    TIMER_HZ,
    PowerManagement,
)
from simvirt.machine.devices.slow_reads import ACCESS_NS, LOOKS_OF_A_READER
from simvirt.machine.event_queue import EventQueue

HALF = -(-(1 << 31) * 1_000_000_000 // TIMER_HZ)
"""When bit 31 of the timer changes."""


class Bench:
    def __init__(self) -> None:
        self.clock = GuestClock(lambda: 0)
        self.events = EventQueue()
        self.line: list[bool] = []
        self.off = 0
        self.device = PowerManagement(
            self.clock,
            self.events,
            self.line.append,
            lambda ns: self.clock.skip_to(self.clock.now() + ns),
            self.turn_off,
        )

    def turn_off(self) -> None:
        self.off += 1


def test_the_timer_runs_at_its_frequency() -> None:
    bench = Bench()
    bench.clock.skip_to(1_000_000_000)
    assert bench.device.read(TIMER, 4) == TIMER_HZ
    assert bench.device.read(TIMER + 1, 1) == TIMER_HZ >> 8 & 0xFF


def test_a_program_that_only_reads_the_timer_waits_for_it() -> None:
    bench = Bench()
    for _ in range(LOOKS_OF_A_READER + 10):
        bench.device.read(TIMER, 4)
    assert bench.clock.now() == 10 * ACCESS_NS


def test_the_timers_highest_bit_raises_the_sci_when_enabled() -> None:
    bench = Bench()
    bench.device.write(ENABLE, 2, 1)
    assert bench.events.next_deadline() == HALF
    bench.clock.skip_to(HALF)
    bench.events.run_due(HALF)
    assert (bench.device.read(STATUS, 2), bench.line[-1], bench.events.next_deadline()) == (1, True, 2 * HALF)
    bench.device.write(STATUS, 2, 1)
    assert (bench.device.read(STATUS, 4), bench.line[-1]) == (0x1_0000, False)
    bench.device.write(ENABLE, 2, 0)
    assert bench.events.next_deadline() is None


def test_status_is_kept_without_the_interrupt() -> None:
    bench = Bench()
    bench.clock.skip_to(HALF)
    assert (bench.device.read(STATUS, 2), bench.line[-1]) == (1, False)


def test_soft_off_turns_the_machine_off_and_other_types_do_not() -> None:
    bench = Bench()
    assert bench.device.read(CONTROL, 2) == 1  # ACPI mode is on
    bench.device.write(CONTROL, 2, SLEEP_ENABLE | 1 << 10)
    assert bench.off == 0
    bench.device.write(CONTROL, 2, SOFT_OFF << 10)
    assert (bench.off, bench.device.read(CONTROL, 2)) == (0, SOFT_OFF << 10 | 1)
    bench.device.write(CONTROL + 1, 1, (SLEEP_ENABLE | SOFT_OFF << 10) >> 8)
    assert bench.off == 1


def test_state_and_reset() -> None:
    bench, other = Bench(), Bench()
    bench.device.write(ENABLE, 2, 0x4721)
    bench.device.write(CONTROL, 2, 2)
    other.device.restore(bench.device.save())
    assert (other.device.read(ENABLE, 2), other.device.read(CONTROL, 2)) == (0x4721, 3)
    other.device.reset()
    assert other.device.save() == Bench().device.save()
