"""The processor in VMX non-root operation: it runs the guest until a VM exit.

`NonRootProcessor.enter` is VMLAUNCH and VMRESUME: it checks the VMCS, injects an event if the VMCS says so, and runs.
Every event of the CPU is either completed as the bare processor would, or becomes a VM exit, by what the controls
say: `machine.vmx.exits` is that table. After an exit the VMCS's exit-information fields say what happened.

Guest time stops while the VMM works: the count of instructions is the guest's.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError
from simvirt.machine.delivery import Shutdown
from simvirt.machine.engine import DELIVER_EVERYTHING, DELIVER_NOTHING, NEVER
from simvirt.machine.events import (
    DebuggerHit,
    Event,
    Halt,
    Interrupted,
    InterruptWindow,
    LimitReached,
    NonMaskableInterrupt,
    X87ErrorReported,
)
from simvirt.machine.faults import EptRefused, ProcessorFault
from simvirt.machine.fills import PdpteLoad
from simvirt.machine.vmx import entry_checks, msr_areas, transitions
from simvirt.machine.vmx.capabilities import PREEMPTION_TIMER_RATE
from simvirt.machine.vmx.entry_rule import PDPTE_LOADING_FAILED, CheckKind, EntryCheck
from simvirt.machine.vmx.entry_rule import pin as pin_controls
from simvirt.machine.vmx.entry_rule import primary as primary_controls
from simvirt.machine.vmx.entry_rule import secondary as secondary_controls
from simvirt.machine.vmx.exits import EXITS
from simvirt.machine.vmx.guest_events import GuestEvents, Intercepted
from simvirt.machine.vmx.intercepts import intercepts
from simvirt.machine.vmx.non_root_operation import NonRootOperation
from simvirt.machine.vmx.vmcs import VmInstructionError
from simvirt.x86.exceptions import Vector
from simvirt.x86.vmx import (
    ExitControls,
    ExitReason,
    InterruptionInformation,
    InterruptionType,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.processor_bus import Bus
    from simvirt.machine.vmx.transitions import Transition
    from simvirt.machine.vmx.vmcs import Vmcs


class HostStop(Enum):
    """Why `enter` came back without a VM exit: the simulation stopped, not the guest."""

    LIMIT = "the instruction limit was reached"
    INTERRUPTED = "the host asked for a stop"
    BREAKPOINT = "a debugger's break- or watchpoint"
    HALTED = "the guest sleeps in HLT, which does not exit"


class VmEntryError(MonitorError):
    """VM entry failed on a control or host-state field: VMfailValid, the guest has not run."""

    def __init__(self, check: EntryCheck, error: VmInstructionError) -> None:
        self.check = check
        self.error = error
        super().__init__(
            f"VM entry failed (VM-instruction error {error.value}): this does not hold: {check.name} ({check.section})"
        )


_HOST_STOPS: Final[dict[type, HostStop]] = {Interrupted: HostStop.INTERRUPTED, DebuggerHit: HostStop.BREAKPOINT}
_F: Final = VmcsField
_EXIT_REASON: Final = int(_F.EXIT_REASON)
_LENGTH: Final = int(_F.EXIT_INSTRUCTION_LENGTH)
_VECTORING: Final = int(_F.IDT_VECTORING_INFORMATION)
_INJECTION: Final = int(_F.ENTRY_INTERRUPTION_INFORMATION)
_VALID: Final = 1 << 31
_MSR_COUNTS: Final = (_F.EXIT_MSR_STORE_COUNT, _F.EXIT_MSR_LOAD_COUNT, _F.ENTRY_MSR_LOAD_COUNT)
_ENTRY_FAILURE: Final = 1 << 31
_CONTROLS_AND_HOST: Final = frozenset({CheckKind.CONTROLS, CheckKind.HOST_STATE})
_GUEST_STATE: Final = frozenset({CheckKind.GUEST_STATE})
_NO_EXITS: Final = DELIVER_EVERYTHING & ~(1 << Vector.UD)
"""Exceptions that are never VM exits while the exception bitmap is 0; #UD can be an instruction of VMX. With MOV-DR
exiting #GP can be one, too."""


class NonRootProcessor:
    """A CPU that enters VMX non-root operation and runs there.

    :ivar vmcs: the current VMCS.
    :ivar operation: what the answers to events work on, and where exits are recorded.
    """

    def __init__(self, cpu: Cpu, bus: Bus, vmcs: Vmcs) -> None:
        self.cpu = cpu
        self.vmcs = vmcs
        self.operation = NonRootOperation(cpu, bus, vmcs)
        self._events = GuestEvents(self.operation)
        self._trap_flag = False
        self._timer = False
        self._timer_end = NEVER
        self._msr_areas = False
        self._transitions: tuple[Transition, ...] = ()
        self._transits = False
        self._keeps_tlb = True
        self._in_guest = False
        self._uses_ept = False
        self._pending: Event | None = None
        self._deliver = DELIVER_NOTHING
        cpu.engine.set_cpuid(())
        cpu.engine.follow_model(bus.cpu_model)
        vmcs.enter(cpu)

    # ---------------------------------------------------------------------------------------- VM entry

    def enter(self, limit: int) -> ExitReason | HostStop:
        """VM entry; the guest runs until a VM exit, or until exactly `limit` instructions are retired in all.

        :raises VmEntryError: a control or host-state field is bad.
        :raises VmxAbort: a VM exit cannot store or load an MSR.
        """
        reason = self._enter(limit)
        self._in_guest = type(reason) is HostStop
        if self._transits and not self._in_guest:
            self._finish_exit()
        return reason

    def _enter(self, limit: int) -> ExitReason | HostStop:
        vmcs = self.vmcs
        injects = vmcs.fields.get(_INJECTION, 0) & _VALID
        if vmcs.window_changed:
            self._take_up_window()
        if (vmcs.controls_changed or vmcs.guest_changed or injects) and (check := self._check_entry()) is not None:
            return self._fail_entry(ExitReason.ENTRY_FAILURE_GUEST_STATE, check.qualification)
        state = self.cpu.state
        loads_pdptes = not (self._in_guest or self._uses_ept) and state.pae_paging
        if loads_pdptes and self.cpu.engine.load_pdptes(state.cr3) is not PdpteLoad.LOADED:
            return self._fail_entry(ExitReason.ENTRY_FAILURE_GUEST_STATE, PDPTE_LOADING_FAILED)
        # After a stop of the simulation, which no VMM knows of, the guest goes on: that is no VM entry.
        if not (self._keeps_tlb or self._in_guest):
            self.cpu.engine.flush_tlb()
        if self._transits and not self._in_guest and (failed := self._begin_entry()):
            return self._fail_entry(ExitReason.ENTRY_FAILURE_MSR_LOADING, failed)
        try:
            if injects and self._events.inject(vmcs.fields[_INJECTION]):
                return self.operation.exit(ExitReason.MONITOR_TRAP_FLAG)
            if self._events.wait and (reason := self._events.begin()) is not None:
                return reason
            if self._events.asleep:
                return self._sleep()
            return self._run(limit)
        except Intercepted as exit_:
            return exit_.reason
        except EptRefused as refused:
            reason = self._events.ept_refused(refused)
            assert reason is not None, "in the midst of a delivery there is no virtualization exception"
            return reason
        except Shutdown:
            return self.operation.exit(ExitReason.TRIPLE_FAULT)
        finally:
            self.operation.delivering = None

    def _sleep(self) -> ExitReason | HostStop:
        """The guest was left asleep in HLT, and nothing has woken it."""
        if self._timer and self._timer_end <= self.cpu.engine.count:
            return self.operation.exit(ExitReason.PREEMPTION_TIMER_EXPIRED)
        return HostStop.HALTED

    def _run(self, limit: int) -> ExitReason | HostStop:
        """Run from event to event until one is a VM exit."""
        cpu, operation, events = self.cpu, self.operation, self._events
        start = cpu.engine.count
        target = min(limit, start + 1) if self._trap_flag else limit
        if self._timer:
            if self._timer_end <= start:
                return operation.exit(ExitReason.PREEMPTION_TIMER_EXPIRED)
            target = min(target, self._timer_end)
        while True:
            event = self._next(target)
            kind = type(event)
            if kind is LimitReached:
                if cpu.engine.count < target:
                    continue
                return self._target_reached(start, limit)
            if kind in _HOST_STOPS:
                return _HOST_STOPS[kind]
            if kind is InterruptWindow and not events.window:
                events.take_interrupt()
                continue
            reason = None
            sleeps = (kind is Halt and cpu.can_halt) or kind is X87ErrorReported
            try:
                reason = EXITS[kind](operation, event)
            except ProcessorFault as fault:
                cpu.raise_fault(fault)
            except EptRefused as refused:
                reason = events.ept_refused(refused)
            if reason is not None:
                return reason
            if sleeps:
                events.set_asleep(asleep=True)
                return HostStop.HALTED
            if self._trap_flag:
                return operation.exit(ExitReason.MONITOR_TRAP_FLAG)

    def _next(self, target: int) -> Event:
        """Run to the next event, or take the one that a VM entry is to begin with."""
        cpu, events = self.cpu, self._events
        event = self._pending
        if event is not None:
            self._pending = None
            return event
        if not (events.nmi_exits and cpu.engine.nmi_pending):
            return cpu.run(target, window=events.wants_window, deliver=self._deliver)
        if not cpu.state.interrupt_shadow:
            return NonMaskableInterrupt()
        # The NMI of the PC exits behind the instruction that MOV SS or STI protects.
        return cpu.run(min(target, cpu.engine.count + 1), window=events.wants_window, deliver=DELIVER_NOTHING)

    def _target_reached(self, start: int, limit: int) -> ExitReason | HostStop:
        """Exactly as many instructions as wanted are retired: by the monitor trap flag, the timer, or the caller."""
        count = self.cpu.engine.count
        if self._trap_flag and count > start:
            return self.operation.exit(ExitReason.MONITOR_TRAP_FLAG)
        if self._timer and count == self._timer_end < limit:
            return self.operation.exit(ExitReason.PREEMPTION_TIMER_EXPIRED)
        return HostStop.LIMIT

    # ---------------------------------------------------------------------------------------- transitions

    def _begin_entry(self) -> int:
        """Load MSRs and start the preemption timer; the number of the MSR-area entry that failed, 0 if none did."""
        fields = self.vmcs.fields
        after_exit = not fields.get(_EXIT_REASON, _ENTRY_FAILURE) & _ENTRY_FAILURE
        for transition in self._transitions:
            transition.enter(self.cpu, self.vmcs, after_exit=after_exit)
        if self._timer:
            ticks = fields.get(_F.PREEMPTION_TIMER_VALUE, 0)
            self._timer_end = self.cpu.engine.count + (ticks << PREEMPTION_TIMER_RATE)
        return msr_areas.load_on_entry(self.operation) if self._msr_areas else 0

    def _finish_exit(self) -> None:
        """Save the preemption timer, store and load MSRs (SDM Vol. 3C §28.3.5, §28.4, §28.6)."""
        vmcs = self.vmcs
        if not vmcs.fields[_EXIT_REASON] & _ENTRY_FAILURE:
            for transition in self._transitions:
                transition.leave(self.cpu, vmcs)
        if self._timer and vmcs.fields.get(_F.EXIT_CONTROLS, 0) & ExitControls.SAVE_PREEMPTION_TIMER:
            left = max(self._timer_end - self.cpu.engine.count, 0)
            vmcs.fields[_F.PREEMPTION_TIMER_VALUE] = left >> PREEMPTION_TIMER_RATE
        if self._msr_areas and not vmcs.fields[_EXIT_REASON] & _ENTRY_FAILURE:
            msr_areas.leave(self.operation)

    def _check_entry(self) -> EntryCheck | None:
        """Make the checks of VM entry that what has changed calls for, and take up the controls.

        :return: the check that the guest state fails.
        :raises VmEntryError: a control or host-state field is bad.
        """
        vmcs = self.vmcs
        if vmcs.controls_changed:
            self._take_up_controls()
        if vmcs.guest_changed:
            if (failure := entry_checks.first_failure(vmcs, _GUEST_STATE)) is not None:
                return failure
            self._events.take_up_guest_state()
        if (
            vmcs.fields.get(_INJECTION, 0) & _VALID
            and (failure := entry_checks.event_injection_failure(vmcs)) is not None
        ):
            if failure.kind is CheckKind.CONTROLS:
                raise self._entry_error(failure)
            return failure
        return None

    def external_interrupt(self, vector: int = 0) -> ExitReason | None:
        """An interrupt of the PC arrives: a VM exit if external-interrupt exiting is 1.

        With "acknowledge interrupt on exit" the processor takes the vector from the interrupt controller and leaves it
        in the interruption information; without, that is invalid (SDM Vol. 3C §28.2.2). An interrupt that does not exit
        is delivered through the guest's IDT, as soon as the guest can take it after the next VM entry.
        """
        vmcs = self.vmcs
        if not vmcs.read(_F.PIN_BASED_CONTROLS) & PinControls.EXTERNAL_INTERRUPT_EXITING:
            self._events.interrupt = vector
            return None
        reason = self.operation.exit(ExitReason.EXTERNAL_INTERRUPT)
        if vmcs.read(_F.EXIT_CONTROLS) & ExitControls.ACKNOWLEDGE_INTERRUPT_ON_EXIT:
            information = InterruptionInformation(vector, InterruptionType.EXTERNAL_INTERRUPT)
            vmcs.fields[_F.EXIT_INTERRUPTION_INFORMATION] = information.encode()
        self._in_guest = False
        if self._transits:
            self._finish_exit()
        return reason

    def meet(self, event: Event) -> None:
        """Let the next VM entry begin with this event: what an instruction that the VMM ran met on its way."""
        self._pending = event

    def _entry_error(self, check: EntryCheck) -> VmEntryError:
        error = (
            VmInstructionError.ENTRY_INVALID_CONTROL_FIELDS
            if check.kind is CheckKind.CONTROLS
            else VmInstructionError.ENTRY_INVALID_HOST_STATE
        )
        self.vmcs.fields[_F.VM_INSTRUCTION_ERROR] = error
        return VmEntryError(check, error)

    def _fail_entry(self, reason: ExitReason, qualification: int = 0) -> ExitReason:
        """The other style of failure: it looks like a VM exit, with bit 31 of the reason set (SDM Vol. 3C §27.8)."""
        self.operation.exit(reason, qualification)
        self.vmcs.fields[_EXIT_REASON] |= _ENTRY_FAILURE
        return reason

    def _take_up_window(self) -> None:
        """The VMM has changed "interrupt-window exiting", which every processor offers and no other check looks at."""
        operation = self.operation
        self.vmcs.window_changed = False
        operation.primary = primary_controls(self.vmcs)
        self._events.take_up_controls(operation.pin, operation.primary)

    def _take_up_controls(self) -> None:
        """Check controls and host state, and set the CPU up to hand over what they ask for."""
        vmcs = self.vmcs
        failure = entry_checks.first_failure(vmcs, _CONTROLS_AND_HOST)
        if failure is not None:
            raise self._entry_error(failure)
        vmcs.controls_changed = False
        operation = self.operation
        operation.pin = pin_controls(vmcs)
        operation.primary = primary = primary_controls(vmcs)
        operation.secondary = secondary = secondary_controls(vmcs)
        operation.exception_bitmap = exception_bitmap = vmcs.read(_F.EXCEPTION_BITMAP)
        self._events.take_up_controls(operation.pin, primary)
        self._trap_flag = bool(primary & PrimaryControls.MONITOR_TRAP_FLAG)
        self._timer = bool(operation.pin & PinControls.ACTIVATE_PREEMPTION_TIMER)
        self._msr_areas = any(vmcs.read(count) for count in _MSR_COUNTS)
        self._transitions = transitions.chosen(vmcs)
        vmcs.keep_apart(frozenset(transition.field for transition in self._transitions))
        self._transits = self._timer or self._msr_areas or bool(self._transitions)
        cpu = self.cpu
        self._keeps_tlb = bool(secondary & SecondaryControls.ENABLE_VPID)
        self._uses_ept = bool(secondary & SecondaryControls.ENABLE_EPT)
        cpu.engine.set_ept(vmcs.read(_F.EPT_POINTER) if secondary & SecondaryControls.ENABLE_EPT else 0)
        cpu.engine.set_modification_log(vmcs.read(_F.PML_ADDRESS) if secondary & SecondaryControls.ENABLE_PML else 0)
        # With another match than 0 a page fault may exit though the bitmap is 0.
        filtered = exception_bitmap or vmcs.read(_F.PAGE_FAULT_ERROR_CODE_MATCH)
        cpu.exception_filter = self._events.filter_exception if filtered else None
        self._deliver = DELIVER_NOTHING if filtered or self._trap_flag else _NO_EXITS
        if primary & PrimaryControls.MOV_DR_EXITING:
            self._deliver &= ~(1 << Vector.GP)
        cpu.intercept(intercepts(vmcs, cpu.state, primary, secondary))
        offset = vmcs.read(_F.TSC_OFFSET) if primary & PrimaryControls.USE_TSC_OFFSETTING else 0
        watched = primary & PrimaryControls.RDTSC_EXITING or secondary & SecondaryControls.USE_TSC_SCALING
        rdtscp = bool(secondary & SecondaryControls.ENABLE_RDTSCP) and self.operation.bus.cpu_model.has_rdtscp
        cpu.engine.set_native_tsc(None if watched else offset, rdtscp=rdtscp)

    def set_tsc_offset(self, offset: int) -> None:
        """VMWRITE of the TSC offset, without the cost of taking up all controls."""
        self.vmcs.fields[_F.TSC_OFFSET] = offset
        if self.operation.primary & PrimaryControls.USE_TSC_OFFSETTING:
            self.cpu.engine.tsc_base = offset
