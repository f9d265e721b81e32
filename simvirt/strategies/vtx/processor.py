"""The virtual processor of the strategy `vtx`: runs a guest in non-root mode, hands its VM exits to the dispatcher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from simvirt.errors import SnapshotError
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.machine import Stop
from simvirt.machine.vmx.control_registers import guest_view
from simvirt.machine.vmx.non_root import HostStop, NonRootProcessor
from simvirt.machine.vmx.vmcs import Vmcs
from simvirt.strategies.vtx import controls
from simvirt.strategies.vtx.dispatcher import DISPATCH
from simvirt.strategies.vtx.records import exit_record
from simvirt.x86.flags import Efer
from simvirt.x86.vmx import (
    EntryControls,
    ExitReason,
    InterruptionInformation,
    InterruptionType,
    PrimaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from simvirt.machine.board import Board
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.memory import AddressSpace
    from simvirt.vmm.exit_log import ExitLog
    from simvirt.x86.cpuid import CpuModel

_F: Final = VmcsField
_INJECTION: Final = int(_F.ENTRY_INTERRUPTION_INFORMATION)
_VALID: Final = 1 << 31
_WINDOW: Final = int(PrimaryControls.INTERRUPT_WINDOW_EXITING)
_LMA_CONTROL: Final = int(EntryControls.IA32E_MODE_GUEST)


@dataclass(frozen=True, slots=True)
class VtxSnapshot:
    """The virtual processor as a value."""

    count: int
    image: bytes
    vmcs: dict[int, int]
    stopped: bool
    """Did the simulation stop the guest, rather than a VM exit?"""


class VtxProcessor:
    """One virtual processor.

    :ivar cpu: the physical CPU; the guest's state lives in it.
    :ivar vmcs: what makes the guest exit, and why it did.
    """

    def __init__(self, cpu: Cpu, board: Board, space: AddressSpace, cpu_model: CpuModel, log: ExitLog) -> None:
        from simvirt.strategies.vtx.interpreter import VmBus

        self.cpu = cpu
        self.board = board
        self.log = log
        self.vmcs = Vmcs()
        controls.set_up(self.vmcs, cpu.engine.memory.view)
        self.bus = VmBus(cpu, board, space, cpu_model)
        self.non_root = NonRootProcessor(cpu, self.bus, self.vmcs)
        self._window = False
        self._skipped = 0
        self._stopped = False

    # ---------------------------------------------------------------------------------------- running

    @property
    def count(self) -> int:
        """Guest instructions retired."""
        return self.cpu.engine.count

    @property
    def interruptible(self) -> bool:
        """Can a maskable interrupt be injected now?"""
        return not self.vmcs.fields.get(_INJECTION, 0) & _VALID and self.cpu.interruptible

    @property
    def interrupts_enabled(self) -> bool:
        """Is IF set?"""
        return self.cpu.state.interrupt_flag

    def run(self, limit: int, *, window: bool) -> Stop:
        """Run the guest, exit by exit, until one concerns the devices or `limit` is reached."""
        if window is not self._window:
            self.set_window(window)
        skipped = self.board.clock.skipped
        if skipped != self._skipped:
            self._skipped = skipped
            self.non_root.set_tsc_offset(skipped)
        self._stopped = False
        enter, log = self.non_root.enter, self.log
        while True:
            reason = enter(limit)
            if isinstance(reason, HostStop):
                if reason is HostStop.LIMIT:
                    return self._limit()
                self._stopped = True
                return Stop.HALTED if reason is HostStop.HALTED else Stop.INTERRUPTED
            handler, intervention = DISPATCH[reason]
            number = log.note(reason, intervention)
            if log.listener is not None:
                log.listener(exit_record(self, number, reason, intervention))
            stop = handler(self)
            if stop is not None:
                return stop

    def _limit(self) -> Stop:
        """At the limit the PC's timer interrupts, if the VM's next timer is due there: so the VMM keeps its time."""
        deadline = self.board.next_deadline()
        self._stopped = deadline is None or self.board.clock.instruction_at(deadline) > self.count
        if not self._stopped:
            self._note(self.non_root.external_interrupt())
        return Stop.LIMIT

    def _note(self, reason: ExitReason | None) -> None:
        """Write down an exit that needs no handler."""
        if reason is not None:
            _, intervention = DISPATCH[reason]
            number = self.log.note(reason, intervention)
            if self.log.listener is not None:
                self.log.listener(exit_record(self, number, reason, intervention))

    def set_window(self, window: bool) -> None:
        """An interrupt waits and cannot be taken yet: exit as soon as it can. Or no more."""
        self._window = window
        primary = self.vmcs.read(_F.PRIMARY_CONTROLS)
        self.vmcs.write(_F.PRIMARY_CONTROLS, primary | _WINDOW if window else primary & ~_WINDOW)

    def inject_interrupt(self, vector: int) -> None:
        """Have the next VM entry deliver a virtual interrupt."""
        if self._window:
            if self._stopped:  # had the simulation not stopped here, the window would have made the guest exit
                self._note(self.non_root.operation.exit(ExitReason.INTERRUPT_WINDOW))
            self.set_window(False)
        self._stopped = False
        information = InterruptionInformation(vector, InterruptionType.EXTERNAL_INTERRUPT)
        self.vmcs.write(_F.ENTRY_INTERRUPTION_INFORMATION, information.encode())

    def request_stop(self) -> None:
        """Make the current or next run stop soon."""
        self.cpu.request_stop()

    # ---------------------------------------------------------------------------------------- state

    def guest_state(self) -> ArchitecturalState:
        """The processor's state, with CR0 and CR4 as the guest reads them."""
        state = ArchitecturalState.of(self.cpu.state)
        cr0, cr2, cr3, cr4 = state.control
        return replace(state, control=(guest_view(self.vmcs, 0, cr0), cr2, cr3, guest_view(self.vmcs, 4, cr4)))

    def set_guest_state(self, state: ArchitecturalState) -> None:
        """Load the guest's state: masked bits of CR0 and CR4 go to the read shadows."""
        vmcs = self.vmcs
        cr0, cr2, cr3, cr4 = state.control
        vmcs.write(_F.CR0_READ_SHADOW, cr0)
        vmcs.write(_F.CR4_READ_SHADOW, cr4)
        real = (cr0 & ~controls.CR0_MASK, cr2, cr3, cr4 | controls.CR4_MASK)
        replace(state, control=real).put(self.cpu.state)
        self.cpu.engine.flush_tlb()
        entry = vmcs.read(_F.ENTRY_CONTROLS)
        vmcs.write(_F.ENTRY_CONTROLS, entry | _LMA_CONTROL if state.efer & int(Efer.LMA) else entry & ~_LMA_CONTROL)
        vmcs.adopt(self.cpu)

    def save(self) -> VtxSnapshot:
        """Everything that the virtual processor knows."""
        return VtxSnapshot(self.count, self.cpu.engine.save_image(), self.vmcs.save(), self._stopped)

    def restore(self, state: Any) -> None:
        """Take up a saved state.

        :raises SnapshotError: it is the state of another kind of processor.
        """
        if not isinstance(state, VtxSnapshot):
            try:
                state = msgspec.convert(state, VtxSnapshot, strict=False)
            except msgspec.ValidationError as error:
                raise SnapshotError(f"the snapshot's processor is none of the strategy vtx: {error}") from error
        self.cpu.engine.restore_image(state.image)
        self.cpu.count = state.count
        self.vmcs.restore(state.vmcs)
        self._window = bool(self.vmcs.read(_F.PRIMARY_CONTROLS) & _WINDOW)
        self._skipped = self.vmcs.read(_F.TSC_OFFSET)
        self._stopped = state.stopped

    # ---------------------------------------------------------------------------------------- for the dispatcher

    def advance(self) -> None:
        """The VMM has emulated the guest's instruction: step over it, and count it as the guest's."""
        self.log.emulated_instructions += 1
        self.cpu.advance(self.vmcs.fields[_F.EXIT_INSTRUCTION_LENGTH])

    def inject_exception(self, vector: int, error_code: int | None = None) -> None:
        """Have the next VM entry deliver an exception, RIP being where its handler returns to."""
        vmcs = self.vmcs
        protected = self.cpu.state.protected_mode
        information = InterruptionInformation(
            vector, InterruptionType.HARDWARE_EXCEPTION, deliver_error_code=error_code is not None and protected
        )
        vmcs.write(_F.ENTRY_INTERRUPTION_INFORMATION, information.encode())
        vmcs.write(_F.ENTRY_EXCEPTION_ERROR_CODE, error_code or 0)

    @property
    def reason(self) -> ExitReason:
        """The basic exit reason of the last exit."""
        return ExitReason(self.vmcs.read(_F.EXIT_REASON) & 0xFFFF)
