"""ACPI power management: the PM1a registers and the power-management timer.

Sources: ACPI Specification 6.5, §4.8.3.1 to §4.8.3.3; Intel 82371AB (PIIX4) data sheet, "Power Management". ACPI mode
is always on (SCI_EN reads 1, and there is no SMI command port). What can happen here is that the timer's highest bit
changes, which sets TMR_STS every ten minutes and, with TMR_EN, raises the SCI; and the end: SLP_EN with the sleep type
of S5 turns the PC off. Other sleep types do nothing.

A program that waits by reading the timer over and over is made to wait: see `slow_reads`.

=====  =================================
port   register
=====  =================================
+0     PM1_STS, write 1 to clear
+2     PM1_EN
+4     PM1_CNT
+8     PM_TMR, 32 bits at 3.579545 MHz
=====  =================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.slow_reads import SlowReads, SlowReadsState

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.event_queue import EventQueue

BASE: Final = 0x600
PORTS: Final = range(BASE, BASE + 12)
STATUS, ENABLE, CONTROL, TIMER = 0, 2, 4, 8
TIMER_HZ: Final = 3_579_545
TIMER_BITS: Final = 32
NS_PER_SECOND: Final = 1_000_000_000
TIMER_STATUS: Final = 1 << 0
SCI_ENABLE: Final = 1 << 0
SLEEP_TYPE_SHIFT: Final = 10
SLEEP_ENABLE: Final = 1 << 13
SOFT_OFF: Final = 5
r"""The sleep type that the firmware's \_S5 names."""
_ENABLE_BITS: Final = 0x4721
_CONTROL_BITS: Final = 7 << SLEEP_TYPE_SHIFT | 2


@dataclass(frozen=True, slots=True)
class PowerManagementState:
    """The registers, and how far the timer's overflows have been noticed."""

    status: int
    enable: int
    control: int
    overflows: int
    reads: SlowReadsState


class PowerManagement:
    """The registers; `on_off` turns the machine off, `wait` lets nanoseconds pass."""

    state_type: ClassVar[type] = PowerManagementState
    EVENT: ClassVar[str] = "power-management.timer"

    def __init__(
        self,
        clock: Clock,
        events: EventQueue,
        line: InterruptLine,
        wait: Callable[[int], None],
        on_off: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._events = events
        self._line = line
        self._reads = SlowReads(clock, wait)
        self._on_off = on_off
        self._status = self._enable = self._control = self._overflows = 0
        events.register(self.EVENT, self._follow)

    def _ticks(self) -> int:
        return self._clock.now() * TIMER_HZ // NS_PER_SECOND

    def _follow(self) -> None:
        """Notice overflows of bit 31, drive the SCI, and look again at the next overflow if it is to interrupt."""
        overflows = self._ticks() >> TIMER_BITS - 1
        if overflows != self._overflows:
            self._overflows = overflows
            self._status |= TIMER_STATUS
        self._line(bool(self._status & self._enable & TIMER_STATUS))
        if self._enable & TIMER_STATUS:
            self._events.schedule(self.EVENT, -(-((overflows + 1) << TIMER_BITS - 1) * NS_PER_SECOND // TIMER_HZ))
        else:
            self._events.cancel(self.EVENT)

    def read(self, offset: int, size: AccessSize) -> int:
        """A register, or a part of one, or two neighbours."""
        if offset >= TIMER:
            self._reads.look()
        else:
            self._follow()
        words = self._status | self._enable << 16 | (self._control | SCI_ENABLE) << 32
        value = words | (self._ticks() & (1 << TIMER_BITS) - 1) << 8 * TIMER
        return value >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: AccessSize, value: int) -> None:
        """Write a register, or a part of one, or two neighbours."""
        mask, value = (1 << 8 * size) - 1 << 8 * offset, value << 8 * offset
        self._follow()
        self._status &= ~(value & mask)
        self._enable = (self._enable & ~(mask >> 16) | value >> 16 & mask >> 16) & _ENABLE_BITS
        before = self._control
        self._control = (before & ~(mask >> 32) | value >> 32 & mask >> 32) & _CONTROL_BITS
        self._follow()
        if value >> 32 & SLEEP_ENABLE and self._control >> SLEEP_TYPE_SHIFT & 7 == SOFT_OFF:
            self._on_off()

    def reset(self) -> None:
        """Power-on: nothing enabled."""
        self._status = self._enable = self._control = 0
        self._reads.restore(SlowReadsState())
        self._overflows = self._ticks() >> TIMER_BITS - 1
        self._events.cancel(self.EVENT)
        self._line(False)

    def save(self) -> PowerManagementState:
        """Everything, as a value."""
        return PowerManagementState(self._status, self._enable, self._control, self._overflows, self._reads.save())

    def restore(self, state: PowerManagementState) -> None:
        """Take up a saved state."""
        self._status, self._enable, self._control = state.status, state.enable, state.control
        self._overflows = state.overflows
        self._reads.restore(state.reads)
