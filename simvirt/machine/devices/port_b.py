"""System control port B, 0x61: gate and output of timer counter 2, the loudspeaker, and the refresh bit.

====  ==========  ==============================================================
bit   read/write  meaning
====  ==========  ==============================================================
0     rw          GATE of timer counter 2
1     rw          loudspeaker data enable (there is no loudspeaker to hear it)
2     rw          disable the memory parity check, and clear its error
3     rw          disable the I/O channel check, and clear its error
4     r           toggles with every refresh of memory
5     r           OUT of timer counter 2
6     r           I/O channel error: a card has asserted IOCHK#
7     r           memory parity error
====  ==========  ==============================================================

Sources: IBM PC/AT Technical Reference, "System Board"; Intel 82371AB (PIIX4) data sheet, "NMISC - NMI Status and
Control Register". Refresh: the firmware of a PC programs timer counter 1 to 18 pulses (about 15 us) for it. Here it
runs at that rate from power-on whatever counter 1 is programmed to, as later chip sets do it too; programs measure
time by this bit.

The two errors are latched until their check is disabled, and are NMIs as long as port 0x70 does not mask them
(`nmi_gate`). Memory has no parity here, so a parity error is what a host or a test makes (`PortB.parity_error`); a
card on the bus signals its own by `PortB.io_channel_check`.

Programs that wait for OUT 2 or the refresh bit read the port over and over, and are made to wait: see `slow_reads`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.pit import pulse_at
from simvirt.machine.devices.slow_reads import SlowReads, SlowReadsState

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices.nmi_gate import NmiGate
    from simvirt.machine.devices.pit import Pit8254

GATE_2: Final = 0x01
PARITY_CHECK_DISABLED: Final = 0x04
IO_CHANNEL_CHECK_DISABLED: Final = 0x08
WRITABLE: Final = 0x0F
REFRESH: Final = 0x10
OUT_2: Final = 0x20
IO_CHANNEL_ERROR: Final = 0x40
PARITY_ERROR: Final = 0x80
REFRESH_PULSES: Final = 18


@dataclass(frozen=True, slots=True)
class PortBState:
    """The bits that were written, and the errors that stand."""

    written: int
    reads: SlowReadsState
    errors: int


class PortB:
    """The port.

    `pit` is the timer whose counter 2 it governs, `wait` lets that many nanoseconds pass, `nmi` takes the errors.
    """

    __slots__ = ("_clock", "_errors", "_nmi", "_pit", "_reads", "_written")
    state_type: ClassVar[type] = PortBState

    def __init__(self, clock: Clock, pit: Pit8254, wait: Callable[[int], None], nmi: NmiGate) -> None:
        self._clock = clock
        self._pit = pit
        self._nmi = nmi
        self._reads = SlowReads(clock, wait)
        self._written = self._errors = 0

    def read(self, _offset: int, _size: AccessSize) -> int:
        """The bits written, the refresh toggle, OUT 2, and the errors."""
        self._reads.look()
        refresh = REFRESH if pulse_at(self._clock.now()) // REFRESH_PULSES & 1 else 0
        return self._errors | self._written | refresh | (OUT_2 if self._pit.out2() else 0)

    def write(self, _offset: int, _size: AccessSize, value: int) -> None:
        """Set the four writable bits; an error whose check is disabled is gone."""
        self._reads.interrupted()
        self._written = value & WRITABLE
        self._pit.set_gate2(bool(value & GATE_2))
        self._set_errors(self._errors)

    def io_channel_check(self) -> None:
        """A card on the bus asserts IOCHK#: an NMI, unless the guest has disabled the check or masked NMIs."""
        self._set_errors(self._errors | IO_CHANNEL_ERROR)

    def parity_error(self) -> None:
        """Memory has a parity error: an NMI, likewise."""
        self._set_errors(self._errors | PARITY_ERROR)

    def reset(self) -> None:
        """Power-on: all zero, GATE 2 low."""
        self._written = 0
        self._reads.restore(SlowReadsState())
        self._pit.set_gate2(False)
        self._set_errors(0)

    def save(self) -> PortBState:
        """Everything, as a value."""
        return PortBState(self._written, self._reads.save(), self._errors)

    def restore(self, state: PortBState) -> None:
        """Take up a saved state; GATE 2 is the timer's to restore."""
        self._written = state.written
        self._reads.restore(state.reads)
        self._errors = state.errors
        self._nmi.take_up(error=bool(state.errors))

    def _set_errors(self, errors: int) -> None:
        if self._written & IO_CHANNEL_CHECK_DISABLED:
            errors &= ~IO_CHANNEL_ERROR
        if self._written & PARITY_CHECK_DISABLED:
            errors &= ~PARITY_ERROR
        self._errors = errors
        self._nmi.signal(bool(errors))
