"""The serial port: a 16550A UART, COM1, the guest's console.

Written from National Semiconductor's data sheet "PC16550D Universal Asynchronous Receiver/Transmitter with FIFOs"
(1995); section 8 there describes the registers, table IV the interrupts. On a PC the OUT2 pin switches the interrupt
onto the bus (IBM Asynchronous Adapter, Technical Reference): without MCR bit 3 no interrupt arrives, nor in loopback
mode, which holds that pin inactive.

Deviations, and why. A guest must behave the same at any speed of the host, and nothing is learned from waiting for a
line, so:

* What is sent takes no time, whatever the divisor: a byte written is on the console at once, and in loopback in the
  receiver. THRE and TEMT always read 1; the THRE interrupt comes as the data sheet has it, after each write and when
  ETBEI is turned on.
* What is received comes at the pace of divisor and LCR, one character time after the other, and the time-out
  indication four of them later, all in virtual time. But the other end is patient: it sends only while there is room
  in the receiver and somebody listens, which is while ERBFI is set, or when a program that polls has looked
  `LOOKS_OF_A_READER` times for a character in vain; then one is there at once. So no input is lost to an overrun (in
  loopback the guest can produce one) or to a guest that clears its receiver when it starts.
* The console takes and gives eight bits whatever the word length in LCR, as guests that rely on firmware never set
  it. There are no parity, framing and break errors; the modem's CTS, DSR and DCD are on, RI is off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.event_queue import EventQueue

# The registers by offset ("Summary of Registers"). 0 and 1 are the divisor latch while LCR.DLAB is set.
RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR: Final = 3
MCR: Final = 4
LSR: Final = 5
MSR: Final = 6
SCR: Final = 7

# IER, section 8.7. Plain integers here and below: flag enumerations are too slow for registers polled millions of
# times.
LOOKS_OF_A_READER: Final = 32
"""Reads of LSR in a row that find no character: a guest that does this waits for input by polling."""
BAUD_CLOCK: Final = 115_200
"""Bits per second at divisor 1: the crystal's 1.8432 MHz by 16 ("Programmable Baud Generator")."""
TIME_OUT_CHARACTERS: Final = 4
IER_ERBFI: Final = 0x01
IER_ETBEI: Final = 0x02
IER_ELSI: Final = 0x04
IER_EDSSI: Final = 0x08
# IIR, section 8.6 and table IV, in falling priority.
IIR_LINE_STATUS: Final = 0x06
IIR_DATA_AVAILABLE: Final = 0x04
IIR_TIME_OUT: Final = 0x0C
IIR_THR_EMPTY: Final = 0x02
IIR_MODEM_STATUS: Final = 0x00
IIR_NONE: Final = 0x01
IIR_FIFOS_ENABLED: Final = 0xC0
# FCR, section 8.5.
FCR_ENABLE: Final = 0x01
FCR_RESET_RECEIVER: Final = 0x02
FCR_KEPT: Final = 0xC9
TRIGGER_LEVELS: Final = (1, 4, 8, 14)
FIFO_DEPTH: Final = 16
# LCR, section 8.1.
LCR_WORD_LENGTH: Final = 0x03
LCR_TWO_STOP_BITS: Final = 0x04
LCR_PARITY: Final = 0x08
LCR_DLAB: Final = 0x80
# MCR, section 8.8.
MCR_DTR: Final = 0x01
MCR_RTS: Final = 0x02
MCR_OUT1: Final = 0x04
MCR_OUT2: Final = 0x08
MCR_LOOP: Final = 0x10
# LSR, section 8.4.
LSR_DR: Final = 0x01
LSR_OE: Final = 0x02
LSR_THRE: Final = 0x20
LSR_TEMT: Final = 0x40
# MSR, section 8.9: the upper half is the inputs, the lower half what changed since the last read.
MSR_TERI: Final = 0x04
MSR_CTS: Final = 0x10
MSR_DSR: Final = 0x20
MSR_RI: Final = 0x40
MSR_DCD: Final = 0x80
CONSOLE_MODEM: Final = MSR_CTS | MSR_DSR | MSR_DCD
POWER_ON_DIVISOR: Final = 12
"""9600 baud at 1.8432 MHz; the data sheet leaves the divisor's power-on value open."""


@dataclass(frozen=True, slots=True)
class UartState:
    """All that the UART knows, and the input that waits for it."""

    ier: int
    fcr: int
    lcr: int
    mcr: int
    scratch: int
    divisor: int
    overrun: bool
    modem_changes: int
    thr_interrupt: bool
    receiver: bytes
    last_received: int
    waiting: bytes
    interrupt: bool
    timed_out: bool
    looks: int


class Uart16550:
    """The UART, with its interrupt line and the console that it sends to."""

    __slots__ = (
        "_clock",
        "_divisor",
        "_events",
        "_fcr",
        "_ier",
        "_interrupt",
        "_last_received",
        "_lcr",
        "_line",
        "_looks",
        "_mcr",
        "_modem_changes",
        "_overrun",
        "_receive_event",
        "_receiver",
        "_scratch",
        "_sink",
        "_thr_interrupt",
        "_time_out_event",
        "_timed_out",
        "_waiting",
    )
    state_type: ClassVar[type] = UartState

    def __init__(
        self,
        clock: Clock,
        events: EventQueue,
        line: InterruptLine,
        sink: Callable[[int], None],
        name: str = "com1",
    ) -> None:
        self._clock = clock
        self._events = events
        self._receive_event = f"{name}.receive"
        self._time_out_event = f"{name}.time-out"
        events.register(self._receive_event, self._character_arrives)
        events.register(self._time_out_event, self._time_out)
        self._line = line
        self._sink = sink
        self._waiting = bytearray()
        self._interrupt = False
        self._scratch = 0
        self._divisor = POWER_ON_DIVISOR
        self.reset()

    def reset(self) -> None:
        """The MR pin ("UART Reset Configuration"). Scratch and divisor stay; input at the other end waits on."""
        self._ier = self._fcr = self._lcr = self._mcr = 0
        self._modem_changes = self._last_received = 0
        self._overrun = self._thr_interrupt = self._timed_out = False
        self._looks = 0
        self._receiver = bytearray()
        self._update()

    def receive(self, data: bytes) -> None:
        """Input from the other end. It reaches the receiver character by character, while the guest listens."""
        self._waiting += data
        self._expect()

    def input_interrupts(self) -> bool:
        """Whether a character that arrived now would interrupt: a sleeping guest may be waiting for one."""
        return bool(self._ier & IER_ERBFI) and self._mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2

    def read(self, offset: int, _size: AccessSize) -> int:
        """Read a register."""
        if offset == LSR:
            if not self._receiver:
                self._look()
            value = LSR_THRE | LSR_TEMT | (LSR_DR if self._receiver else 0)
            if self._overrun:
                self._overrun = False
                value |= LSR_OE
                self._update()
            return value
        if offset == RBR:
            return self._divisor & 0xFF if self._lcr & LCR_DLAB else self._read_receiver()
        if offset == IIR:
            return self._read_iir()
        if offset == IER:
            return self._divisor >> 8 if self._lcr & LCR_DLAB else self._ier
        if offset == LCR:
            return self._lcr
        if offset == MCR:
            return self._mcr
        if offset == MSR:
            value = self._modem_inputs() | self._modem_changes
            self._modem_changes = 0
            self._update()
            return value
        return self._scratch

    def write(self, offset: int, _size: AccessSize, value: int) -> None:
        """Write a register. LSR and MSR are read only (writes to them are for factory tests)."""
        self._looks = 0
        if offset == THR:
            if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            else:
                self._transmit(value)
        elif offset == IER:
            if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF | value << 8
            else:
                self._write_ier(value & 0x0F)
        elif offset == FCR:
            self._write_fcr(value)
        elif offset == LCR:
            self._lcr = value
        elif offset == MCR:
            self._write_mcr(value & 0x1F)
        elif offset == SCR:
            self._scratch = value

    def save(self) -> UartState:
        """Everything, as a value."""
        return UartState(
            ier=self._ier,
            fcr=self._fcr,
            lcr=self._lcr,
            mcr=self._mcr,
            scratch=self._scratch,
            divisor=self._divisor,
            overrun=self._overrun,
            modem_changes=self._modem_changes,
            thr_interrupt=self._thr_interrupt,
            receiver=bytes(self._receiver),
            last_received=self._last_received,
            waiting=bytes(self._waiting),
            interrupt=self._interrupt,
            timed_out=self._timed_out,
            looks=self._looks,
        )

    def restore(self, state: UartState) -> None:
        """Take up a saved state; the interrupt line is the PIC's to restore."""
        self._ier = state.ier
        self._fcr = state.fcr
        self._lcr = state.lcr
        self._mcr = state.mcr
        self._scratch = state.scratch
        self._divisor = state.divisor
        self._overrun = state.overrun
        self._modem_changes = state.modem_changes
        self._thr_interrupt = state.thr_interrupt
        self._receiver = bytearray(state.receiver)
        self._last_received = state.last_received
        self._waiting = bytearray(state.waiting)
        self._interrupt = state.interrupt
        self._timed_out = state.timed_out
        self._looks = state.looks

    def _cause(self) -> int:
        """IIR bits 3 to 0: the pending interrupt of highest priority (table IV)."""
        ier = self._ier
        if ier & IER_ELSI and self._overrun:
            return IIR_LINE_STATUS
        if ier & IER_ERBFI and self._receiver:
            if not self._below_trigger():
                return IIR_DATA_AVAILABLE
            if self._timed_out:
                return IIR_TIME_OUT
        if ier & IER_ETBEI and self._thr_interrupt:
            return IIR_THR_EMPTY
        if ier & IER_EDSSI and self._modem_changes:
            return IIR_MODEM_STATUS
        return IIR_NONE

    def _update(self) -> None:
        """Drive the interrupt line from what is pending, through the gate that OUT2 is on a PC."""
        gated = self._mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        interrupt = gated and self._cause() != IIR_NONE
        if interrupt is not self._interrupt:
            self._interrupt = interrupt
            self._line(interrupt)

    def _read_receiver(self) -> int:
        if self._receiver:
            self._last_received = self._receiver[0]
            del self._receiver[0]
            self._looks = 0
            self._restart_time_out()  # reading ends a time-out indication, and data available below the trigger level
            self._expect()
            self._update()
        return self._last_received

    def _read_iir(self) -> int:
        cause = self._cause()
        if cause == IIR_THR_EMPTY:
            self._thr_interrupt = False  # reading resets it, but only when it is what IIR shows
            self._update()
        return cause | IIR_FIFOS_ENABLED if self._fcr else cause

    def _transmit(self, value: int) -> None:
        if self._ier & IER_ETBEI:
            # The interrupt is reset by the write and comes back when the character has left: one edge for each
            # character.
            self._thr_interrupt = False
            self._update()
        if self._mcr & MCR_LOOP:
            self._shift_in(value)
        else:
            self._sink(value)
        self._thr_interrupt = True
        if self._ier:
            self._update()

    def _write_ier(self, value: int) -> None:
        if value & ~self._ier & IER_ETBEI:
            self._thr_interrupt = True
        self._ier = value
        self._restart_time_out()
        self._expect()
        self._update()

    def _write_fcr(self, value: int) -> None:
        if (value ^ self._fcr) & FCR_ENABLE or (value & FCR_ENABLE and value & FCR_RESET_RECEIVER):
            self._receiver.clear()
        # "This bit must be a 1 when other FCR bits are written to or they will not be programmed."
        self._fcr = value & FCR_KEPT if value & FCR_ENABLE else 0
        self._restart_time_out()
        self._expect()
        self._update()

    def _write_mcr(self, value: int) -> None:
        before = self._modem_inputs()
        self._mcr = value
        after = self._modem_inputs()
        self._modem_changes |= ((before ^ after) & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4
        if before & ~after & MSR_RI:
            self._modem_changes |= MSR_TERI
        self._expect()
        self._update()

    def _modem_inputs(self) -> int:
        """The upper half of MSR; in loopback mode the outputs DTR, RTS, OUT1 and OUT2 come back on it."""
        mcr = self._mcr
        if not mcr & MCR_LOOP:
            return CONSOLE_MODEM
        return (
            (MSR_CTS if mcr & MCR_RTS else 0)
            | (MSR_DSR if mcr & MCR_DTR else 0)
            | (MSR_RI if mcr & MCR_OUT1 else 0)
            | (MSR_DCD if mcr & MCR_OUT2 else 0)
        )

    # ---------------------------------------------------------------------------------------- receiving, and its time

    def _character_ns(self) -> int:
        """How long a character takes: start bit, word, parity bit and stop bits (sections 8.1 and 8.2)."""
        lcr = self._lcr
        bits = 7 + (lcr & LCR_WORD_LENGTH) + bool(lcr & LCR_PARITY) + bool(lcr & LCR_TWO_STOP_BITS)
        return bits * max(self._divisor, 1) * 1_000_000_000 // BAUD_CLOCK

    def _can_receive(self) -> bool:
        """Does a character wait, is there room for it, and no loopback in the way?"""
        full = len(self._receiver) >= FIFO_DEPTH if self._fcr else bool(self._receiver)
        return bool(self._waiting) and not full and not self._mcr & MCR_LOOP

    def _expect(self) -> None:
        """Let the next character be under way while it can be received and would interrupt."""
        if not (self._ier & IER_ERBFI and self._can_receive()):
            self._events.cancel(self._receive_event)
        elif self._events.pending(self._receive_event) is None:
            self._events.schedule(self._receive_event, self._clock.now() + self._character_ns())

    def _character_arrives(self) -> None:
        self._receiver.append(self._waiting[0])
        del self._waiting[0]
        self._restart_time_out()
        self._expect()
        self._update()

    def _look(self) -> None:
        """A read of LSR that finds no character; after many of them one that waits is there."""
        self._looks += 1
        if self._looks >= LOOKS_OF_A_READER and self._can_receive():
            self._looks = 0
            self._character_arrives()

    def _below_trigger(self) -> bool:
        return bool(self._fcr) and len(self._receiver) < TRIGGER_LEVELS[self._fcr >> 6]

    def _restart_time_out(self) -> None:
        """Section 8.10: time is out four characters after the last arrival or reading, with the FIFO not empty."""
        self._timed_out = False
        if self._receiver and self._ier & IER_ERBFI and self._below_trigger():
            due = self._clock.now() + TIME_OUT_CHARACTERS * self._character_ns()
            self._events.schedule(self._time_out_event, due)
        else:
            self._events.cancel(self._time_out_event)

    def _time_out(self) -> None:
        self._timed_out = True
        self._update()

    def _shift_in(self, value: int) -> None:
        """A character has been received by the shift register; section 8.4, bit 1, tells what an overrun loses."""
        if self._fcr:
            if len(self._receiver) == FIFO_DEPTH:
                self._overrun = True
            else:
                self._receiver.append(value)
        else:
            self._overrun = self._overrun or bool(self._receiver)
            self._receiver[:] = (value,)
        self._restart_time_out()
