"""Delivery as a processor does it: into handlers, with what faults on the way, to the triple fault if need be.

`machine.interrupts` enters one handler, or faults. What becomes of such a fault is here: the table of SDM Vol. 3A §6.15
makes another exception of it, a double fault, or the end. So is what decides when an interrupt is taken (§6.7, §6.8,
§6.9), and the choice between the reference and native code, which does the usual cases.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from simvirt.machine import interrupts
from simvirt.machine.debug_registers import GENERAL_DETECT
from simvirt.machine.delivery_log import FaultRecord
from simvirt.machine.engine import DELIVER_EVERYTHING, DELIVER_NOTHING
from simvirt.machine.faults import EptRefused, ProcessorFault
from simvirt.machine.interrupts import Interruption, Source
from simvirt.x86.exceptions import Escalation, Vector, escalate
from simvirt.x86.flags import DR6_BREAKPOINTS
from simvirt.x86.registers import SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.engine import Engine
    from simvirt.machine.linear_memory import LinearMemory
    from simvirt.machine.state import ProcessorState
    from simvirt.machine.task_switch import TaskSwitch

    ExceptionFilter = Callable[[int, int | None, int | None, Interruption | None], None]
    """Takes vector, error code, exit qualification, and what was being delivered when it struck.

    The qualification is the linear address of a page fault, the conditions of a debug exception, None for others.
    """


class Shutdown(Exception):  # noqa: N818 - a state of the processor, not an error of this program
    """The processor has met an exception while delivering a double fault: the triple fault."""


class Livelock(Exception):  # noqa: N818 - the guest's doing, not an error of this program
    """The processor delivers interrupts and exceptions for ever and retires no instruction.

    A handler of #UD whose own first instruction is undefined does it: a real processor is as busy until somebody
    resets it. Instructions do not count on, so no budget of instructions would end it.
    """


class Delivery(ABC):
    """The part of a processor that enters handlers.

    :ivar engine: what executes the instructions.
    :ivar state: the architectural state, live.
    :ivar memory: linear memory, as the processor's own accesses see it.
    :ivar native_delivery: what may be delivered to the guest without coming back to Python (`Engine.run`). An observer
        that wants to see an exception as an event takes it out of this set.
    """

    def prepare_delivery(self, engine: Engine, state: ProcessorState, memory: LinearMemory) -> None:
        """Begin with nobody who wants to hear of anything."""
        self.engine = engine
        self.state = state
        self.memory = memory
        self.native_delivery = DELIVER_EVERYTHING
        self.undelivered: Interruption | None = None
        """What was being delivered when the EPT refused an access."""
        self.nmi_window = False
        """Report when an NMI could be taken, whether one is pending or not (VMX's NMI-window exiting)."""
        self.iret_unblocks_nmi = True
        """Does IRET end blocking by NMI? Not in VMX non-root operation where NMIs exit and are not virtual."""
        self.nmi_unblocked_at = -1
        """The count of instructions at which an IRET has ended blocking by NMI and has met nothing else yet."""
        self.exception_filter: ExceptionFilter | None = None
        """Sees every exception before it is delivered, and may raise something to prevent that.

        VMX non-root mode consults its exception bitmap in it.
        """
        self.on_delivery: Callable[[Interruption], None] | None = None
        """Told of every interrupt and exception that has been delivered, when its handler is next."""

    @abstractmethod
    def through_task_gate(self, task: TaskSwitch, what: Interruption) -> None:
        """Switch to the task that a task gate of the IDT names.

        :raises ProcessorFault: of the old task or of the new one.
        """

    # ---------------------------------------------------------------------------------------- when

    @property
    def interruptible(self) -> bool:
        """Can a maskable interrupt be taken now?"""
        return self.state.interruptible

    @property
    def nmi_ready(self) -> bool:
        """Is an NMI pending that can be taken now?

        Not while another is being handled, nor in a shadow: that of MOV SS holds it back in any case, and that of STI
        may, which it does here as it does for KVM's guests (SDM Vol. 3A §6.8.3, Vol. 3C §26.2, §27.3.1.5).
        """
        state = self.state
        pending = self.engine.nmi_pending or self.nmi_window
        return pending and not state.nmi_blocked and not state.interrupt_shadow

    # ---------------------------------------------------------------------------------------- what

    def raise_exception(
        self, vector: Vector, error_code: int | None = None, cr2: int | None = None, *, condition: int = 0
    ) -> None:
        """Deliver an exception through the IDT, RIP being what its handler returns to.

        `condition` is what DR6 is to show of a debug exception.

        :raises Shutdown: a triple fault.
        """
        self.deliver(Interruption(vector, Source.EXCEPTION, self.state.rip, error_code), cr2, condition=condition)

    def raise_fault(self, fault: ProcessorFault) -> None:
        """Deliver an exception that the processor's own work met."""
        self.raise_exception(fault.vector, fault.error_code, fault.cr2, condition=fault.condition)

    def deliver_external_interrupt(self, vector: int) -> None:
        """Take a maskable interrupt.

        :raises Shutdown: a triple fault.
        """
        if not self._interrupt_natively(vector):
            self._deliver(Interruption(vector, Source.EXTERNAL, self.state.rip), None, 0)

    def raise_nmi(self) -> None:
        """An edge on the NMI pin: an NMI is pending until it is delivered. One is kept, however many edges come."""
        self.engine.nmi_pending = True

    def deliver_nmi(self) -> None:
        """Take the pending NMI: vector 2, and no further one until an IRET is executed (SDM Vol. 3A §6.7.1).

        :raises Shutdown: a triple fault.
        """
        engine = self.engine
        engine.nmi_pending = False
        engine.block_nmi(True)
        self.deliver(Interruption(Vector.NMI, Source.NMI, self.state.rip))

    def unblock_nmi(self) -> None:
        """IRET is executed: it ends blocking by NMI even if it faults (SDM Vol. 3C §26.3)."""
        if self.state.nmi_blocked and self.iret_unblocks_nmi:
            self.engine.block_nmi(False)
            self.nmi_unblocked_at = self.engine.count

    def struck_iret(self) -> bool:
        """Has what the processor has just met been met by an IRET that has ended blocking by NMI? To be asked once."""
        struck, self.nmi_unblocked_at = self.nmi_unblocked_at == self.engine.count, -1
        return struck

    def deliver(self, what: Interruption, cr2: int | None = None, *, condition: int = 0) -> bool:
        """Deliver `what`; exceptions on the way escalate by the table of SDM Vol. 3A §6.15.

        :return: was `what` itself delivered, rather than an exception that it met?
        :raises Shutdown: a triple fault.
        :raises Livelock: `FRUITLESS_DELIVERIES` of them have been delivered since an instruction retired.
        """
        filtered = self.exception_filter is not None and what.source is Source.EXCEPTION
        usual = not condition and not filtered
        if usual and self._deliver_natively(what.vector, what.source, what.return_rip, what.error_code, cr2):
            delivered = True
        else:
            delivered = self._deliver(what, cr2, condition)
        self.nmi_unblocked_at = -1
        return delivered

    def _deliver(self, what: Interruption, cr2: int | None, condition: int) -> bool:
        """As `deliver`, by the reference."""
        filtered = self.exception_filter is not None and what.source is Source.EXCEPTION
        if not self.engine.deliveries.begin(self.engine.count):
            raise Livelock
        if filtered:
            self._filter(what.vector, what.error_code, condition if what.vector == Vector.DB else cr2, None)
        if condition:
            self._show_condition(condition)
        return self.deliver_on_the_way(what, cr2)

    def deliver_on_the_way(self, what: Interruption, cr2: int | None = None) -> bool:
        """Deliver an exception that was met while another event was being delivered; returns as `deliver`.

        :raises Shutdown: a triple fault.
        """
        self._begin(what, cr2)
        return self.deliver_anew(what)

    def deliver_anew(self, what: Interruption) -> bool:
        """Take up a delivery that an EPT violation ended; returns as `deliver`.

        :raises Shutdown: a triple fault.
        """
        wanted = what.vector, what.source
        while True:
            try:
                self._enter_handler(what)
            except ProcessorFault as fault:
                what, cr2 = self._escalate(what, fault)
                self._begin(what, cr2)
            else:
                self.engine.deliveries.complete(what.vector)
                return (what.vector, what.source) == wanted

    def _begin(self, what: Interruption, cr2: int | None) -> None:
        if what.source is Source.EXCEPTION:
            self._remember(what.vector, what.error_code, cr2)
        if cr2 is not None:
            self.state.set_control_register(2, cr2)

    def _escalate(self, what: Interruption, fault: ProcessorFault) -> tuple[Interruption, int | None]:
        """What is to be delivered when a fault strikes in the delivery of `what`, and its CR2.

        :raises Shutdown: nothing any more.
        """
        self._filter(fault.vector, fault.error_code, fault.cr2, what)
        rip = self.state.rip
        outcome = escalate(what.vector if what.source is Source.EXCEPTION else None, fault.vector)
        if outcome is Escalation.SHUTDOWN:
            self._remember(fault.vector, fault.error_code, fault.cr2)
            raise Shutdown from None
        if outcome is Escalation.DOUBLE_FAULT:
            self._filter(Vector.DF, 0, None, None)
            if fault.cr2 is not None:
                self.state.set_control_register(2, fault.cr2)
            return Interruption(Vector.DF, Source.EXCEPTION, rip, 0), None
        return Interruption(fault.vector, Source.EXCEPTION, rip, fault.error_code), fault.cr2

    def _enter_handler(self, what: Interruption) -> None:
        """Through the IDT or IVT, with no escalation: a fault on the way, or what the EPT refuses, is raised."""
        if not self.state.protected_mode and what.error_code is not None:
            what = Interruption(what.vector, what.source, what.return_rip)
        try:
            task = interrupts.deliver(self.state, self.memory, what)
            if task is not None:
                self.through_task_gate(task, what)
        except EptRefused:
            self.undelivered = what
            raise
        if self.on_delivery is not None:
            self.on_delivery(what)

    def _show_condition(self, condition: int) -> None:
        """A debug exception begins: DR6 shows why, and its handler may use debug registers (SDM Vol. 3B §18.3.1.3)."""
        state = self.state
        state.set_debug_register(6, state.debug_register(6) & ~DR6_BREAKPOINTS | condition)
        state.set_debug_register(7, state.debug_register(7) & ~GENERAL_DETECT)

    def _filter(self, vector: int, error_code: int | None, cr2: int | None, during: Interruption | None) -> None:
        if self.exception_filter is not None:
            self.exception_filter(vector, error_code, cr2, during)

    def _remember(self, vector: int, error_code: int | None, cr2: int | None) -> None:
        """Add an exception to the chain that a post-mortem prints."""
        state = self.state
        cs = state.selector(SegmentRegister.CS)
        self.engine.deliveries.fault_chain.append(
            FaultRecord(self.engine.count, vector, error_code, cr2, cs, state.rip, int(state.cpl))
        )

    def _deliver_natively(
        self, vector: int, source: Source, return_rip: int, error_code: int | None = None, cr2: int | None = None
    ) -> bool:
        """Deliver an interrupt or exception in native code, if nothing about it is unusual."""
        if self.native_delivery == DELIVER_NOTHING or self.on_delivery is not None:
            return False
        return self.engine.deliver(vector, source, return_rip, error_code, cr2)

    def _interrupt_natively(self, vector: int) -> bool:
        """As `_deliver_natively`, for a maskable interrupt."""
        if self.native_delivery == DELIVER_NOTHING or self.on_delivery is not None:
            return False
        return self.engine.interrupt(vector)
