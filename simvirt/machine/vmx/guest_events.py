"""Events of a guest in VMX non-root operation: injected by a VM entry, pending at it, met on the way; and their exits.

Sources: SDM Vol. 3C §26.2, §26.3, §27.6, §27.7, §28.2.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.events import NonMaskableInterrupt, SoftwareInterruptKind
from simvirt.machine.interrupts import Interruption, Source
from simvirt.machine.vmx.exits import EXITS
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import DR6_BREAKPOINTS
from simvirt.x86.vmx import (
    ActivityState,
    ExitReason,
    InterruptionInformation,
    InterruptionType,
    PendingDebugExceptions,
    PinControls,
    PrimaryControls,
    VmcsField,
)
from simvirt.x86.vmx import TaskSwitch as TaskSwitchQualification

if TYPE_CHECKING:
    from simvirt.machine.faults import EptRefused
    from simvirt.machine.task_switch import TaskSwitch
    from simvirt.machine.vmx.non_root_operation import NonRootOperation

_F: Final = VmcsField
_LENGTH: Final = int(_F.EXIT_INSTRUCTION_LENGTH)
_VECTORING: Final = int(_F.IDT_VECTORING_INFORMATION)
_INJECTION: Final = int(_F.ENTRY_INTERRUPTION_INFORMATION)
_VALID: Final = 1 << 31
_NMI_UNBLOCKING: Final = 1 << 12
_DUE: Final = int(PendingDebugExceptions.ENABLED_BREAKPOINT | PendingDebugExceptions.BS)
"""With one of them a debug exception is pending; the others only tell of what it is."""
_CONDITIONS: Final = int(DR6_BREAKPOINTS | PendingDebugExceptions.BS)
"""Those bits stand at the same places in DR6."""
_SOFTWARE_TYPES: Final = {
    SoftwareInterruptKind.INT_N: InterruptionType.SOFTWARE_INTERRUPT,
    SoftwareInterruptKind.INT3: InterruptionType.SOFTWARE_EXCEPTION,
    SoftwareInterruptKind.INTO: InterruptionType.SOFTWARE_EXCEPTION,
    SoftwareInterruptKind.INT1: InterruptionType.PRIVILEGED_SOFTWARE_EXCEPTION,
}


class Intercepted(Exception):  # noqa: N818 - a VM exit, not an error
    """An exception that was to be delivered, or a task switch, became a VM exit."""

    def __init__(self, reason: ExitReason) -> None:
        self.reason = reason
        super().__init__(reason.name)


class GuestEvents:
    """What happens to the guest besides its instructions.

    :ivar window: "interrupt-window exiting". `wants_window`: stop when the guest can take an interrupt.
    :ivar nmi_exits: "NMI exiting".
    :ivar asleep: the activity state is HLT.
    :ivar interrupt: the vector of an interrupt of the PC that does not exit, and waits for the guest to take it.
    """

    def __init__(self, operation: NonRootOperation) -> None:
        self.operation = operation
        self.cpu = operation.cpu
        self.vmcs = operation.vmcs
        self.window = self.nmi_exits = self.asleep = False
        self.interrupt: int | None = None
        self._debug_exceptions = 0
        self._injecting = False

    # ---------------------------------------------------------------------------------------- VM entry

    def take_up_controls(self, pin: int, primary: int) -> None:
        """The processor is this guest's: NMIs and windows go by its controls (SDM Vol. 3C §25.6.1, §25.6.2)."""
        self.cpu.task_switch_filter = self._task_switch
        self.window = bool(primary & PrimaryControls.INTERRUPT_WINDOW_EXITING)
        self.nmi_exits = bool(pin & PinControls.NMI_EXITING)
        self.cpu.nmi_window = bool(primary & PrimaryControls.NMI_WINDOW_EXITING)
        self.cpu.iret_unblocks_nmi = not self.nmi_exits or bool(pin & PinControls.VIRTUAL_NMIS)

    def take_up_guest_state(self) -> None:
        """What the VMM has written to the guest-state area and no register holds."""
        vmcs = self.vmcs
        pending = vmcs.read(_F.GUEST_PENDING_DEBUG_EXCEPTIONS)
        vmcs.entered()
        self.asleep = vmcs.read(_F.GUEST_ACTIVITY_STATE) == ActivityState.HLT
        is_due = pending & _DUE and not self.cpu.state.shadow_of_mov_ss
        self._debug_exceptions = pending & _CONDITIONS if is_due else 0

    @property
    def wait(self) -> bool:
        """Is there something that `begin` has to look at?"""
        return self.asleep or self._debug_exceptions != 0 or self.interrupt is not None

    @property
    def wants_window(self) -> bool:
        """Stop when the guest can take an interrupt?"""
        return self.window or self.interrupt is not None

    def begin(self) -> ExitReason | None:
        """What is pending at VM entry, or wakes the guest from HLT: delivered, or a VM exit."""
        cpu = self.cpu
        pending, self._debug_exceptions = self._debug_exceptions, 0
        if pending:
            self.set_asleep(asleep=False)
            cpu.raise_exception(Vector.DB, condition=pending)
        elif self.asleep and cpu.nmi_ready:
            reason: ExitReason | None = EXITS[NonMaskableInterrupt](self.operation, NonMaskableInterrupt())
            if reason is None:
                self.set_asleep(asleep=False)
            return reason
        elif self.asleep and self.window and cpu.interruptible:
            return self.operation.exit(ExitReason.INTERRUPT_WINDOW)
        elif self.interrupt is not None and cpu.interruptible:
            self.take_interrupt()
        return None

    def take_interrupt(self) -> None:
        """An interrupt of the PC that does not exit is the guest's, as outside VMX."""
        assert self.interrupt is not None
        vector, self.interrupt = self.interrupt, None
        self.set_asleep(asleep=False)
        self.cpu.deliver(Interruption(vector, Source.EXTERNAL, self.cpu.state.rip))

    def set_asleep(self, *, asleep: bool) -> None:
        """The guest has gone to sleep in HLT, or is awake again."""
        self.asleep = asleep
        self.vmcs.fields[_F.GUEST_ACTIVITY_STATE] = ActivityState.HLT if asleep else ActivityState.ACTIVE

    def inject(self, information: int) -> bool:
        """Deliver the event of the VM-entry interruption-information field through the guest's IDT (SDM Vol. 3C §27.6).

        :return: is it no event of the guest but a pending MTF VM exit?
        """
        vmcs, cpu = self.vmcs, self.cpu
        vmcs.fields[_INJECTION] = information & ~_VALID
        vector, kind = information & 0xFF, InterruptionType(information >> 8 & 7)
        rip = cpu.state.rip
        if kind.needs_instruction_length:
            rip = rip + vmcs.read(_F.ENTRY_INSTRUCTION_LENGTH) & (
                0xFFFF_FFFF_FFFF_FFFF if cpu.state.code_64 else 0xFFFFFFFF
            )
        if kind is InterruptionType.OTHER_EVENT:  # a pending MTF exit
            return True
        self._debug_exceptions = 0
        if self.asleep:
            self.set_asleep(asleep=False)
        if kind is InterruptionType.NMI:
            cpu.engine.block_nmi(True)
        error_code = vmcs.read(_F.ENTRY_EXCEPTION_ERROR_CODE) if information & 1 << 11 else None
        self._injecting = True
        try:
            cpu.deliver(Interruption(vector, _SOURCES[kind], rip, error_code))
        finally:
            self._injecting = False
        return False

    # ---------------------------------------------------------------------------------------- exits on the way

    def filter_exception(
        self, vector: int, error_code: int | None, qualification: int | None, during: Interruption | None
    ) -> None:
        """Called for each exception before its delivery: `during` is what was being delivered when it struck."""
        operation = self.operation
        if (during is None and self._injecting) or not operation.intercepts_exception(vector, error_code):
            return
        # In the qualification, conditions of a debug exception have their places of DR6 (SDM Vol. 3C Table 28-1).
        operation.exception_exit(vector, InterruptionType.HARDWARE_EXCEPTION, error_code, qualification or 0)
        if during is not None:
            self._note_vectoring(during)
        elif self.cpu.struck_iret() and vector != Vector.DF:  # (SDM Vol. 3C §28.2.2)
            operation.vmcs.fields[_F.EXIT_INTERRUPTION_INFORMATION] |= _NMI_UNBLOCKING
        raise Intercepted(ExitReason.EXCEPTION_OR_NMI)

    def _task_switch(self, what: TaskSwitch, during: Interruption | None) -> None:
        """A task switch always exits, once the checks on how it was asked for have passed (SDM Vol. 3C §26.4.2)."""
        qualification = TaskSwitchQualification(what.selector, what.source).encode()
        self.operation.exit(ExitReason.TASK_SWITCH, qualification, what.length)
        if during is not None:
            self._note_vectoring(during)
        raise Intercepted(ExitReason.TASK_SWITCH)

    def _note_vectoring(self, during: Interruption) -> None:
        """The exit struck while this was being delivered (SDM Vol. 3C §28.2.4)."""
        fields, delivering = self.vmcs.fields, self.operation.delivering
        kind = self._interruption_type(during)
        information = InterruptionInformation(during.vector, kind, deliver_error_code=during.error_code is not None)
        fields[_VECTORING] = information.encode()
        fields[_F.IDT_VECTORING_ERROR_CODE] = during.error_code or 0
        if kind.needs_instruction_length and delivering is not None:
            fields[_LENGTH] = delivering.length

    def ept_refused(self, refused: EptRefused) -> ExitReason | None:
        """The processor itself met what the EPT refuses, perhaps while it delivered an event; None after a #VE."""
        reason: ExitReason | None = EXITS[type(refused.event)](self.operation, refused.event)
        during, self.cpu.undelivered = self.cpu.undelivered, None
        if during is not None:
            self._note_vectoring(during)
        return reason

    def _interruption_type(self, what: Interruption) -> InterruptionType:
        software = self.operation.delivering
        if what.source is Source.SOFTWARE or (software and software.kind is SoftwareInterruptKind.INT1):
            return _SOFTWARE_TYPES[software.kind] if software else InterruptionType.SOFTWARE_INTERRUPT
        return _TYPES[what.source]


_SOURCES: Final = {
    InterruptionType.EXTERNAL_INTERRUPT: Source.EXTERNAL,
    InterruptionType.NMI: Source.NMI,
    InterruptionType.HARDWARE_EXCEPTION: Source.EXCEPTION,
    InterruptionType.SOFTWARE_INTERRUPT: Source.SOFTWARE,
    InterruptionType.PRIVILEGED_SOFTWARE_EXCEPTION: Source.EXCEPTION,
    InterruptionType.SOFTWARE_EXCEPTION: Source.SOFTWARE,
}
_TYPES: Final = {
    Source.EXTERNAL: InterruptionType.EXTERNAL_INTERRUPT,
    Source.NMI: InterruptionType.NMI,
    Source.EXCEPTION: InterruptionType.HARDWARE_EXCEPTION,
}
