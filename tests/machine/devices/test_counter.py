"""One 8254 counter: the data sheet's waveforms, and a pulse-by-pulse model of it.

Source: Intel, "8254 Programmable Interval Timer", order number 231164, "Mode Definitions" with figures 15 to 20,
"Read-Back Command", "Counter Latch Command", and "Operation Common to All Modes".
"""

from __future__ import annotations

from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvirt.machine.devices.counter import Counter, CounterState

LSB, MSB, BOTH = 0x10, 0x20, 0x30
BCD: Final = 1


def control(mode: int, rw: int = LSB, bcd: int = 0) -> int:
    return rw | mode << 1 | bcd


def pulse(counter: Counter, pulses: int = 1) -> None:
    counter.advance_to(counter.tick + pulses)


def element(counter: Counter) -> int:
    """All sixteen bits of CE, read without disturbing the counter."""
    copy = Counter(gate=False)
    state = counter.save()
    copy.restore(state)
    copy.latch_count()
    latched = copy.save().latched
    assert latched is not None
    return latched


def waveform(counter: Counter, pulses: int) -> tuple[list[int], str]:
    """CE and OUT after each of the next pulses, OUT as `^` high and `_` low."""
    counts, levels = [], ""
    for _ in range(pulses):
        pulse(counter)
        counts.append(element(counter))
        levels += "^" if counter.out else "_"
    return counts, levels


def programmed(mode: int, count: int, gate: bool = True, rw: int = LSB) -> Counter:
    counter = Counter(gate)
    counter.program(control(mode, rw))
    counter.write(count & 0xFF)
    if rw == BOTH:
        counter.write(count >> 8)
    return counter


# The figures' first lines. A figure counts from the pulse after the count is written.
@pytest.mark.parametrize(
    ("mode", "count", "counts", "levels"),
    [
        (0, 4, [4, 3, 2, 1, 0, 0xFFFF, 0xFFFE], "____^^^"),  # figure 15
        (2, 3, [3, 2, 1, 3, 2, 1, 3], "^^_^^_^"),  # figure 17
        (3, 4, [4, 2, 4, 2, 4, 2, 4, 2, 4, 2], "^^__^^__^^"),  # figure 18, even
        (3, 5, [4, 2, 0, 4, 2, 4, 2, 0, 4, 2], "^^^__^^^__"),  # figure 18, odd
        (4, 3, [3, 2, 1, 0, 0xFFFF, 0xFFFE, 0xFFFD], "^^^_^^^"),  # figure 19
    ],
)
def test_waveforms_of_the_modes_that_a_count_starts(mode: int, count: int, counts: list[int], levels: str) -> None:
    counter = programmed(mode, count)
    assert counter.out is (mode != 0)
    assert waveform(counter, len(counts)) == (counts, levels)


@pytest.mark.parametrize(
    ("mode", "levels"),
    [(1, "___^^"), (5, "^^^_^")],  # figures 16 and 20
)
def test_waveforms_of_the_modes_that_a_trigger_starts(mode: int, levels: str) -> None:
    counter = programmed(mode, 3, gate=False)
    assert waveform(counter, 3)[1] == "^^^"
    counter.set_gate(True)
    assert waveform(counter, 5) == ([3, 2, 1, 0, 0xFFFF], levels)


def test_mode_0_a_first_byte_stops_the_count_and_lowers_out_at_once() -> None:
    counter = programmed(0, 1, rw=BOTH)
    pulse(counter, 2)
    assert counter.out
    counter.write(2)
    assert not counter.out
    assert waveform(counter, 2) == ([0, 0], "__")
    counter.write(0)
    assert waveform(counter, 4) == ([2, 1, 0, 0xFFFF], "__^^")


def test_mode_0_gate_suspends_counting_but_not_loading() -> None:
    counter = programmed(0, 2, gate=False)
    assert waveform(counter, 3) == ([2, 2, 2], "___")
    counter.set_gate(True)
    assert waveform(counter, 2) == ([1, 0], "_^")


@pytest.mark.parametrize("mode", [2, 3])
def test_periodic_modes_a_low_gate_raises_out_at_once_and_a_trigger_reloads(mode: int) -> None:
    counter = programmed(mode, 4)
    pulse(counter, 4)
    assert not counter.out
    counter.set_gate(False)
    assert counter.out
    assert waveform(counter, 3)[1] == "^^^"
    counter.set_gate(True)
    assert waveform(counter, 5) == (([4, 3, 2, 1, 4], "^^^_^") if mode == 2 else ([4, 2, 4, 2, 4], "^^__^"))


def test_mode_2_a_new_count_waits_for_the_end_of_the_period() -> None:
    counter = programmed(2, 4)
    pulse(counter, 2)
    counter.write(5)
    assert waveform(counter, 8) == ([2, 1, 5, 4, 3, 2, 1, 5], "^_^^^^_^")


def test_mode_3_a_new_count_waits_for_the_end_of_the_half_period() -> None:
    counter = programmed(3, 4)
    pulse(counter, 1)
    counter.write(6)
    assert waveform(counter, 8) == ([2, 6, 4, 2, 6, 4, 2, 6], "^___^^^_")


def test_mode_1_is_retriggerable_and_takes_a_new_count_only_with_a_trigger() -> None:
    counter = programmed(1, 3, gate=False)
    counter.set_gate(True)
    pulse(counter, 2)
    counter.write(2)
    assert waveform(counter, 3) == ([1, 0, 0xFFFF], "_^^")
    counter.set_gate(False)
    counter.set_gate(True)
    assert waveform(counter, 3) == ([2, 1, 0], "__^")


@pytest.mark.parametrize(("bcd", "modulus"), [(0, 0x10000), (BCD, 10_000)])
def test_a_count_of_zero_is_the_largest(bcd: int, modulus: int) -> None:
    counter = Counter(gate=True)
    counter.program(control(0, BOTH, bcd))
    counter.write(0)
    counter.write(0)
    assert counter.ticks_to_edge() == modulus + 1
    pulse(counter, modulus)
    assert not counter.out
    pulse(counter)
    assert counter.out


def test_bcd_counts_in_decimal() -> None:
    counter = Counter(gate=True)
    counter.program(control(2, BOTH, BCD))
    counter.write(0x00)
    counter.write(0x10)
    assert waveform(counter, 3)[0] == [0x1000, 0x0999, 0x0998]


def test_a_latched_count_holds_until_it_is_read_and_a_second_latch_is_ignored() -> None:
    counter = programmed(2, 0x1234, rw=BOTH)
    pulse(counter)
    counter.latch_count()
    pulse(counter, 0x35)
    counter.latch_count()
    assert (counter.read(), counter.read()) == (0x34, 0x12)
    assert (counter.read(), counter.read()) == (0xFF, 0x11)


def test_a_latched_status_is_read_before_the_latched_count() -> None:
    counter = programmed(3, 0x0100, rw=BOTH)
    counter.latch_status()  # the count is not loaded yet: null count
    assert counter.read() == 0x80 | 0x40 | BOTH | 3 << 1
    pulse(counter)
    counter.latch_count()
    counter.latch_status()
    assert counter.read() == 0x80 | BOTH | 3 << 1
    assert (counter.read(), counter.read()) == (0x00, 0x01)


def test_the_status_gives_the_mode_bits_as_they_were_written() -> None:
    counter = Counter(gate=True)
    counter.program(LSB | 7 << 1)  # "X11" is mode 3
    counter.latch_status()
    assert counter.read() & 0x3F == LSB | 7 << 1
    counter.write(4)
    assert waveform(counter, 4)[1] == "^^__"


@pytest.mark.parametrize(("rw", "byte"), [(LSB, 0x09), (MSB, 0x00)])
def test_one_byte_counters_read_their_byte_and_clear_the_other(rw: int, byte: int) -> None:
    counter = Counter(gate=True)
    counter.program(control(2, rw))
    counter.write(0x0A if rw == LSB else 0x01)
    pulse(counter, 2)
    assert element(counter) == (0x0009 if rw == LSB else 0x00FF)
    assert (counter.read(), counter.read()) == (byte, byte)


class SlowCounter:
    """The data sheet, pulse by pulse: CE is a register of sixteen bits, or four digits, that is counted for real."""

    def __init__(self, gate: bool) -> None:
        self.gate = gate
        self.program(BOTH | 3 << 1)

    def program(self, word: int) -> None:
        self.mode = (0, 1, 2, 3, 4, 5, 2, 3)[word >> 1 & 7]
        self.rw = word & BOTH
        self.bcd = word & 1
        self.modulus = 10_000 if self.bcd else 0x10000
        self.out = self.mode != 0
        self.cr: int | None = None
        self.low_byte: int | None = None
        self.ce = 0
        self.load = self.running = self.strobed = False
        self.null = True

    def write(self, byte: int) -> None:
        if self.rw == BOTH and self.low_byte is None:
            self.low_byte = byte
            if self.mode == 0:
                self.out = self.running = self.load = False
            return
        raw = {LSB: byte, MSB: byte << 8, BOTH: byte << 8 | (self.low_byte or 0)}[self.rw]
        self.low_byte = None
        self.cr = sum((raw >> 4 * i & 15) * 10**i for i in range(4)) % 10_000 if self.bcd else raw
        if self.mode in {2, 3} and self.cr == 1:
            self.cr = 2
        self.null = True
        if self.mode in {0, 4} or (self.mode in {2, 3} and not self.running):
            self.load = True
        if self.mode == 0:
            self.out = False

    def set_gate(self, high: bool) -> None:
        if high and not self.gate and self.mode in {1, 2, 3, 5} and self.cr is not None:
            self.load = True
        if not high and self.mode in {2, 3}:
            self.out = True
        self.gate = high

    def reload(self) -> None:
        assert self.cr is not None
        self.ce = self.cr
        self.null = False
        if self.mode == 3:
            self.odd = self.cr % 2
            self.ce = (self.cr - self.odd) % self.modulus

    def clk(self) -> None:
        if self.mode in {4, 5}:
            self.out = True
        if self.load:
            self.load, self.running, self.strobed = False, True, False
            self.reload()
            if self.mode == 1:
                self.out = False
            return
        if not self.running or (not self.gate and self.mode not in {1, 5}):
            return
        if self.mode == 2 and self.ce == 1:
            self.reload()
            self.out = True
        elif self.mode == 3 and self.odd and self.out and self.ce == 0:
            self.out = False
            self.reload()
        elif self.mode == 3:
            self.ce = (self.ce - 2) % self.modulus
            if self.ce == 0 and not (self.odd and self.out):
                self.out = not self.out
                self.reload()
        else:
            self.ce = (self.ce - 1) % self.modulus
        if self.mode == 2 and self.ce == 1:
            self.out = False
        if self.mode in {0, 1} and self.ce == 0:
            self.out = True
        if self.mode in {4, 5} and self.ce == 0 and not self.strobed:
            self.out, self.strobed = False, True

    def read_element(self) -> int:
        return int(str(self.ce), 16) if self.bcd else self.ce


SMALL = st.integers(0, 12)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("program"),
            st.builds(
                control, st.integers(0, 7), st.sampled_from((LSB, LSB, MSB, BOTH)), st.sampled_from((0, 0, 0, 1))
            ),
        ),
        st.tuples(st.just("write"), st.one_of(SMALL, SMALL, st.integers(0, 0x99).filter(lambda b: b & 15 < 10))),
        st.tuples(st.just("gate"), st.booleans()),
        st.tuples(st.just("clk"), st.one_of(SMALL, SMALL, st.integers(0, 700))),
    ),
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(st.booleans(), STEPS)
def test_the_closed_form_agrees_with_counting_pulse_by_pulse(gate: bool, steps: list[tuple[str, int]]) -> None:
    fast, slow = Counter(gate), SlowCounter(gate)
    for step, argument in steps:
        if step == "program":
            fast.program(argument)
            slow.program(argument)
        elif step == "write":
            fast.write(argument)
            slow.write(argument)
        elif step == "gate":
            fast.set_gate(bool(argument))
            slow.set_gate(bool(argument))
        else:
            edge, before = fast.ticks_to_edge(), slow.out
            pulse(fast, argument)
            for count in range(1, argument + 1):
                slow.clk()
                if slow.out is not before:
                    assert edge == count
                    break
            else:
                assert edge is None or edge > argument
                count = argument
            for _ in range(argument - count):
                slow.clk()
        assert fast.out is slow.out
        assert element(fast) == slow.read_element()
        fast.latch_status()
        assert bool(fast.read() & 0x40) is slow.null


@settings(max_examples=100, deadline=None)
@given(st.booleans(), STEPS, STEPS)
def test_a_restored_counter_goes_on_alike(
    gate: bool, before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    def run(counter: Counter, steps: list[tuple[str, int]]) -> list[tuple[int, bool, int | None]]:
        seen = []
        for step, argument in steps:
            if step == "program":
                counter.program(argument)
            elif step == "write":
                counter.write(argument)
            elif step == "gate":
                counter.set_gate(bool(argument))
            else:
                pulse(counter, argument)
            if argument == 3:
                counter.latch_count()
            if argument == 4:
                counter.latch_status()
            seen.append((counter.read(), counter.out, counter.ticks_to_edge()))
        return seen

    first, second = Counter(gate), Counter(gate)
    run(first, before)
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.save()), type=CounterState))
    assert run(first, after) == run(second, after)
    assert first.save() == second.save()
