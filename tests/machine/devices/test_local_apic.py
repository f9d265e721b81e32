"""The local APIC (SDM Vol. 3A Chapter 11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.machine.clock import GuestClock
from simvirt.machine.devices.local_apic import (
    MASKED,
    ApicRegister,
    DeliveryMode,
    LocalApic,
)
from simvirt.machine.devices.slow_reads import ACCESS_NS, LOOKS_OF_A_READER
from simvirt.machine.event_queue import EventQueue

if TYPE_CHECKING:
    from collections.abc import Callable

R = ApicRegister
PERIODIC, TSC_DEADLINE = 1 << 17, 2 << 17


class Bench:
    """An APIC, a clock and a queue that are driven as a board does."""

    def __init__(self) -> None:
        self.clock = GuestClock(lambda: 0)
        self.events = EventQueue()
        self.ended: list[int] = []
        self.nmis = 0
        self.apic = LocalApic(self.clock, self.events, self.pass_time)
        self.apic.on_end_of_interrupt = self.ended.append
        self.apic.on_nmi = self._nmi

    def _nmi(self) -> None:
        self.nmis += 1

    def read(self, register: int) -> int:
        return self.apic.read(register, 4)

    def write(self, register: int, value: int) -> None:
        self.apic.write(register, 4, value)

    def pass_time(self, nanoseconds: int) -> None:
        end = self.clock.now() + nanoseconds
        while (due := self.events.next_deadline()) is not None and due <= end:
            self.clock.skip_to(due)
            self.events.run_due(due)
        self.clock.skip_to(end)

    def pass_at_once(self, nanoseconds: int) -> None:
        self.clock.skip_to(self.clock.now() + nanoseconds)
        self.events.run_due(self.clock.now())

    def take(self) -> int | None:
        return self.apic.acknowledge() if self.apic.interrupt_pending else None


def test_power_on_is_virtual_wire_mode() -> None:
    bench = Bench()
    assert bench.apic.passes_8259
    assert bench.read(R.LVT_LINT1) == DeliveryMode.NMI << 8
    assert [bench.read(r) for r in (R.LVT_TIMER, R.LVT_ERROR)] == [MASKED, MASKED]
    assert (bench.read(R.VERSION), bench.read(R.ID), bench.read(R.SVR)) == (0x50014, 0, 0x1FF)


def test_the_highest_vector_goes_first_and_its_class_holds_back_others() -> None:
    bench = Bench()
    for vector in (0x31, 0x58, 0x52):
        bench.apic.accept(vector)
    assert bench.take() == 0x58
    assert (bench.read(R.PPR), bench.take()) == (0x50, None)  # 52H is of the same class
    bench.apic.accept(0x60)
    assert bench.take() == 0x60
    bench.write(R.EOI, 0)
    bench.write(R.EOI, 0)
    assert bench.take() == 0x52
    bench.write(R.EOI, 0)
    assert bench.take() == 0x31
    assert bench.ended == []


def test_the_task_priority_holds_back_its_class_and_those_below() -> None:
    bench = Bench()
    bench.write(R.TPR, 0x4F)
    bench.apic.accept(0x4E)
    assert (bench.take(), bench.read(R.IRR + 0x20)) == (None, 1 << 0x4E - 0x40)
    bench.write(R.TPR, 0x3F)
    assert bench.take() == 0x4E
    assert bench.read(R.ISR + 0x20) == 1 << 0x4E - 0x40


def test_what_the_task_priority_alone_holds_back_is_told() -> None:
    bench, told = Bench(), list[int]()
    bench.apic.on_held_back = told.append
    bench.write(R.TPR, 0x50)
    bench.apic.accept(0x4E)
    bench.apic.accept(0x3E)
    assert (told, bench.apic.held_back) == ([4], 4)
    bench.write(R.TPR, 0x30)
    assert bench.take() == 0x4E
    assert (told, bench.apic.held_back) == ([4, 0], 0)  # 0x3E is held back by what is in service
    bench.write(R.TPR, 0x50)
    bench.write(R.EOI, 0)
    assert told == [4, 0, 3]


def test_the_task_priority_can_be_a_byte_that_others_write() -> None:
    bench, memory = Bench(), bytearray(4)
    bench.write(R.TPR, 0x50)
    bench.apic.keep_task_priority_in(memoryview(memory), 2)
    assert memory == b"\0\0\x50\0"
    bench.apic.accept(0x4E)
    assert not bench.apic.interrupt_pending
    memory[2] = 0x30
    assert (bench.apic.interrupt_pending, bench.read(R.TPR), bench.apic.task_priority) == (False, 0x30, 3)
    bench.apic.look_at_task_priority()
    assert bench.apic.interrupt_pending
    saved = bench.apic.save()
    bench.apic.reset()
    assert memory[2] == 0
    bench.apic.restore(saved)
    assert (memory[2], bench.apic.interrupt_pending) == (0x30, True)


def test_a_spurious_interrupt_leaves_no_trace() -> None:
    bench = Bench()
    bench.apic.accept(0x40)
    bench.write(R.TPR, 0xF0)
    assert bench.apic.acknowledge() == 0xFF
    assert (bench.read(R.ISR + 0x70), bench.read(R.IRR + 0x20)) == (0, 1)


def test_the_end_of_a_level_triggered_interrupt_is_told() -> None:
    bench = Bench()
    bench.apic.accept(0x71, level=True)
    assert bench.read(R.TMR + 0x30) == 1 << 0x11
    bench.take()
    bench.write(R.EOI, 0)
    assert bench.ended == [0x71]


def test_illegal_vectors_and_registers_are_errors() -> None:
    bench = Bench()
    bench.write(R.LVT_ERROR, 0xFE)
    bench.apic.accept(15)
    assert bench.read(R.ESR) == 0  # shows what was there at the last write
    bench.write(R.ESR, 0)
    assert (bench.read(R.ESR), bench.take()) == (0x40, 0xFE)
    bench.write(R.EOI, 0)
    bench.write(R.ICR_LOW, 1 << 18 | 3)
    bench.read(0x40)
    bench.write(R.ESR, 0)
    assert bench.read(R.ESR) == 0xA0


@pytest.mark.parametrize(
    ("high", "low", "arrives"),
    [
        (0, 0x40, True), (0xFF00_0000, 0x40, True), (0x0100_0000, 0x40, False), (0, 1 << 18 | 0x40, True),
        (0, 2 << 18 | 0x40, True), (0, 3 << 18 | 0x40, False), (0x8000_0000, 1 << 11 | 0x40, True),
        (0x4000_0000, 1 << 11 | 0x40, False), (0, 1 << 8 | 0x40, True),
    ],
)  # fmt: skip
def test_interprocessor_interrupts_reach_the_one_processor_or_nobody(high: int, low: int, arrives: bool) -> None:
    bench = Bench()
    bench.write(R.LDR, 0x8000_0000)
    bench.write(R.ICR_HIGH, high)
    bench.write(R.ICR_LOW, low)
    assert bench.take() == (0x40 if arrives else None)


def test_logical_destinations_of_the_cluster_model() -> None:
    bench = Bench()
    bench.write(R.DFR, 0)
    bench.write(R.LDR, 0x2100_0000)
    assert [bench.apic.is_destination(d, logical=True) for d in (0x21, 0x23, 0x22, 0x31, 0xFF)] == [
        True, True, False, False, True,
    ]  # fmt: skip


def test_nmi_by_interprocessor_interrupt_and_by_lint1_of_the_8259() -> None:
    bench = Bench()
    bench.write(R.ICR_LOW, 1 << 18 | DeliveryMode.NMI << 8)
    assert (bench.nmis, bench.take()) == (1, None)
    bench.write(R.LVT_LINT0, DeliveryMode.NMI << 8)
    assert not bench.apic.passes_8259
    bench.apic.drive_lint0()
    assert bench.nmis == 2


def test_deviation_init_to_itself_is_lost() -> None:
    bench = Bench()
    bench.write(R.ICR_LOW, 1 << 18 | DeliveryMode.INIT << 8)
    bench.write(R.ICR_LOW, 1 << 18 | DeliveryMode.START_UP << 8 | 0x40)
    assert (bench.take(), bench.nmis) == (None, 0)


def test_a_disabled_apic_masks_its_table_and_takes_nothing() -> None:
    bench = Bench()
    bench.write(R.SVR, 0xFF)
    bench.write(R.LVT_TIMER, 0x40)
    bench.apic.accept(0x55)
    assert (bench.read(R.LVT_TIMER), bench.read(R.LVT_LINT0), bench.take()) == (
        MASKED | 0x40, MASKED | DeliveryMode.EXT_INT << 8, None,
    )  # fmt: skip
    assert not bench.apic.passes_8259


@pytest.mark.parametrize(("divide", "ticks"), [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)])
def test_the_timer_counts_down_by_its_divider(divide: int, ticks: int) -> None:
    bench = Bench()
    bench.write(R.DIVIDE, divide)
    bench.write(R.LVT_TIMER, 0x40)
    bench.write(R.INITIAL_COUNT, 1000)
    bench.pass_time(999 * ticks)
    assert (bench.read(R.CURRENT_COUNT), bench.take()) == (1, None)
    bench.pass_time(ticks)
    assert (bench.read(R.CURRENT_COUNT), bench.take(), bench.events.next_deadline()) == (0, 0x40, None)


def test_a_periodic_timer_goes_on_and_a_masked_one_counts_in_silence() -> None:
    bench = Bench()
    bench.write(R.DIVIDE, 11)
    bench.write(R.LVT_TIMER, PERIODIC | MASKED | 0x40)
    bench.write(R.INITIAL_COUNT, 1000)
    bench.pass_time(3250)
    assert (bench.read(R.CURRENT_COUNT), bench.events.next_deadline(), bench.take()) == (750, None, None)
    bench.write(R.LVT_TIMER, PERIODIC | 0x40)
    assert bench.events.next_deadline() == 4000
    bench.pass_time(750)
    assert bench.take() == 0x40
    bench.write(R.EOI, 0)
    bench.pass_time(1000)
    assert bench.take() == 0x40
    bench.write(R.INITIAL_COUNT, 0)
    assert bench.events.next_deadline() is None


def test_the_tsc_deadline_fires_once_and_stops_the_count() -> None:
    bench = Bench()
    bench.apic.tsc_deadline = 500
    assert bench.apic.tsc_deadline == 0  # not in that mode
    bench.write(R.LVT_TIMER, TSC_DEADLINE | 0x40)
    bench.write(R.INITIAL_COUNT, 77)
    assert bench.read(R.INITIAL_COUNT) == 0
    bench.apic.tsc_deadline = 500
    bench.pass_time(499)
    assert (bench.apic.tsc_deadline, bench.take()) == (500, None)
    bench.pass_time(1)
    assert (bench.apic.tsc_deadline, bench.take()) == (0, 0x40)
    bench.write(R.EOI, 0)
    bench.apic.tsc_deadline = 1  # has passed
    bench.pass_time(0)
    assert bench.take() == 0x40


def test_a_program_that_only_reads_the_count_waits_for_it() -> None:
    bench = Bench()
    bench.write(R.DIVIDE, 11)
    bench.write(R.INITIAL_COUNT, 1_000_000)
    for _ in range(LOOKS_OF_A_READER + 10):
        bench.read(R.CURRENT_COUNT)
    assert bench.read(R.CURRENT_COUNT) == 1_000_000 - 11 * ACCESS_NS


def test_parts_of_registers_are_read_and_not_written() -> None:
    bench = Bench()
    assert (bench.apic.read(R.VERSION, 1), bench.apic.read(R.VERSION + 2, 2), bench.apic.read(R.VERSION + 4, 4)) == (
        0x14, 0x5, 0,
    )  # fmt: skip
    bench.apic.write(R.TPR, 1, 0x40)
    bench.apic.write(R.TPR + 4, 4, 0x40)
    assert bench.read(R.TPR) == 0


Actions: TypeAlias = list[tuple[str, int, int]]
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 0x3F).map(lambda n: n << 4), st.integers(0, (1 << 32) - 1)),
        st.tuples(st.just("read"), st.integers(0, 0xFFC), st.just(0)),
        st.tuples(st.just("time"), st.integers(0, 1 << 40), st.just(0)),
        st.tuples(st.just("accept"), st.integers(0, 255), st.integers(0, 1)),
        st.tuples(st.just("take"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


def perform(bench: Bench, actions: Actions) -> list[int | None]:
    """Run the actions; what they gave."""
    do: dict[str, Callable[[int, int], int | None]] = {
        "write": bench.write,
        "read": lambda at, _: bench.apic.read(at & ~3, 4),
        "time": lambda nanoseconds, _: bench.pass_at_once(nanoseconds),
        "accept": lambda vector, level: bench.apic.accept(vector, level=bool(level)),
        "take": lambda _a, _b: bench.take(),
    }
    return [do[what](first, second) for what, first, second in actions]


@given(ACTIONS, ACTIONS)
def test_a_restored_apic_goes_on_as_the_saved_one(first: Actions, then: Actions) -> None:
    bench, other = Bench(), Bench()
    perform(bench, first)
    other.apic.restore(bench.apic.save())
    other.events.restore(bench.events.save())
    other.clock.restore(bench.clock.save())
    assert perform(other, then) == perform(bench, then)
    assert other.apic.save() == bench.apic.save()
