"""The interval timer of a PC: an 8254 at 1,193,182 Hz.

Counter 0 drives IRQ 0, counter 1 once drove the refresh of memory, counter 2 the loudspeaker (its GATE and OUT are in
system control port B). Ports 0x40 to 0x42 are the counters, 0x43 takes control words (Intel's data sheet 231164,
"Control Word Format").

Time. CLK pulse k falls at the moment k / 1,193,182 s after power-on, exactly, and so at the first whole nanosecond
that is not before it: ``ceil(k * 10**9 / 1193182)``. Pulse numbers are integers and everything is counted in them, so
no period drifts: OUT of a counter in mode 2 or 3 that was loaded with N at pulse L rises at the pulses L + N, L + 2N,
L + 3N, ... A count is loaded by the pulse after its last byte is written.

The event queue holds the next change of OUT 0, which the PIC is told at its exact moment, falling edges included: a
request that falls before it is acknowledged is withdrawn. Once it is acknowledged nobody notices the fall, so the queue
then holds the next rise, and the PIC is told of both there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.counter import Counter, CounterState
from simvirt.machine.standing_order import Rises

if TYPE_CHECKING:
    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.event_queue import EventQueue

PIT_HZ: Final = 1_193_182
NS_PER_SECOND: Final = 1_000_000_000
CONTROL_PORT: Final = 3
READ_BACK: Final = 3
"""The counter number in a control word that makes it a read-back command."""


def pulse_at(now_ns: int) -> int:
    """The number of the last CLK pulse at or before this moment.

    >>> pulse_at(838), pulse_at(839)
    (0, 1)
    """
    return now_ns * PIT_HZ // NS_PER_SECOND


def pulse_time(pulse: int) -> int:
    """The first nanosecond at which CLK pulse number `pulse` has happened.

    >>> pulse_time(1), pulse_time(PIT_HZ)
    (839, 1000000000)
    """
    return -(-pulse * NS_PER_SECOND // PIT_HZ)


@dataclass(frozen=True, slots=True)
class PitState:
    """The three counters."""

    counters: tuple[CounterState, CounterState, CounterState]


class Pit8254:
    """The 8254 with counter 0's OUT on an interrupt line. The gates of counters 0 and 1 are tied high."""

    __slots__ = ("_clock", "_counters", "_event", "_events", "_line")
    state_type: ClassVar[type] = PitState

    def __init__(self, clock: Clock, events: EventQueue, line: InterruptLine, event: str = "pit.out0") -> None:
        self._clock = clock
        self._events = events
        self._event = event
        self._line = line
        events.register(event, self._out0_due)
        self.reset()

    def reset(self) -> None:
        """Power-on: no counter counts. The data sheet leaves this state open; see `POWER_ON_CONTROL`."""
        self._counters = (Counter(gate=True), Counter(gate=True), Counter(gate=False))
        self._events.cancel(self._event)
        self._line(self._counters[0].out)

    def read(self, offset: int, _size: AccessSize) -> int:
        """Read a counter. At the control port the bus floats (figure "Read/Write Operations Summary")."""
        if offset == CONTROL_PORT:
            return 0xFF
        return self._now(offset).read()

    def write(self, offset: int, _size: AccessSize, value: int) -> None:
        """Write a byte of a count, or at the control port a control word, latch or read-back command."""
        if offset != CONTROL_PORT:
            self._now(offset).write(value)
        elif value >> 6 == READ_BACK:
            self._read_back(value)
            return
        else:
            offset = value >> 6
            counter = self._now(offset)
            if value >> 4 & 3 == 0:
                counter.latch_count()
                return
            counter.program(value)
        if offset == 0:
            self._follow_out0()

    def set_gate2(self, high: bool) -> None:
        """Drive GATE 2 (system control port B, bit 0)."""
        self._now(2).set_gate(high)

    def out2(self) -> bool:
        """The level of OUT 2 (system control port B, bit 5)."""
        return self._now(2).out

    def save(self) -> PitState:
        """Everything, as a value."""
        first, second, third = self._counters
        return PitState((first.save(), second.save(), third.save()))

    def restore(self, state: PitState) -> None:
        """Take up a saved state; the deadline of OUT 0 is the event queue's to restore."""
        for counter, saved in zip(self._counters, state.counters, strict=True):
            counter.restore(saved)

    def _now(self, number: int) -> Counter:
        """The counter, brought up to the present moment."""
        counter = self._counters[number]
        pulse = pulse_at(self._clock.now())
        if number == 0:
            # Edges that are due have been run by the board; should a driver be late, none is lost all the same.
            counter.pass_edges(pulse, self._line)
        counter.advance_to(pulse)
        return counter

    def _read_back(self, command: int) -> None:
        """Read-back: bits 5 and 4, when clear, latch count and status of each counter selected by bits 3 to 1."""
        for number in range(3):
            if command >> number & 2:
                counter = self._now(number)
                if not command & 0x20:
                    counter.latch_count()
                if not command & 0x10:
                    counter.latch_status()

    def request_taken(self) -> None:
        """The request of OUT 0 has been acknowledged: what matters next is the next one."""
        counter = self._counters[0]
        distance = counter.ticks_to_rise()
        if distance is not None:
            self._events.schedule(self._event, pulse_time(counter.tick + distance))

    def rises(self) -> Rises | None:
        """When OUT 0 rises, if its next change that matters is a rise, and others follow; else None."""
        counter = self._counters[0]
        distance = counter.ticks_to_rise()
        if distance is None:
            return None
        pulse = counter.tick + distance
        if self._events.pending(self._event) != pulse_time(pulse):
            return None
        return Rises(pulse, counter.period, PIT_HZ, self._events.earliest_but(self._event))

    def risen(self, pulse: int) -> None:
        """OUT 0 has risen as foretold, for the last time at this pulse, and each request has been acknowledged."""
        self._counters[0].advance_to(pulse)
        self.request_taken()

    def catch_up(self) -> None:
        """Tell the PIC every change of OUT 0 up to now."""
        self._counters[0].pass_edges(pulse_at(self._clock.now()), self._line)

    def _out0_due(self) -> None:
        counter = self._counters[0]
        distance = counter.pass_edges(pulse_at(self._clock.now()), self._line)
        if distance is not None:
            self._events.schedule(self._event, pulse_time(counter.tick + distance))

    def _follow_out0(self) -> None:
        """After anything that may have changed counter 0: drive its line and set the deadline of its next change."""
        self._line(self._counters[0].out)
        self._schedule(self._counters[0].ticks_to_edge())

    def _schedule(self, distance: int | None) -> None:
        """Let OUT 0 be looked at so many pulses after those that counter 0 has had."""
        if distance is None:
            self._events.cancel(self._event)
        else:
            self._events.schedule(self._event, pulse_time(self._counters[0].tick + distance))
