"""The virtual processor of the strategy `vtx`, as the machine's loop sees it.

It runs the guest in non-root mode and hands the VM exits to the dispatcher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from simvirt.errors import SnapshotError
from simvirt.machine.clock import WORD
from simvirt.machine.machine import Stop
from simvirt.machine.vmx.non_root import HostStop
from simvirt.strategies.vtx.dispatcher import DISPATCH
from simvirt.strategies.vtx.records import exit_record
from simvirt.vmm.kvm_interface import KvmState  # noqa: TC001 - decoding a VtxSnapshot needs it at run time
from simvirt.x86.vmx import ExitReason, VmcsField

if TYPE_CHECKING:
    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.breakpoints import Breakpoints
    from simvirt.strategies.vtx.vcpu import BoardVcpu
    from simvirt.vmm.host import Host
    from simvirt.vmm.kvm_interface import KvmInterface

_F: Final = VmcsField


@dataclass(frozen=True, slots=True)
class VtxSnapshot:
    """The virtual processor as a value."""

    count: int
    image: bytes
    vmcs: dict[int, int]
    stopped: bool
    """Did the simulation stop the guest, rather than a VM exit?"""
    absent_page_tables: tuple[int, ...] = ()
    """As `VmMemory.absent_page_tables`; the EPT is built anew from it."""
    nmi_pending: bool = False
    paravirtual: KvmState | None = None


_STOPS: Final = {
    HostStop.HALTED: Stop.HALTED,
    HostStop.INTERRUPTED: Stop.INTERRUPTED,
    HostStop.BREAKPOINT: Stop.BREAKPOINT,
}


class VtxProcessor:
    """One virtual processor: a virtual CPU, and the dispatcher for its VM exits."""

    def __init__(self, vcpu: BoardVcpu, host: Host) -> None:
        self.vcpu = vcpu
        self._host = host
        self._of_others = host.elapsed - self.count
        self._slept = False
        self._time_offset = 0
        self._stopped = False

    # ---------------------------------------------------------------------------------------- running

    @property
    def count(self) -> int:
        """Guest instructions retired."""
        return self.vcpu.count

    @property
    def interruptible(self) -> bool:
        """Can a maskable interrupt be injected now?"""
        return not self.vcpu.injects and self.vcpu.cpu.interruptible

    @property
    def interrupts_enabled(self) -> bool:
        """Is IF set?"""
        return self.vcpu.cpu.state.interrupt_flag

    @property
    def nmi_ready(self) -> bool:
        """Is a virtual NMI pending that nothing holds back?"""
        return self.vcpu.nmi_ready

    @property
    def nmi_blocked(self) -> bool:
        """Is the guest handling a virtual NMI?"""
        return self.vcpu.cpu.state.nmi_blocked

    def raise_nmi(self) -> None:
        """An edge on the virtual NMI pin: the VMM injects an NMI, once the guest can take it."""
        self.vcpu.nmi_pending = self.vcpu.board.attention.needed = True

    def assert_ignne(self) -> None:
        """IGNNE#: x87 errors are ignored for as long as one is pending."""
        self.vcpu.cpu.state.assert_ignne()

    def run(self, limit: int, *, window: bool) -> Stop:
        """Run the guest, exit by exit, until one concerns the devices or `limit` is reached."""
        try:
            return self._run(limit, window=window)
        finally:
            if self.vcpu.local_apic is not None:  # the guest may have raised its task priority without an exit
                self.vcpu.local_apic.look_at_task_priority()

    def _run(self, limit: int, *, window: bool) -> Stop:
        vcpu = self.vcpu
        if window is not vcpu.window:
            vcpu.set_window(window)
        clock = vcpu.board.clock
        offset = clock.skipped + clock.time_stamp_adjustment & WORD
        if offset != self._time_offset:
            self._time_offset = offset
            vcpu.non_root.set_tsc_offset(offset)
        if vcpu.nmi_pending:
            vcpu.offer_nmi()
        if vcpu.paravirtual is not None:
            self._account_for_others(vcpu.paravirtual)
        self._stopped = False
        enter, log, attention = vcpu.non_root.enter, vcpu.log, vcpu.board.attention
        while True:
            reason = enter(limit)
            if isinstance(reason, HostStop):
                if reason is HostStop.LIMIT:
                    return self._limit()
                self._stopped = True
                self._slept = reason is HostStop.HALTED
                return _STOPS[reason]
            handler, intervention = DISPATCH[reason]
            number = log.note(reason, intervention)
            if log.listener is not None:
                log.listener(exit_record(vcpu, number, reason, intervention))
            stop = handler(vcpu)
            if stop is not None:
                self._slept = stop is Stop.HALTED
                return stop
            if attention.needed:
                return Stop.HANDLED

    def _account_for_others(self, paravirtual: KvmInterface) -> None:
        """What other VMs have run since this one ran was stolen from it, unless it slept."""
        of_others = self._host.elapsed - self.count
        gone = of_others - self._of_others
        self._of_others = of_others
        if gone and not self._slept:
            paravirtual.stolen(gone)

    def _limit(self) -> Stop:
        """At the limit the PC's timer interrupts, if the VM's next timer is due there: so the VMM keeps its time."""
        board = self.vcpu.board
        deadline = board.next_deadline()
        self._stopped = deadline is None or board.clock.instruction_at(deadline) > self.count
        if not self._stopped:
            self._note(self.vcpu.non_root.external_interrupt())
        return Stop.LIMIT

    def _note(self, reason: ExitReason | None) -> None:
        """Write down an exit that needs no handler."""
        if reason is not None:
            _, intervention = DISPATCH[reason]
            log = self.vcpu.log
            number = log.note(reason, intervention)
            if log.listener is not None:
                log.listener(exit_record(self.vcpu, number, reason, intervention))

    def inject_interrupt(self, vector: int) -> None:
        """Have the next VM entry deliver a virtual interrupt."""
        vcpu = self.vcpu
        if vcpu.window:
            if self._stopped:  # had the simulation not stopped here, the window would have made the guest exit
                self._note(vcpu.non_root.operation.exit(ExitReason.INTERRUPT_WINDOW))
            vcpu.set_window(False)
        self._stopped = False
        vcpu.inject_interrupt(vector)

    @property
    def breakpoints(self) -> Breakpoints:
        """A debugger's break- and watchpoints."""
        return self.vcpu.cpu.breakpoints

    def set_a20(self, is_open: bool) -> None:
        """Let the guest's address line 20 through, or not: guest-physical addresses are masked."""
        self.vcpu.cpu.engine.set_a20(is_open)

    def request_stop(self) -> None:
        """Make the current or next run stop soon."""
        self.vcpu.cpu.request_stop()

    # ---------------------------------------------------------------------------------------- state

    def guest_state(self) -> ArchitecturalState:
        """The processor's state, with CR0 and CR4 as the guest reads them."""
        return self.vcpu.guest_state()

    def set_guest_state(self, state: ArchitecturalState) -> None:
        """Load the guest's state: masked bits of CR0 and CR4 go to the read shadows."""
        self.vcpu.set_guest_state(state)

    def save(self) -> VtxSnapshot:
        """Everything that the virtual processor knows."""
        vcpu = self.vcpu
        return VtxSnapshot(
            self.count,
            vcpu.cpu.engine.save_image(),
            vcpu.vmcs.save(),
            self._stopped,
            vcpu.memory.absent_page_tables,
            vcpu.nmi_pending,
            None if vcpu.paravirtual is None else vcpu.paravirtual.save(),
        )

    def restore(self, state: Any) -> None:
        """Take up a saved state.

        :raises SnapshotError: it is the state of another kind of processor.
        """
        if not isinstance(state, VtxSnapshot):
            try:
                state = msgspec.convert(state, VtxSnapshot, strict=False)
            except msgspec.ValidationError as error:
                raise SnapshotError(f"the snapshot's processor is none of the strategy vtx: {error}") from error
        cpu, vmcs = self.vcpu.cpu, self.vcpu.vmcs
        cpu.engine.restore_image(state.image)
        cpu.count = state.count
        vmcs.restore(state.vmcs)
        self.vcpu.memory.restore(state.absent_page_tables)
        self._time_offset = vmcs.read(_F.TSC_OFFSET)
        self._stopped = state.stopped
        self.vcpu.nmi_pending = state.nmi_pending
        if self.vcpu.paravirtual is not None and state.paravirtual is not None:
            self.vcpu.paravirtual.restore(state.paravirtual)
        self._of_others = self._host.elapsed - self.count
