"""System control port B, 0x61: gate and output of timer counter 2, the loudspeaker, and the refresh bit.

====  ==========  ==============================================================
bit   read/write  meaning
====  ==========  ==============================================================
0     rw          GATE of timer counter 2
1     rw          loudspeaker data enable (there is no loudspeaker to hear it)
2     rw          disable the memory parity check; kept, no effect
3     rw          disable the I/O channel check; kept, no effect
4     r           toggles with every refresh of memory
5     r           OUT of timer counter 2
6, 7  r           I/O channel and parity error: none ever, 0
====  ==========  ==============================================================

Sources: IBM PC/AT Technical Reference, "System Board"; Intel 82371AB (PIIX4) data sheet, "NMISC - NMI Status and
Control Register". Refresh: the firmware of a PC programs timer counter 1 to 18 pulses (about 15 us) for it. Here it
runs at that rate from power-on whatever counter 1 is programmed to, as later chip sets do it too; programs measure
time by this bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.pit import pulse_at

if TYPE_CHECKING:
    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices.pit import Pit8254

GATE_2: Final = 0x01
WRITABLE: Final = 0x0F
REFRESH: Final = 0x10
OUT_2: Final = 0x20
REFRESH_PULSES: Final = 18


@dataclass(frozen=True, slots=True)
class PortBState:
    """The bits that were written."""

    written: int


class PortB:
    """The port; `pit` is the timer whose counter 2 it governs."""

    __slots__ = ("_clock", "_pit", "_written")
    state_type: ClassVar[type] = PortBState

    def __init__(self, clock: Clock, pit: Pit8254) -> None:
        self._clock = clock
        self._pit = pit
        self._written = 0

    def read(self, _offset: int, _size: AccessSize) -> int:
        """The bits written, the refresh toggle and OUT 2."""
        refresh = REFRESH if pulse_at(self._clock.now()) // REFRESH_PULSES & 1 else 0
        return self._written | refresh | (OUT_2 if self._pit.out2() else 0)

    def write(self, _offset: int, _size: AccessSize, value: int) -> None:
        """Set the four writable bits."""
        self._written = value & WRITABLE
        self._pit.set_gate2(bool(value & GATE_2))

    def reset(self) -> None:
        """Power-on: all zero, GATE 2 low."""
        self._written = 0
        self._pit.set_gate2(False)

    def save(self) -> PortBState:
        """Everything, as a value."""
        return PortBState(self._written)

    def restore(self, state: PortBState) -> None:
        """Take up a saved state; GATE 2 is the timer's to restore."""
        self._written = state.written
