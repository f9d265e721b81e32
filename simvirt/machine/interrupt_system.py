"""The interrupt lines of a PC: each leads to the 8259A pair and to the I/O APIC, and both lead to the processor.

::

    IRQ 0-15 ──┬── 8259A pair ── INT ── LINT0 ┐
               │                              local APIC ── INTR ── processor
               └── I/O APIC ── messages ──────┘

IRQ 0 is the I/O APIC's input 2, which its cascade leaves free, as on every PC with one (MultiProcessor Specification
1.4, §3.6.2). A machine without APICs has the 8259A's INT at the processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.devices.pic import MASTER_PORT, Irq, PicPair
from simvirt.machine.devices.pic_chip import OCW2_EOI
from simvirt.machine.standing_order import StandingOrder

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.devices.io_apic import IoApic
    from simvirt.machine.devices.local_apic import LocalApic
    from simvirt.machine.event_queue import Attention

TIMER_INPUT: Final = 2
"""The I/O APIC's input that IRQ 0 is."""


def io_apic_input(irq: int) -> int:
    """The I/O APIC's input for an interrupt line.

    >>> io_apic_input(Irq.TIMER), int(io_apic_input(Irq.COM1))
    (2, 4)
    """
    return TIMER_INPUT if irq == Irq.TIMER else irq


class InterruptSystem:
    """All interrupt controllers of one board. When INTR changes, the board needs attention, and `on_intr` is told.

    :ivar pending: the level of INTR.
    """

    __slots__ = ("_attention", "_on_intr", "_on_nmi", "io_apic", "local_apic", "pending", "pic")

    def __init__(
        self, attention: Attention, on_nmi: Callable[[], None], on_intr: Callable[[bool], None] | None = None
    ) -> None:
        self._attention = attention
        self._on_intr = on_intr
        self._on_nmi = on_nmi
        self.pending = False
        self.pic = PicPair(self._pic_changed)
        self.local_apic: LocalApic | None = None
        self.io_apic: IoApic | None = None

    def connect_local_apic(self, local_apic: LocalApic) -> None:
        """The machine has a local APIC: from now on everything goes through it."""
        self.local_apic = local_apic
        local_apic.on_change = self.update
        local_apic.on_nmi = self._on_nmi
        self.update()

    def line(self, irq: int) -> InterruptLine:
        """The wire of IRQ 0 to 15, for a device to drive.

        :raises MonitorError: there is no such line for a device.
        """
        to_pic, number = self.pic.line(irq), io_apic_input(irq)

        def drive(high: bool) -> None:
            to_pic(high)
            if self.io_apic is not None:
                self.io_apic.set_line(number, high)

        return drive

    def can_deliver(self, irq: int) -> bool:
        """Whether a request made on this line now would raise INTR."""
        io_apic = self.io_apic
        return (self._reaches_processor() and self.pic.can_deliver(irq)) or (
            io_apic is not None and io_apic.can_deliver(io_apic_input(irq))
        )

    def acknowledge(self) -> int:
        """The INTA cycle: the vector of the interrupt to deliver, which is in service from then on."""
        local_apic = self.local_apic
        if local_apic is not None and (local_apic.interrupt_pending or not local_apic.passes_8259):
            return local_apic.acknowledge()
        return self.pic.acknowledge()

    def standing_order(self) -> StandingOrder | None:
        """What the processor may do by itself for now about a periodic interrupt, if there is one and nothing else."""
        local_apic, io_apic, master = self.local_apic, self.io_apic, self.pic.master
        if self.pending or self._on_intr is not None or (local_apic is not None and not local_apic.passes_8259):
            return None
        for irq, source in self.pic.sources.items():
            rises = source.rises()
            if (
                rises is not None
                and master.serves_alone(irq)
                and (io_apic is None or io_apic.ignores(io_apic_input(irq)))
            ):
                vector, in_service = master.vector_base | irq, master.in_service(irq)
                return StandingOrder(irq, vector, rises, in_service, MASTER_PORT, OCW2_EOI)
        return None

    def carried_out(self, order: StandingOrder, taken: int, in_service: bool) -> None:
        """The processor has taken so many interrupts by `order`; is the last one's handler still at work?"""
        if taken:
            self.pic.sources[order.irq].risen(order.rises.pulse + (taken - 1) * order.rises.period)
        self.pic.master.set_in_service(order.irq, in_service)

    def _reaches_processor(self) -> bool:
        return self.local_apic is None or self.local_apic.passes_8259

    def _pic_changed(self, high: bool) -> None:
        local_apic = self.local_apic
        if local_apic is not None:
            if high and not local_apic.passes_8259:
                local_apic.drive_lint0()
            high = local_apic.interrupt_pending or (high and local_apic.passes_8259)
        if high is not self.pending:
            self.pending = high
            self._attention.needed = True
            if self._on_intr is not None:
                self._on_intr(high)

    def update(self) -> None:
        """Drive INTR by what the controllers want now."""
        pending = self._wanted()
        if pending is not self.pending:
            self.pending = pending
            self._attention.needed = True
            if self._on_intr is not None:
                self._on_intr(pending)

    def _wanted(self) -> bool:
        """Does any controller want an interrupt?"""
        local_apic = self.local_apic
        if local_apic is None:
            return self.pic.master.int_output
        return local_apic.interrupt_pending or (self.pic.master.int_output and local_apic.passes_8259)

    def restored(self) -> None:
        """The controllers have taken up saved states: INTR is what they make of it, and nobody is told."""
        self.pending = self._wanted()
