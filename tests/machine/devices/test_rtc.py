"""The MC146818, from Motorola's data sheet; the sections and tables named are its own."""

# ruff: noqa: DTZ001 - the clock of a PC knows no time zone

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvirt.machine.devices.nmi_gate import NmiGate
from simvirt.machine.devices.rtc import (
    B_24_HOURS,
    B_AIE,
    B_DM,
    B_PIE,
    B_SET,
    B_UIE,
    C_AF,
    C_IRQF,
    C_PF,
    C_UF,
    SECOND,
    UPDATE_NS,
    Mc146818,
    RtcState,
    standard_cmos,
)
from simvirt.machine.event_queue import EventQueue

START: Final = datetime(1999, 12, 31, 23, 59, 57)
A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
MS: Final = 1_000_000


class Bench:
    """A clock chip, virtual time, and the history of its interrupt line as (moment, level)."""

    def __init__(self, start: datetime = START, memory_size: int = 64 << 20) -> None:
        self.time = 0
        self.events = EventQueue()
        self.line: list[tuple[int, bool]] = []
        self.level = False
        self.nmis = 0
        self.nmi = NmiGate(self._nmi)
        self.rtc = Mc146818(self, self.events, self._drive, standard_cmos(memory_size, start), self.nmi)

    def now(self) -> int:
        return self.time

    def _nmi(self) -> None:
        self.nmis += 1

    def _drive(self, level: bool) -> None:
        if level is not self.level:
            self.level = level
            self.line.append((self.time, level))

    def read(self, index: int) -> int:
        self.rtc.write(0, 1, index)
        return self.rtc.read(1, 1)

    def write(self, index: int, value: int) -> None:
        self.rtc.write(0, 1, index)
        self.rtc.write(1, 1, value)

    def pass_until(self, moment: int) -> None:
        """Let time pass, stopping at every deadline as a processor must."""
        while (deadline := self.events.next_deadline()) is not None and deadline <= moment:
            assert deadline > self.time
            self.time = deadline
            self.events.run_due(self.time)
        self.time = moment

    def calendar(self) -> list[int]:
        return [self.read(index) for index in (0x32, 9, 8, 7, 4, 2, 0)]


def test_the_calendar_starts_at_the_given_moment_and_carries_into_the_century() -> None:
    bench = Bench()
    assert bench.calendar() == [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x57]
    assert bench.read(6) == 6  # a Friday; Sunday is 1
    bench.pass_until(3 * SECOND - 1)
    assert bench.read(0) == 0x59
    bench.pass_until(3 * SECOND)
    assert bench.calendar() == [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00]
    assert bench.read(6) == 7


@given(st.datetimes(datetime(1980, 1, 1), datetime(2079, 12, 31)), st.integers(0, 4 * 10**8))
@settings(max_examples=100)
def test_the_calendar_is_the_gregorian_one(start: datetime, seconds: int) -> None:
    start = start.replace(microsecond=0)
    bench = Bench(start)
    bench.pass_until(seconds * SECOND)
    then = start + timedelta(seconds=seconds)
    decoded = [int(f"{value:02x}") for value in bench.calendar()]
    assert decoded == [then.year // 100, then.year % 100, then.month, then.day, then.hour, then.minute, then.second]
    assert bench.read(6) == then.isoweekday() % 7 + 1


@pytest.mark.parametrize(
    ("mode", "hour", "shown", "later"),
    [
        (B_24_HOURS, 11, 0x11, 0x12),
        (B_24_HOURS, 23, 0x23, 0x00),
        (B_24_HOURS | B_DM, 23, 23, 0),
        (0, 0, 0x12, 0x01),
        (0, 11, 0x11, 0x92),
        (0, 12, 0x92, 0x81),
        (0, 23, 0x91, 0x12),
        (B_DM, 23, 0x8B, 0x0C),
    ],
)
def test_hours_in_both_modes_and_both_formats(mode: int, hour: int, shown: int, later: int) -> None:
    """Table "Time, Calendar and Alarm Data Modes"."""
    bench = Bench(datetime(2026, 5, 17))
    bench.write(B, B_SET | mode)
    binary = bool(mode & B_DM)
    for index, value in ((0, 59), (2, 59), (4, shown), (7, 17), (8, 5), (9, 26)):
        bench.write(index, value if binary or index == 4 else value // 10 << 4 | value % 10)
    bench.write(B, mode)
    assert bench.read(4) == shown
    bench.pass_until(SECOND)
    assert bench.read(4) == later
    del hour


def test_set_holds_the_calendar_and_clears_uie() -> None:
    bench = Bench()
    bench.write(B, B_SET | B_UIE | B_24_HOURS)
    assert bench.read(B) == B_SET | B_24_HOURS
    bench.pass_until(10 * SECOND)
    assert bench.read(0) == 0x57
    assert bench.read(A) & 0x80 == 0
    bench.write(B, B_24_HOURS)
    bench.pass_until(11 * SECOND)
    assert bench.read(0) == 0x58


def test_uip_is_set_before_the_update_and_while_it_takes() -> None:
    bench = Bench()
    bench.pass_until(SECOND - UPDATE_NS - 1)
    assert bench.read(A) == 0x26
    bench.pass_until(SECOND - UPDATE_NS)
    assert bench.read(A) == 0xA6
    bench.pass_until(SECOND - 1)
    assert (bench.read(A), bench.read(0)) == (0xA6, 0x57)
    bench.pass_until(SECOND)
    assert (bench.read(A), bench.read(0)) == (0x26, 0x58)


def test_the_divider_held_in_reset_releases_half_a_second_before_an_update() -> None:
    bench = Bench()
    bench.pass_until(100 * MS)
    bench.write(A, 0x76)
    bench.pass_until(5 * SECOND)
    assert bench.read(0) == 0x57
    bench.write(A, 0x26)
    bench.pass_until(5 * SECOND + 500 * MS - 1)
    assert bench.read(0) == 0x57
    bench.pass_until(5 * SECOND + 500 * MS)
    assert bench.read(0) == 0x58


@pytest.mark.parametrize(("rate", "hertz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)])
def test_periodic_interrupts(rate: int, hertz: int) -> None:
    """Table "Periodic Interrupt Rate and Square Wave Output Frequency", 32.768 kHz."""
    bench = Bench()
    bench.write(A, 0x20 | rate)
    bench.write(B, B_PIE | B_24_HOURS)
    for pulse in range(1, 9):
        bench.pass_until(-(-pulse * SECOND // hertz) - 1)
        assert not bench.level
        bench.pass_until(bench.time + 1)
        assert bench.level
        assert bench.read(C) & (C_IRQF | C_PF) == C_IRQF | C_PF
        assert not bench.level
        assert bench.read(C) == 0


def test_a_periodic_interrupt_that_nobody_answers_is_not_repeated() -> None:
    bench = Bench()
    bench.write(B, B_PIE | B_24_HOURS)
    bench.pass_until(SECOND)
    assert len(bench.line) == 1
    assert bench.events.next_deadline() is None


def test_flags_are_set_without_their_enables_and_irqf_is_not() -> None:
    bench = Bench()
    bench.write(5, 0xFF)
    bench.write(3, 0xFF)
    bench.write(1, 0x58)
    bench.pass_until(SECOND)
    assert bench.line == []
    assert bench.read(C) == C_PF | C_AF | C_UF
    assert bench.read(C) == 0


def test_enabling_an_interrupt_whose_flag_is_set_raises_the_line_at_once() -> None:
    bench = Bench()
    bench.pass_until(SECOND)
    bench.write(B, B_UIE | B_24_HOURS)
    assert bench.line == [(SECOND, True)]
    assert bench.read(C) & C_IRQF


def test_update_ended_interrupts_come_every_second() -> None:
    bench = Bench()
    bench.write(B, B_UIE | B_24_HOURS)
    for second in range(1, 4):
        bench.pass_until(second * SECOND)
        assert bench.line[-1] == (second * SECOND, True)
        assert bench.read(C) & (C_IRQF | C_UF) == C_IRQF | C_UF


@pytest.mark.parametrize(
    ("alarm", "seconds"),
    [
        ((0x23, 0x59, 0x59), 2),
        ((0x00, 0x00, 0x00), 3),
        ((0x23, 0x59, 0x57), 86400),
        ((0x23, 0x59, 0x56), 86399),
        ((0xFF, 0xFF, 0xFF), 1),
        ((0xC0, 0xC0, 0x10), 13),
        ((0xFF, 0x30, 0x00), 30 * 60 + 3),
        ((0x12, 0xFF, 0xFF), 12 * 3600 + 3),
        ((0x12, 0x34, 0xFF), 12 * 3600 + 34 * 60 + 3),
    ],
)
def test_the_alarm(alarm: tuple[int, int, int], seconds: int) -> None:
    """ "Time, Calendar and Alarm": a byte with the two most significant bits set matches any value."""
    bench = Bench()
    for index, value in zip((5, 3, 1), alarm, strict=True):
        bench.write(index, value)
    bench.write(B, B_AIE | B_24_HOURS)
    bench.pass_until(2 * 86400 * SECOND)
    assert bench.line == [(seconds * SECOND, True)]
    assert bench.read(C) & C_AF


def test_an_alarm_that_is_no_time_never_comes() -> None:
    bench = Bench()
    bench.write(5, 0x25)
    bench.write(B, B_AIE | B_24_HOURS)
    assert bench.events.next_deadline() is None
    bench.pass_until(2 * 86400 * SECOND)
    assert not bench.read(C) & C_AF


def test_an_alarm_in_the_afternoon_of_twelve_hours() -> None:
    bench = Bench(datetime(2026, 1, 1, 9))
    bench.write(B, B_AIE)  # 12-hour mode: 09 stays 9 AM
    for index, value in ((5, 0x81), (3, 0), (1, 0)):
        bench.write(index, value)
    bench.pass_until(86400 * SECOND)
    assert bench.line[0] == (4 * 3600 * SECOND, True)


def test_daylight_saving_and_other_time_bases() -> None:
    bench = Bench(datetime(1987, 4, 5, 1, 59, 59))  # the first Sunday of April
    bench.write(B, 0x01 | B_24_HOURS)
    bench.pass_until(SECOND)
    assert (bench.read(B), bench.read(4)) == (0x01 | B_24_HOURS, 0x02)
    bench.write(A, 0x06)
    bench.pass_until(5 * SECOND)
    assert bench.read(0) == 0x00


def test_reset_disables_interrupts_and_keeps_clock_and_memory() -> None:
    bench = Bench()
    bench.write(0x40, 0xA5)
    bench.write(B, B_PIE | B_AIE | B_UIE | B_24_HOURS)
    bench.pass_until(2 * SECOND)
    bench.events.clear()
    bench.rtc.reset()
    assert bench.read(B) == B_24_HOURS
    assert bench.read(C) == 0
    assert not bench.level
    assert (bench.read(0x40), bench.read(0)) == (0xA5, 0x59)


def test_registers_that_cannot_be_written_and_the_index() -> None:
    bench = Bench()
    bench.write(D, 0)
    bench.write(C, 0xFF)
    bench.write(A, 0xFF)
    assert (bench.read(D), bench.read(C), bench.read(A)) == (0x80, 0, 0x7F)
    bench.rtc.write(0, 1, 0x80 | 0x40)
    assert bench.rtc.nmi_masked
    bench.nmi.signal(True)
    assert bench.nmis == 0
    bench.rtc.write(1, 1, 0x12)
    bench.rtc.write(0, 1, 0x40)
    assert not bench.rtc.nmi_masked
    assert bench.nmis == 1
    assert bench.rtc.read(1, 1) == 0x12
    assert bench.rtc.read(0, 1) == 0xFF


@pytest.mark.parametrize(
    ("memory", "base", "extended", "above_16"),
    [(512 << 10, 512, 0, 0), (4 << 20, 640, 3072, 0), (64 << 20, 640, 63 << 10, 768), (3 << 30, 640, 0xFFFF, 48896)],
)
def test_the_memory_that_firmware_fills(memory: int, base: int, extended: int, above_16: int) -> None:
    bench = Bench(memory_size=memory)

    def word(index: int) -> int:
        return bench.read(index) | bench.read(index + 1) << 8

    assert [word(index) for index in (0x15, 0x17, 0x30, 0x34)] == [base, extended, extended, above_16]
    assert bench.read(0x2E) << 8 | bench.read(0x2F) == sum(bench.read(index) for index in range(0x10, 0x2E))
    assert bench.read(0x14) & 2


@given(
    st.lists(
        st.tuples(st.integers(0, 0x33), st.integers(0, 255), st.integers(0, 3 * SECOND), st.booleans()), max_size=30
    ),
    st.integers(0, 29),
)
@settings(max_examples=60)
def test_a_restored_clock_goes_on_alike(steps: list[tuple[int, int, int, bool]], cut: int) -> None:
    first, second = Bench(), Bench()

    def run(bench: Bench, part: list[tuple[int, int, int, bool]]) -> list[int]:
        seen = []
        for index, value, wait, is_write in part:
            bench.pass_until(bench.time + wait)
            if is_write:
                bench.write(index, value)
            else:
                seen.append(bench.read(index))
            seen.extend((int(bench.level), bench.events.next_deadline() or 0))
        return seen

    run(first, steps[:cut])
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(first.rtc.save()), type=RtcState)
    second.time, second.level = first.time, first.level
    second.rtc.restore(state)
    second.events.restore(first.events.save())
    assert run(first, steps[cut:]) == run(second, steps[cut:])
