"""One counter of an 8254 interval timer.

Written from Intel's data sheet "8254 Programmable Interval Timer" (order number 231164), whose words are used: the
count register (CR) takes what the processor writes, the counting element (CE) counts down, the output latch (OL)
holds what the processor is to read.

Counters count CLK pulses. This one does not live through them: `advance_to(tick)` computes in closed form what `tick`
pulses since power-on have made of it, and `ticks_to_edge()` when OUT will change next if nobody writes. A processor
access or a change of GATE happens between two pulses and takes effect at once or with the next pulse, as the data
sheet says for each.

What the data sheet leaves open, and how it stands here: between a control word and the first count the counter stands
still; a count of 1, which it forbids in modes 2 and 3, counts as 2; a BCD count with a digit above 9 is taken by its
digits' weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


class Mode(IntEnum):
    """The counter modes, by the data sheet's numbers and titles ("Mode Definitions")."""

    INTERRUPT_ON_TERMINAL_COUNT = 0
    HARDWARE_RETRIGGERABLE_ONE_SHOT = 1
    RATE_GENERATOR = 2
    SQUARE_WAVE = 3
    SOFTWARE_TRIGGERED_STROBE = 4
    HARDWARE_TRIGGERED_STROBE = 5


# Bits M2 M1 M0 of the control word; M2 is not looked at in modes 2 and 3.
_MODE_BY_BITS: Final = (*Mode, Mode.RATE_GENERATOR, Mode.SQUARE_WAVE)

# The control word's fields RW1 RW0: which bytes of a count are read and written.
RW_LSB: Final = 1
RW_MSB: Final = 2
RW_BOTH: Final = 3
STATUS_OUT: Final = 0x80
STATUS_NULL_COUNT: Final = 0x40
POWER_ON_CONTROL: Final = RW_BOTH << 4 | Mode.SQUARE_WAVE << 1
"""Mode 3, as firmware leaves the timer of a PC; the data sheet leaves the power-on state open."""

_RATE_GENERATOR: Final = Mode.RATE_GENERATOR
_STROBES: Final = (Mode.SOFTWARE_TRIGGERED_STROBE, Mode.HARDWARE_TRIGGERED_STROBE)
_PERIODIC: Final = (Mode.RATE_GENERATOR, Mode.SQUARE_WAVE)
_TRIGGERED: Final = (Mode.HARDWARE_RETRIGGERABLE_ONE_SHOT, Mode.HARDWARE_TRIGGERED_STROBE)


@dataclass(frozen=True, slots=True)
class CounterState:
    """All that a counter knows. Counts are values, in BCD mode too; 0 of a full count is the modulus."""

    tick: int
    control: int
    gate: bool
    out: bool
    count: int
    counting: bool
    expired: bool
    odd: bool
    load_due: bool
    null_count: bool
    reload: int | None
    first_byte: int | None
    read_second: bool
    latched: int | None
    status: int | None


class Counter:
    """A counter with its CLK, GATE and OUT pins and its data port."""

    __slots__ = (
        "_bcd",
        "_control",
        "_count",
        "_counting",
        "_expired",
        "_first_byte",
        "_gate",
        "_latched",
        "_load_due",
        "_mode",
        "_modulus",
        "_null_count",
        "_odd",
        "_read_second",
        "_reload",
        "_rw",
        "_status",
        "out",
        "tick",
    )

    def __init__(self, gate: bool) -> None:
        self.tick = 0
        """The CLK pulse, counted from power-on, up to which this counter has been advanced."""
        self.out = True
        """The level of the OUT pin."""
        self._gate = gate
        self.program(POWER_ON_CONTROL)

    def program(self, control: int) -> None:
        """A control word ("Programming the 8254"): the counter stops, OUT takes the mode's first level, latches go."""
        self._control = control & 0x3F
        self._decode()
        self.out = self._mode is not Mode.INTERRUPT_ON_TERMINAL_COUNT
        self._count = 0
        self._counting = self._expired = self._odd = self._load_due = False
        self._null_count = True
        self._reload: int | None = None
        self._first_byte: int | None = None
        self._read_second = False
        self._latched: int | None = None
        self._status: int | None = None

    def write(self, byte: int) -> None:
        """Write to the counter's port: the count, or the next byte of it."""
        if self._rw == RW_LSB:
            self._write_count(byte)
        elif self._rw == RW_MSB:
            self._write_count(byte << 8)
        elif self._first_byte is None:
            self._first_byte = byte
            if self._mode is Mode.INTERRUPT_ON_TERMINAL_COUNT:
                # "Writing the first byte disables counting. OUT is set low immediately."
                self._counting = self._load_due = False
                self.out = False
        else:
            low, self._first_byte = self._first_byte, None
            self._write_count(byte << 8 | low)

    def read(self) -> int:
        """Read the counter's port: a latched status first, then the latched count, else CE as it stands."""
        if self._status is not None:
            status, self._status = self._status, None
            return status
        value = self._latched if self._latched is not None else self._element()
        if self._rw == RW_BOTH:
            second = self._read_second
            self._read_second = not second
        else:
            second = self._rw == RW_MSB
        if self._rw != RW_BOTH or second:
            self._latched = None
        return value >> 8 if second else value & 0xFF

    def latch_count(self) -> None:
        """Hold the count for reading. While one is held already, this does nothing ("Counter Latch Command")."""
        if self._latched is None:
            self._latched = self._element()

    def latch_status(self) -> None:
        """Hold the status byte for reading ("Read-Back Command", figure "Status Byte")."""
        if self._status is None:
            self._status = (
                self._control | (STATUS_OUT if self.out else 0) | (STATUS_NULL_COUNT if self._null_count else 0)
            )

    @property
    def gate(self) -> bool:
        """The level of the GATE pin."""
        return self._gate

    def set_gate(self, high: bool) -> None:
        """Drive the GATE pin ("Operation Common to All Modes", figure "Gate Pin Operations Summary")."""
        if high is self._gate:
            return
        self._gate = high
        if high:
            if self._mode in _TRIGGERED or self._mode in _PERIODIC:
                self._load_due = self._load_due or self._reload is not None
        elif self._mode in _PERIODIC:
            self.out = True

    def advance_to(self, tick: int) -> None:
        """Let CLK pulses pass up to `tick`. One that has passed already changes nothing."""
        pulses = tick - self.tick
        if pulses <= 0:
            return
        self.tick = tick
        if not self.out and self._mode in _STROBES:
            self.out = True  # the strobe lasts one pulse, whatever GATE does
        if self._load_due:
            self._load()
            pulses -= 1
        if not self._counting or pulses == 0 or not (self._gate or self._mode in _TRIGGERED):
            return
        if self._mode is _RATE_GENERATOR:
            self._count_period(pulses)
        elif self._mode is Mode.SQUARE_WAVE:
            self._count_halves(pulses)
        else:
            self._count_down(pulses)

    def pass_edges(self, tick: int, line: Callable[[bool], None]) -> int | None:
        """Advance to each change of OUT up to `tick` in turn and drive `line`; gives the pulses to the one after them.

        None when none follows.
        """
        if self._mode is _RATE_GENERATOR and self._counting and self._gate and not self._load_due:
            # What `advance_to` does at the end of a period and at the pulse before it; a PC's timer ticks like this.
            ticks = self._count - 1 if self.out else 1
            while self.tick + ticks <= tick:
                self.tick += ticks
                if self.out:
                    self.out = False
                    self._count = ticks = 1
                else:
                    self.out = True
                    self._count = self._initial_count()
                    self._null_count = False
                    ticks = self._count - 1
                line(self.out)
            return ticks
        distance = self.ticks_to_edge()
        while distance is not None and self.tick + distance <= tick:
            self.advance_to(self.tick + distance)
            line(self.out)
            distance = self.ticks_to_edge()
        return distance

    @property
    def period(self) -> int:
        """Pulses from one rise of OUT to the next, in a periodic mode, from the next one on."""
        return self._initial_count()

    def ticks_to_rise(self) -> int | None:
        """After how many more pulses OUT, which is high and of a periodic mode, will have fallen and risen again.

        None when it is otherwise, or when nobody can tell yet.
        """
        if self._mode is _RATE_GENERATOR and self.out and self._counting and self._gate and not self._load_due:
            return self._count
        fall = self.ticks_to_edge() if self.out and self._mode in _PERIODIC and not self._load_due else None
        if fall is None:
            return None
        return fall + (1 if self._mode is _RATE_GENERATOR else self._initial_count() // 2)

    def ticks_to_edge(self) -> int | None:
        """After how many more CLK pulses OUT changes next, if nothing is written; None when it stays as it is."""
        mode = self._mode
        if mode is _RATE_GENERATOR and self._counting and self._gate and not self._load_due:
            return self._count - 1 if self.out else 1  # what a PC asks at every tick
        if mode in _STROBES and not self.out:
            return 1
        runs = self._gate or mode in _TRIGGERED
        if self._load_due:
            if mode is Mode.HARDWARE_RETRIGGERABLE_ONE_SHOT and self.out:
                return 1
            count = self._initial_count()
            if mode is Mode.RATE_GENERATOR:
                count -= 1
            elif mode is Mode.SQUARE_WAVE:
                count = (count + 1) // 2
            return 1 + count if runs else None
        if not (self._counting and runs) or self._expired:
            return None
        if mode is Mode.SQUARE_WAVE:
            return self._left_of_half()
        return self._count

    def save(self) -> CounterState:
        """Everything, as a value."""
        return CounterState(
            tick=self.tick,
            control=self._control,
            gate=self._gate,
            out=self.out,
            count=self._count,
            counting=self._counting,
            expired=self._expired,
            odd=self._odd,
            load_due=self._load_due,
            null_count=self._null_count,
            reload=self._reload,
            first_byte=self._first_byte,
            read_second=self._read_second,
            latched=self._latched,
            status=self._status,
        )

    def restore(self, state: CounterState) -> None:
        """Take up a saved state."""
        self.tick = state.tick
        self._control = state.control
        self._decode()
        self._gate = state.gate
        self.out = state.out
        self._count = state.count
        self._counting = state.counting
        self._expired = state.expired
        self._odd = state.odd
        self._load_due = state.load_due
        self._null_count = state.null_count
        self._reload = state.reload
        self._first_byte = state.first_byte
        self._read_second = state.read_second
        self._latched = state.latched
        self._status = state.status

    def _decode(self) -> None:
        self._rw = self._control >> 4 & 3
        self._mode = _MODE_BY_BITS[self._control >> 1 & 7]
        self._bcd = bool(self._control & 1)
        self._modulus = 10_000 if self._bcd else 0x10000

    def _write_count(self, raw: int) -> None:
        """A whole count has been written to CR."""
        if self._bcd:
            raw = (raw >> 12) * 1000 + (raw >> 8 & 15) * 100 + (raw >> 4 & 15) * 10 + (raw & 15)
        self._reload = raw % self._modulus or self._modulus
        self._null_count = True
        if self._mode in _TRIGGERED:
            return  # armed; the next trigger loads it
        if self._mode in _PERIODIC:
            # A counter that runs takes it at the end of the period (mode 3: half period), or with a trigger.
            self._load_due = self._load_due or not self._counting
            return
        if self._mode is Mode.INTERRUPT_ON_TERMINAL_COUNT:
            self.out = False
        self._load_due = True

    def _initial_count(self) -> int:
        """What CR holds, as the number of pulses to count."""
        count = self._reload or self._modulus
        return 2 if count == 1 and self._mode in _PERIODIC else count

    def _load(self) -> None:
        """The CLK pulse that moves CR to CE; it does not count."""
        self._load_due = self._null_count = self._expired = False
        self._counting = True
        self._count = self._initial_count()
        if self._mode is Mode.SQUARE_WAVE:
            self._start_half()
        elif self._mode is Mode.HARDWARE_RETRIGGERABLE_ONE_SHOT:
            self.out = False

    def _count_down(self, pulses: int) -> None:
        """Modes 0, 1, 4 and 5: one terminal count, after which the counter wraps around and goes on."""
        if self._expired or pulses < self._count:
            self._count = (self._count - pulses) % self._modulus if self._expired else self._count - pulses
            return
        beyond = pulses - self._count
        self._expired = True
        self._count = -beyond % self._modulus
        # Modes 4 and 5 strobe low for the one pulse at which the count is zero; modes 0 and 1 go high for good.
        self.out = beyond > 0 or self._mode not in _STROBES

    def _count_period(self, pulses: int) -> None:
        """Mode 2: OUT is low for the last pulse of every period, when CE stands at 1."""
        if pulses >= self._count:
            pulses -= self._count
            self._count = self._initial_count()
            self._null_count = False
            pulses %= self._count
        self._count -= pulses
        self.out = self._count != 1

    def _count_halves(self, pulses: int) -> None:
        """Mode 3: CE goes down by two; OUT is high for (N+1)/2 pulses and low for N/2, rounded down."""
        left = self._left_of_half()
        if pulses >= left:
            pulses -= left
            self.out = not self.out
            count = self._count = self._initial_count()
            self._null_count = False
            self._start_half()
            pulses %= count
            left = self._left_of_half()
            if pulses >= left:
                pulses -= left
                self.out = not self.out
                self._count = count & ~1
        self._count -= 2 * pulses

    def _start_half(self) -> None:
        """An odd count is loaded less one, and a high half lasts one pulse longer for it."""
        self._odd = bool(self._count & 1)
        self._count &= ~1

    def _left_of_half(self) -> int:
        return self._count // 2 + (self._odd and self.out)

    def _element(self) -> int:
        """CE as the processor reads it."""
        value = self._count % self._modulus
        if not self._bcd:
            return value
        return value // 1000 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10
