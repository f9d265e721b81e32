"""The 16550A, from National Semiconductor's data sheet "PC16550D" (1995); the sections and tables named are its own."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.machine.devices.uart import (
    DLL,
    DLM,
    FCR,
    IER,
    IIR,
    LCR,
    LOOKS_OF_A_READER,
    LSR,
    MCR,
    MSR,
    RBR,
    SCR,
    THR,
    Uart16550,
    UartState,
)
from simvirt.machine.event_queue import EventQueue

OUT2, LOOP, DLAB = 0x08, 0x10, 0x80
NONE, LINE_STATUS, DATA, TIME_OUT, THR_EMPTY, MODEM = 0x01, 0x06, 0x04, 0x0C, 0x02, 0x00
FIFOS = 0xC0
CHARACTER = 7 * 12 * 10**9 // 115200
"""Nanoseconds of a character at power-on: a start bit, five bits, a stop bit at 9600 baud."""


class Bench:
    """A UART, what its console got, and the history of its interrupt line."""

    def __init__(self) -> None:
        self.line: list[bool] = []
        self.console = bytearray()
        self.time = 0
        self.events = EventQueue()
        self.uart = Uart16550(self, self.events, self.line.append, self.console.append)

    def now(self) -> int:
        return self.time

    def pass_time(self, nanoseconds: int) -> None:
        end = self.time + nanoseconds
        while (deadline := self.events.next_deadline()) is not None and deadline <= end:
            self.time = deadline
            self.events.run_due(self.time)
        self.time = end

    def write(self, register: int, *values: int) -> None:
        for value in values:
            self.uart.write(register, 1, value)

    def read(self, register: int) -> int:
        return self.uart.read(register, 1)

    def drain(self) -> bytes:
        """What a program that polls receives, until it has looked in vain for long enough."""
        taken = bytearray()
        looks = 0
        while looks < 2 * LOOKS_OF_A_READER:
            looks += 1
            if self.read(LSR) & 1:
                taken.append(self.read(RBR))
                looks = 0
        return bytes(taken)


def test_uart_reset_configuration() -> None:
    bench = Bench()
    assert [bench.read(register) for register in (IER, IIR, LCR, MCR, LSR)] == [0, NONE, 0, 0, 0x60]
    assert bench.read(MSR) & 0x0F == 0
    assert bench.line == []


def test_transmission_reaches_the_console_at_once() -> None:
    bench = Bench()
    bench.write(THR, *b"Hello\xff")
    assert bench.console == b"Hello\xff"
    assert bench.read(LSR) == 0x60


def test_the_divisor_latch_hides_behind_dlab() -> None:
    bench = Bench()
    bench.write(IER, 0x05)
    bench.write(LCR, DLAB | 3)
    bench.write(DLL, 0x34)
    bench.write(DLM, 0x12)
    assert (bench.read(DLL), bench.read(DLM)) == (0x34, 0x12)
    bench.write(LCR, 3)
    assert bench.read(IER) == 0x05
    assert bench.console == b""


@pytest.mark.parametrize(("register", "mask"), [(IER, 0x0F), (LCR, 0xFF), (MCR, 0x1F), (SCR, 0xFF)])
def test_register_widths(register: int, mask: int) -> None:
    bench = Bench()
    bench.write(register, 0xFF)
    assert bench.read(register) == mask


def test_line_and_modem_status_cannot_be_written() -> None:
    bench = Bench()
    before = bench.read(LSR), bench.read(MSR)
    bench.write(LSR, 0x1F)
    bench.write(MSR, 0x0F)
    assert (bench.read(LSR), bench.read(MSR)) == before


def test_received_characters_come_in_order_and_none_is_lost() -> None:
    bench = Bench()
    text = bytes(range(256)) * 2
    bench.uart.receive(text[:300])
    bench.uart.receive(text[300:])
    assert bench.drain() == text
    assert bench.read(LSR) == 0x60


@pytest.mark.parametrize("fcr", [0x00, 0x01, 0xC1])
def test_a_handler_that_takes_one_character_gets_an_edge_for_each(fcr: int) -> None:
    bench = Bench()
    bench.write(FCR, fcr)
    bench.write(MCR, OUT2)
    bench.write(IER, 0x01)
    bench.uart.receive(b"abc")
    for number, character in enumerate(b"abc", 1):
        for _ in range(8):
            if len(bench.line) < 2 * number - 1:
                bench.pass_time(CHARACTER)
        assert bench.line == [True, False] * (number - 1) + [True]
        assert bench.read(RBR) == character
    assert bench.line == [True, False] * 3


def test_characters_come_at_the_pace_of_the_line() -> None:
    bench = Bench()
    bench.write(LCR, DLAB)
    bench.write(DLL, 1)
    bench.write(LCR, 0x1F)  # eight bits, parity, two stop bits: twelve in all, at 115200 baud
    bench.write(FCR, 0x41)
    bench.write(IER, 0x01)
    bench.uart.receive(b"abcdefgh")
    bit = 10**9 // 115200
    for count in range(1, 5):
        bench.pass_time(12 * bit + 8)
        assert bench.uart.save().receiver == b"abcdefgh"[:count]
    assert bench.read(IIR) == FIFOS | DATA


def test_a_full_receiver_holds_the_other_end() -> None:
    bench = Bench()
    bench.write(IER, 0x01)
    bench.uart.receive(bytes(range(40)))
    bench.pass_time(100 * CHARACTER)
    assert bench.uart.save().receiver == b"\0"
    assert bench.events.next_deadline() is None
    bench.write(FCR, 1)
    bench.pass_time(100 * CHARACTER)
    assert bench.uart.save().receiver == bytes(range(1, 17))
    assert not bench.read(LSR) & 2


def test_nothing_is_sent_to_a_guest_that_does_not_listen() -> None:
    bench = Bench()
    bench.uart.receive(b"x")
    bench.pass_time(100 * CHARACTER)
    assert not bench.read(LSR) & 1
    bench.write(IER, 0x01)
    bench.read(RBR)  # as drivers do when they start
    bench.pass_time(CHARACTER)
    assert bench.read(RBR) == ord("x")


def test_data_available_is_reset_by_reading_the_receiver() -> None:
    bench = Bench()
    bench.write(MCR, OUT2)
    bench.write(IER, 0x01)
    bench.uart.receive(b"x")
    bench.pass_time(CHARACTER)
    assert (bench.read(IIR), bench.line) == (DATA, [True])
    bench.read(RBR)
    assert (bench.read(IIR), bench.line) == (NONE, [True, False])


def test_section_8_5_trigger_levels_and_the_time_out_below_them() -> None:
    for code, level in enumerate((1, 4, 8, 14)):
        bench = Bench()
        bench.write(MCR, LOOP)
        bench.write(FCR, code << 6 | 1)
        bench.write(IER, 0x01)
        causes = []
        for character in range(16):
            bench.write(THR, character)
            bench.pass_time(4 * CHARACTER - 1)
            early = bench.read(IIR)
            bench.pass_time(1)
            causes.append(bench.read(IIR))
            assert early == (FIFOS | NONE if causes[-1] == FIFOS | TIME_OUT else causes[-1])
        assert causes == [FIFOS | TIME_OUT] * (level - 1) + [FIFOS | DATA] * (16 - level + 1)


def test_section_8_4_an_overrun_of_the_fifo_loses_the_new_character() -> None:
    bench = Bench()
    bench.write(MCR, LOOP)
    bench.write(FCR, 1)
    bench.write(IER, 0x04)
    bench.write(THR, *range(17))
    assert bench.read(IIR) == FIFOS | LINE_STATUS
    assert bench.read(LSR) == 0x63
    assert (bench.read(LSR), bench.read(IIR)) == (0x61, FIFOS | NONE)
    assert bench.drain() == bytes(range(16))


def test_section_8_4_an_overrun_without_fifo_loses_the_old_character() -> None:
    bench = Bench()
    bench.write(MCR, LOOP)
    bench.write(THR, 1, 2)
    assert bench.read(LSR) == 0x63
    assert bench.drain() == b"\x02"


def test_section_8_5_fifo_control() -> None:
    bench = Bench()
    bench.write(MCR, LOOP)
    bench.write(FCR, 0xC0)  # without bit 0 nothing is programmed
    assert bench.read(IIR) == NONE
    bench.write(FCR, 1)
    bench.write(THR, 1, 2, 3)
    bench.write(FCR, 1)
    assert bench.read(LSR) & 1
    bench.write(FCR, 3)  # receiver FIFO reset
    assert not bench.read(LSR) & 1
    bench.write(THR, 1)
    bench.write(FCR, 0)  # changing the mode clears the FIFO
    assert not bench.read(LSR) & 1
    assert bench.read(IIR) == NONE


def test_the_thr_interrupt_comes_with_etbei_and_with_each_write_and_is_reset_by_reading_iir() -> None:
    bench = Bench()
    bench.write(MCR, OUT2)
    bench.write(IER, 0x02)
    assert bench.line == [True]
    assert bench.read(IIR) == THR_EMPTY
    assert (bench.read(IIR), bench.line) == (NONE, [True, False])
    bench.write(THR, 0x41)
    assert bench.line == [True, False, True]
    bench.write(THR, 0x42)  # writing resets it too, and it is empty again at once: a new edge
    assert bench.line == [True, False, True, False, True]
    bench.write(IER, 0x00)
    bench.write(IER, 0x02)
    assert bench.line[-3:] == [True, False, True]


def test_reading_iir_resets_the_thr_interrupt_only_when_it_shows_it() -> None:
    bench = Bench()
    bench.write(IER, 0x03)
    bench.uart.receive(b"x")
    bench.pass_time(CHARACTER)
    assert (bench.read(IIR), bench.read(IIR)) == (DATA, DATA)
    bench.read(RBR)
    assert (bench.read(IIR), bench.read(IIR)) == (THR_EMPTY, NONE)


def test_table_iv_priorities() -> None:
    bench = Bench()
    bench.write(MCR, LOOP)
    bench.write(IER, 0x0F)
    bench.write(THR, 1, 2)  # overrun, data, transmitter empty; and the modem inputs changed with the loop
    seen = [bench.read(IIR)]
    bench.read(LSR)
    seen.append(bench.read(IIR))
    bench.read(RBR)
    seen += [bench.read(IIR), bench.read(IIR)]
    bench.read(MSR)
    seen.append(bench.read(IIR))
    assert seen == [LINE_STATUS, DATA, THR_EMPTY, MODEM, NONE]


def test_section_8_8_loopback_connects_the_modem_outputs_to_its_inputs() -> None:
    bench = Bench()
    assert bench.read(MSR) == 0xB0
    bench.write(MCR, LOOP)
    assert bench.read(MSR) == 0x0B  # CTS, DSR and DCD fell
    for output, status in ((0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)):
        bench.write(MCR, LOOP | output)
        assert bench.read(MSR) & 0xF0 == status


def test_section_8_9_ring_is_noted_at_its_trailing_edge() -> None:
    bench = Bench()
    bench.write(MCR, LOOP)
    bench.read(MSR)
    bench.write(MCR, LOOP | 0x04)
    assert bench.read(MSR) == 0x40
    bench.write(MCR, LOOP)
    assert (bench.read(MSR), bench.read(MSR)) == (0x04, 0x00)


def test_in_loopback_nothing_reaches_the_console_and_input_waits() -> None:
    bench = Bench()
    bench.write(MCR, LOOP)
    bench.uart.receive(b"input")
    bench.write(THR, 0x55)
    assert bench.drain() == b"\x55"
    assert bench.console == b""
    bench.write(MCR, 0)
    assert bench.drain() == b"input"


def test_out2_gates_the_interrupt_and_loopback_closes_the_gate() -> None:
    bench = Bench()
    bench.write(IER, 0x01)
    bench.uart.receive(b"x")
    bench.pass_time(CHARACTER)
    assert (bench.read(IIR), bench.line, bench.uart.input_interrupts()) == (DATA, [], False)
    bench.write(MCR, OUT2)
    assert (bench.line, bench.uart.input_interrupts()) == ([True], True)
    bench.write(MCR, OUT2 | LOOP)
    assert bench.line == [True, False]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 7), st.integers(0, 255)),
        st.tuples(st.just("write"), st.sampled_from((THR, IER, FCR, MCR)), st.integers(0, 31)),
        st.tuples(st.just("read"), st.integers(0, 7), st.just(0)),
        st.tuples(st.just("receive"), st.integers(0, 20), st.integers(0, 255)),
        st.tuples(st.just("wait"), st.just(0), st.integers(0, 6 * CHARACTER)),
    ),
    max_size=40,
)


def run(bench: Bench, steps: list[tuple[str, int, int]]) -> list[int]:
    seen = []
    for step, register, value in steps:
        if step == "write":
            bench.write(register, value)
        elif step == "read":
            seen.append(bench.read(register))
        elif step == "wait":
            bench.pass_time(value)
        else:
            bench.uart.receive(bytes([value]) * register)
    return seen


@given(STEPS, STEPS)
def test_a_restored_uart_goes_on_alike(before: list[tuple[str, int, int]], after: list[tuple[str, int, int]]) -> None:
    first, second = Bench(), Bench()
    run(first, before)
    second.uart.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.uart.save()), type=UartState))
    second.events.restore(first.events.save())
    second.time = first.time
    first.line.clear()
    first.console.clear()
    assert run(first, after) == run(second, after)
    assert (first.line, first.console, first.uart.save()) == (second.line, second.console, second.uart.save())


@given(STEPS)
def test_the_line_is_what_iir_says_behind_the_gate(steps: list[tuple[str, int, int]]) -> None:
    bench = Bench()
    run(bench, steps)
    level = bool(bench.line) and bench.line[-1]
    gate = bench.read(MCR) & (OUT2 | LOOP) == OUT2
    assert level is (gate and bench.read(IIR) & 1 == 0)
    assert all(left is not right for left, right in zip(bench.line, bench.line[1:], strict=False))
