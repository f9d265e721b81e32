"""The interrupt controllers of a PC: two 8259A, one behind the other.

::

    IRQ 0 timer ────────┐
    IRQ 1 keyboard ─────┤ master    INT ──> processor
    IRQ 2 (cascade) <───┤ 0x20-0x21
    IRQ 3-7 ────────────┘     ^
                              └─ INT ┌──── IRQ 8 real-time clock
                     slave 0xA0-0xA1 ├ ...
                                     └──── IRQ 15

The chip is in `simvirt.machine.devices.pic_chip`; here is its cascade ("Cascade Mode" in Intel's data sheet 231468):
the slave's INT is the master's input IR2, and when the master acknowledges an input at which ICW3 announced a slave,
the slave with that number gives the vector. When none has it, the bus floats and the processor reads the vector 0xFF.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from simvirt.errors import MonitorError
from simvirt.machine.devices.pic_chip import ICW1_SELECT, SPURIOUS_LEVEL, Pic8259, PicChipState

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.standing_order import Rises

MASTER_PORT: Final = 0x20
"""Where a PC has the master's command register."""
FLOATING_VECTOR: Final = 0xFF
ELCR_WRITABLE: Final = (0xF8, 0xDE)
"""IRQ 0, 1, 2, 8 and 13 are edge triggered always (Intel 82371SB data sheet, "ELCR1", "ELCR2")."""


class Irq(IntEnum):
    """The interrupt request lines of a PC/AT, by their use (IBM PC/AT Technical Reference, "System Interrupts")."""

    TIMER = 0
    KEYBOARD = 1
    CASCADE = 2
    COM2 = 3
    COM1 = 4
    LPT2 = 5
    FLOPPY = 6
    LPT1 = 7
    RTC = 8
    IRQ9 = 9
    IRQ10 = 10
    IRQ11 = 11
    MOUSE = 12
    FPU = 13
    ATA_PRIMARY = 14
    ATA_SECONDARY = 15


@dataclass(frozen=True, slots=True)
class PicPairState:
    """All that the two chips know."""

    master: PicChipState
    slave: PicChipState


class RequestSource(Protocol):
    """A device whose line falls again and again, which nobody notices once its request has been acknowledged."""

    def request_taken(self) -> None:
        """The request has been acknowledged. Until the next one the line may be left high."""
        ...

    def catch_up(self) -> None:
        """Drive the line to where it is now."""
        ...

    def rises(self) -> Rises | None:
        """When the line rises next, and again and again, its last request having been acknowledged; else None."""
        ...

    def risen(self, pulse: int) -> None:
        """It has risen as foretold, for the last time at this pulse, and each request has been acknowledged."""
        ...


class PicPair:
    """Master and slave of a PC, the slave at the master's IR2.

    Ports 0 and 1 are the master's, 2 and 3 the slave's; 4 and 5 are the edge/level control registers of both.

    `on_intr` is told when the master's INT output, the processor's INTR pin, changes.
    """

    __slots__ = ("master", "slave", "sources")
    state_type: ClassVar[type] = PicPairState

    def __init__(self, on_intr: Callable[[bool], None]) -> None:
        self.sources: dict[int, RequestSource] = {}
        """The devices that are told so, by their lines."""
        self.master = Pic8259(on_intr)
        self.slave = Pic8259(partial(self.master.set_line, Irq.CASCADE))

    def follow(self, irq: int, source: RequestSource) -> None:
        """Tell `source` when its request on a line of the master has been acknowledged."""
        self.sources[irq] = source

    def set_line(self, irq: int, high: bool) -> None:
        """Drive IRQ 0 to 15 (not 2, which is the slave's).

        Raises:
            MonitorError: there is no such line for a device.
        """
        self.line(irq)(high)

    def line(self, irq: int) -> InterruptLine:
        """The wire of IRQ 0 to 15, for a device to drive.

        Raises:
            MonitorError: there is no such line for a device.
        """
        if not 0 <= irq <= 15 or irq == Irq.CASCADE:
            raise MonitorError(
                f"no device can drive IRQ {irq}: a PC has the lines 0 to 15, and 2 belongs to the second 8259A"
            )
        return partial(self.master.set_line, irq) if irq < 8 else partial(self.slave.set_line, irq - 8)

    def pulse(self, irq: int) -> None:
        """Give the line a fresh rising edge and leave it high, so that the request stands until it is acknowledged."""
        line = self.line(irq)
        line(False)
        line(True)

    def interrupt_pending(self) -> bool:
        """The level of INTR."""
        return self.master.int_output

    def can_deliver(self, irq: int) -> bool:
        """Whether a request made on this line now would raise INTR: not masked, and nothing higher in service."""
        if irq < 8:
            return self.master.can_deliver(irq)
        return self.slave.can_deliver(irq - 8) and self.master.can_deliver(Irq.CASCADE)

    def acknowledge(self) -> int:
        """INTA: the vector of the highest request, now in service; without a request that of the spurious IR7."""
        master = self.master
        level = master.accept()
        if level is None:
            vector = master.vector_base | SPURIOUS_LEVEL
        elif master.has_slave(level):
            vector = self._slave_vector(level)
        else:
            vector = master.vector_base | level
        master.finish(level)
        if level in self.sources and master.edge_triggered(level):
            self.sources[level].request_taken()
        return vector

    def _slave_vector(self, level: int) -> int:
        if level != Irq.CASCADE or self.slave.slave_id() != level:
            return FLOATING_VECTOR
        accepted = self.slave.accept()
        vector = self.slave.vector_base | (SPURIOUS_LEVEL if accepted is None else accepted)
        self.slave.finish(accepted)
        return vector

    def read(self, offset: int, _size: AccessSize) -> int:
        """Read a register: see `Pic8259.read`."""
        if offset < 2:
            return self.master.read(offset)
        if offset < 4:
            return self.slave.read(offset - 2)
        return (self.master, self.slave)[offset - 4].level_triggered

    def write(self, offset: int, _size: AccessSize, value: int) -> None:
        """Write a command word: see `Pic8259.write`."""
        if offset >= 4 or (offset == 0 and value & ICW1_SELECT):  # lines may become level triggered
            for source in self.sources.values():
                source.catch_up()
        if offset < 2:
            self.master.write(offset, value)
        elif offset < 4:
            self.slave.write(offset - 2, value)
        else:
            (self.master, self.slave)[offset - 4].level_triggered = value & ELCR_WRITABLE[offset - 4]

    def reset(self) -> None:
        """Power-on state of both."""
        self.slave.reset()
        self.master.reset()

    def save(self) -> PicPairState:
        """Everything, as a value."""
        return PicPairState(self.master.save(), self.slave.save())

    def restore(self, state: PicPairState) -> None:
        """Take up a saved state; `on_intr` is not called."""
        self.master.restore(state.master)
        self.slave.restore(state.slave)
