"""The dispatcher of trap-and-emulate: every event of the processor, and what the VMM makes of it.

The guest's kernel runs in ring 1. What it may do there it does directly; what it may not, traps, and comes here::

    #GP, #NP, #SS, #TS   a privileged instruction, or a segment load that met a shadow descriptor: the interpreter
    #PF                  a write to a traced descriptor table, an access where the guest has no memory, or a segment
                         load that wants to set the accessed flag of a shadow (`vmm.virtual_cpu` tells them apart)
    INT n, SYSENTER      delivered to the guest through its own IDT or MSRs
    other exceptions     the guest's own: delivered to it

What does not trap (SGDT, SMSW, PUSHF, POPF, LAR, MOV from CS …) never comes here, and nothing is done about it: that is
the lesson.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import EngineError
from simvirt.machine.completion import complete, complete_once
from simvirt.machine.events import (
    ControlRegisterAccess,
    ControlRegisterOperation,
    Cpuid,
    DebuggerHit,
    DebugRegisterAccess,
    DescriptorTableAccess,
    EngineFault,
    EptMisconfigured,
    EptViolated,
    Event,
    ExceptionRaised,
    FlagsAccess,
    Halt,
    Interrupted,
    InterruptWindow,
    InvalidateCaches,
    InvalidatePage,
    LimitReached,
    ModificationLogFull,
    MsrAccess,
    NonMaskableInterrupt,
    Pause,
    PhysicalAccess,
    PortAccess,
    ReadPerformanceCounter,
    ReadTimeStampCounter,
    SoftwareInterrupt,
    SystemCall,
    WatchedWrite,
    X87ErrorReported,
)
from simvirt.machine.faults import ProcessorFault
from simvirt.machine.machine import Stop
from simvirt.strategies.trap_and_emulate.causes import cause
from simvirt.strategies.trap_and_emulate.reasons import (
    BY_OPERATION,
    DESCRIPTOR_FAULTS,
    FAULT_OF_PRIVILEGE,
    IOPL_SENSITIVE,
    SEGMENT_LOADS,
    TrapReason,
)
from simvirt.vmm.allocator import VMM_LINEAR_BASE
from simvirt.vmm.exit_log import Disposition, ExitLog, ExitRecord, Intervention, ResourceAttempt
from simvirt.x86.addresses import Gva
from simvirt.x86.decode import MAX_INSTRUCTION_LENGTH
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr0, Cr4, iopl
from simvirt.x86.instruction import ControlOperand, DebugOperand, GeneralOperand, Instruction
from simvirt.x86.operations import Operation
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.pc import BoardBus
    from simvirt.vmm.interpreter import Interpreter
    from simvirt.vmm.virtual_cpu import VirtualCpu

_NOT_HERE: Final = (Operation.INVALID, Operation.XSETBV)
"""What is #UD in ring 0: a MOV to CR1, say, or XSETBV while CR4.OSXSAVE is 0, as it always is on this PC."""
_MP: Final = int(Cr0.MP)
_SMAP: Final = int(Cr4.SMAP)
_HIDDEN_FAULT: Final = ExceptionRaised(Vector.PF)
_EVENTS_KEPT: Final = 1024
_FIRST_LOAD: Final = (Vector.NP, Vector.PF)
"""The shadow is not present, or its accessed flag is not set yet and its page is read-only."""


class Dispatcher:
    """Decides about every event; one table over the event union."""

    def __init__(
        self,
        guest: VirtualCpu,
        interpreter: Interpreter,
        bus: BoardBus,
        log: ExitLog,
    ) -> None:
        self._guest = guest
        self._interpreter = interpreter
        self._bus = bus
        self._log = log
        guest.on_hidden_fault = self._shadow_fill
        guest.on_table_use = self._table_use
        self._events: dict[bytes, Event] = {}

    def dispatch(self, event: Event) -> Stop:
        """Handle one event.

        :raises Shutdown: the guest's machine has met a triple fault.
        """
        return DISPATCH[type(event)](self, event)

    # ---------------------------------------------------------------------------------------- bookkeeping

    def _note(
        self, reason: TrapReason, intervention: Intervention, event: Event, instruction: Instruction | None = None
    ) -> None:
        number = self._log.note(reason, intervention)
        if self._log.listener is not None:
            guest = self._guest
            state = guest.state
            decoded = instruction or guest.instruction()
            self._log.listener(
                ExitRecord(
                    number=number,
                    instruction=guest.count,
                    time_ns=self._bus.time_stamp(),
                    reason=reason,
                    intervention=intervention,
                    cs=state.selector(SegmentRegister.CS),
                    rip=state.rip,
                    cpl=int(state.cpl),
                    code=guest.engine.code_bytes,
                    bits=state.bits,
                    cause=cause(reason, event, decoded, int(state.cpl)),
                )
            )

    def _complete_on_guest(self, event: Event) -> None:
        """Let the guest's own processor do it; count the instruction as emulated if it was completed."""
        guest, retired = self._guest, self._guest.engine.read_count
        before = retired()
        complete(guest, self._bus, event)
        self._log.emulated_instructions += retired() - before

    def _reflect(self, event: ExceptionRaised) -> None:
        self._guest.raise_exception(event.vector, event.error_code, event.cr2, condition=event.condition)

    # ---------------------------------------------------------------------------------------- exceptions

    def _exception(self, event: ExceptionRaised) -> Stop:
        true_page_fault = event.cr2 is not None and not self._guest.shadow.holds(Gva(event.cr2))
        if event.vector in DESCRIPTOR_FAULTS and not true_page_fault:
            instruction = self._guest.instruction()
            operation = instruction.operation
            if operation in SEGMENT_LOADS and event.vector is not Vector.UD:
                return self._segment_load(event, instruction)
            if event.vector == FAULT_OF_PRIVILEGE.get(operation, Vector.GP) and self._may_be_emulated(operation):
                return self._privileged(event, instruction)
            if operation in _NOT_HERE and instruction.length < MAX_INSTRUCTION_LENGTH and self._guest.state.cpl == 0:
                event = ExceptionRaised(Vector.UD)  # the processor looks at the privilege first
        if (
            event.vector == Vector.NM
            and self._guest.instruction().mnemonic == "wait"
            and not self._guest.state.cr0 & _MP
        ):
            return self._wait(event)
        self._note(TrapReason.EXCEPTION, Intervention.REFLECTED, event)
        self._reflect(event)
        return Stop.HANDLED

    def _wait(self, event: ExceptionRaised) -> Stop:
        """WAIT heeds TS only while MP is set: it runs alone with the guest's MP."""
        self._note(TrapReason.WAIT, Intervention.HIDDEN, event)
        state = self._guest.guest_state
        state.real.set_control_register(0, state.real.cr0 & ~_MP)
        state.real.refresh()
        try:
            met = self._guest.run_natively()
        finally:
            state.derive_real_control_registers()
        return Stop.HANDLED if met is None else self.dispatch(met)

    def _may_be_emulated(self, operation: Operation) -> bool:
        """Would the guest's own machine have let it run at the guest's privilege?"""
        if operation not in BY_OPERATION:
            return False
        if operation in FAULT_OF_PRIVILEGE and not self._guest.engine.cr4_features & _SMAP:
            return False  # CLAC and STAC are #UD in ring 0, too, where the CPU model has no SMAP
        state = self._guest.state
        return state.cpl == 0 or (operation in IOPL_SENSITIVE and state.cpl <= iopl(state.eflags))

    def _segment_load(self, event: ExceptionRaised, instruction: Instruction) -> Stop:
        """Perform the load on the guest's own descriptors; where that faults too, the guest gets the fault."""
        reason = BY_OPERATION[instruction.operation]
        intervention = Intervention.EMULATED
        if event.vector in _FIRST_LOAD:
            reason, intervention = TrapReason.DESCRIPTOR_LOAD, Intervention.HIDDEN
            if instruction.operation is Operation.IRET:
                reason, intervention = TrapReason.IRET, Intervention.EMULATED
        self._note(reason, intervention, event, instruction)
        self._interpret(instruction)
        return Stop.HANDLED

    def _interpret(self, instruction: Instruction) -> None:
        before = self._guest.count
        try:
            self._interpreter.interpret(instruction)
        except ProcessorFault as fault:
            self._guest.raise_fault(fault)
        self._log.emulated_instructions += self._guest.count - before

    def _privileged(self, event: ExceptionRaised, instruction: Instruction) -> Stop:
        operation = instruction.operation
        self._note(BY_OPERATION[operation], Intervention.EMULATED, event, instruction)
        if operation in self._interpreter.operations:
            self._interpret(instruction)
            return Stop.HANDLED
        sleeps = operation is Operation.HLT and self._guest.can_halt
        self._complete_on_guest(self._as_event(instruction))
        return Stop.HALTED if sleeps else Stop.HANDLED

    def _as_event(self, instruction: Instruction) -> Event:
        """The event that this instruction would have been on the bare PC, made once for each encoding."""
        event = self._events.get(instruction.encoding)
        if event is None:
            if len(self._events) >= _EVENTS_KEPT:
                self._events.clear()
            event = self._events[instruction.encoding] = _as_event(instruction)
        return event

    # ---------------------------------------------------------------------------------------- memory

    def _no_memory(self, event: PhysicalAccess) -> Stop:
        """The VMM's page tables refused an access outside the guest's memory: the bus gives ones and drops writes."""
        self._note(TrapReason.NO_MEMORY, Intervention.MEMORY, event)
        if self._log.keeps_attempts:
            is_vmm_s = not self._guest.mmu.paging and event.gva >= VMM_LINEAR_BASE
            what = "the VMM's linear address" if is_vmm_s else "guest-physical address"
            resource = f"{what} {event.gpa:#x} ({event.access.name.lower()})"
            self._log.attempt(ResourceAttempt(self._guest.count, resource, Disposition.ABSORBED))
        before = self._guest.count
        met = complete_once(self._guest, self._bus, event)
        self._log.emulated_instructions += self._guest.count - before
        return Stop.HANDLED if met is None else self.dispatch(met)

    def _shadow_fill(self) -> None:
        """A hidden page fault: the shadows have been filled, and the instruction starts again."""
        self._note(TrapReason.SHADOW_FILL, Intervention.HIDDEN, _HIDDEN_FAULT)

    def _table_use(self) -> None:
        """A hidden page fault: the shadow descriptors are up to date now, and the instruction starts again."""
        self._note(TrapReason.DESCRIPTOR_TABLE_USE, Intervention.HIDDEN, _HIDDEN_FAULT)

    def _traced_write(self, event: WatchedWrite) -> Stop:
        """Let the guest write, and follow when it uses a descriptor; a shadowed page table is followed at once.

        So are descriptors where the instruction that writes uses some itself: it would never get through with both.
        """
        is_page_table = self._guest.mmu.holds_tables(event.gpa)
        reason = TrapReason.PAGE_TABLE_WRITE if is_page_table else TrapReason.DESCRIPTOR_TABLE_WRITE
        self._note(reason, Intervention.HIDDEN, event)
        if not is_page_table and not self._guest.uses_descriptors:
            self._guest.shadow.release()
            return Stop.HANDLED
        met = self._guest.run_natively()
        return Stop.HANDLED if met is None else self.dispatch(met)

    # ---------------------------------------------------------------------------------------- the rest

    def _software_interrupt(self, event: SoftwareInterrupt) -> Stop:
        self._note(TrapReason.SOFTWARE_INTERRUPT, Intervention.REFLECTED, event)
        self._complete_on_guest(event)
        return Stop.HANDLED

    def _port(self, event: PortAccess) -> Stop:
        """IN and OUT trap, since the real IOPL is 0 and the real TSS has no I/O bitmap; the VM's own devices answer."""
        if event.is_string:
            reason = TrapReason.OUTS if event.is_out else TrapReason.INS
        else:
            reason = TrapReason.OUT if event.is_out else TrapReason.IN
        self._note(reason, Intervention.EMULATED, event)
        if self._log.keeps_attempts and not self._bus.claims_port(event.port, event.size):
            self._log.unclaimed_port(self._guest.count, event.port, event.size, is_out=event.is_out)
        self._complete_on_guest(event)
        return Stop.HANDLED

    def _forbidden_store(self, event: DescriptorTableAccess | ControlRegisterAccess) -> Stop:
        """SGDT, SIDT, SLDT, STR or SMSW, which the guest's CR4.UMIP makes fault in rings 1 and 3, as all should."""
        instruction = self._guest.instruction()
        if self._guest.state.cpl:
            self._note(TrapReason.EXCEPTION, Intervention.REFLECTED, event, instruction)
            self._reflect(ExceptionRaised(Vector.GP, 0))
            return Stop.HANDLED
        self._note(BY_OPERATION[instruction.operation], Intervention.EMULATED, event, instruction)
        if isinstance(event, ControlRegisterAccess):
            self._complete_on_guest(event)
        else:
            self._interpret(instruction)
        return Stop.HANDLED

    def _iret(self, event: FlagsAccess) -> Stop:
        """IRET stands here before it has done anything, and goes its own way: it traps, or it does not.

        Only one whose image of EFLAGS has VM set is taken out. SDM Vol. 2A "IRET" looks at that bit in ring 0 alone;
        the engine does in every ring, and would leave for virtual-8086 mode with the IOPL of the image.
        """
        self._guest.unblock_nmi()
        if self._log.listener is None and self._guest.iret_natively():  # a record would show the state before it
            self._log.note(TrapReason.IRET, Intervention.EMULATED)
            self._log.emulated_instructions += 1
            return Stop.HANDLED
        instruction = self._guest.instruction()
        if self._interpreter.returns_to_virtual_8086(instruction):
            self._note(TrapReason.IRET, Intervention.EMULATED, event, instruction)
            self._interpret(instruction)
            return Stop.HANDLED
        met = self._guest.run_natively()
        return Stop.HANDLED if met is None else self.dispatch(met)

    def _system_call(self, event: SystemCall) -> Stop:
        if event.is_sysenter:
            self._note(TrapReason.SYSENTER, Intervention.EMULATED, event)
        else:
            self._note(TrapReason.EXCEPTION, Intervention.REFLECTED, event)
        self._complete_on_guest(event)
        return Stop.HANDLED

    def _by_hardware(self, event: Event) -> Stop:
        """An event that is no trap into the VMM: the processor completes the instruction by itself."""
        if self._needs_guest(event):
            self._note(BY_OPERATION[self._guest.instruction().operation], Intervention.EMULATED, event)
            self._complete_on_guest(event)
        else:
            complete(self._guest, self._bus, event)
        return Stop.HANDLED

    def _needs_guest(self, event: Event) -> bool:
        """RDTSC with CR4.TSD set faults in ring 1, and is emulated for the guest's ring 0."""
        return isinstance(event, ReadTimeStampCounter) and bool(self._guest.state.cr4 & 4)

    def _nmi(self, _event: NonMaskableInterrupt) -> Stop:
        """The virtual NMI pin has seen an edge, and the guest can take it."""
        self._guest.deliver_nmi()
        return Stop.HANDLED

    def _x87_error(self, event: X87ErrorReported) -> Stop:
        """The guest's CR0.NE is 0: its board hears of the error, and its processor waits for an interrupt."""
        complete(self._guest, self._bus, event)
        return Stop.HALTED

    def _limit(self, _event: Event) -> Stop:
        return Stop.LIMIT

    def _interrupted(self, _event: Event) -> Stop:
        return Stop.INTERRUPTED

    def _debugger_hit(self, _event: Event) -> Stop:
        return Stop.BREAKPOINT

    def _impossible(self, event: Event) -> Stop:
        raise EngineError(
            f"{event} cannot happen while a guest runs de-privileged: this is a bug in simvirt, please report it"
        )


def _as_event(instruction: Instruction) -> Event:
    """The event that this instruction would have been on the bare PC."""
    operation, length = instruction.operation, instruction.length
    general = next((o.register for o in instruction.operands if isinstance(o, GeneralOperand)), GeneralRegister.RAX)
    if operation in (Operation.MOV_TO_CR, Operation.MOV_FROM_CR):
        control = next(o.register for o in instruction.operands if isinstance(o, ControlOperand))
        kind = (
            ControlRegisterOperation.MOV_TO_CR
            if operation is Operation.MOV_TO_CR
            else ControlRegisterOperation.MOV_FROM_CR
        )
        return ControlRegisterAccess(kind, int(control), general, length)
    if operation in (Operation.MOV_TO_DR, Operation.MOV_FROM_DR):
        debug = next(o.register for o in instruction.operands if isinstance(o, DebugOperand))
        return DebugRegisterAccess(operation is Operation.MOV_TO_DR, int(debug), general, length)
    match operation:
        case Operation.HLT:
            return Halt(length)
        case Operation.CLTS:
            return ControlRegisterAccess(ControlRegisterOperation.CLTS, 0, general, length)
        case Operation.LMSW:
            return ControlRegisterAccess(ControlRegisterOperation.LMSW, 0, general, length)
        case Operation.RDMSR | Operation.WRMSR:
            return MsrAccess(operation is Operation.WRMSR, length)
        case Operation.RDTSC | Operation.RDTSCP:
            return ReadTimeStampCounter(operation is Operation.RDTSCP, length)
        case Operation.INVLPG:
            return InvalidatePage(length)
        case Operation.INVD | Operation.WBINVD:
            return InvalidateCaches(operation is Operation.WBINVD, length)
        case _:
            raise EngineError(f"{instruction.mnemonic} trapped, and nothing emulates it: this is a bug in simvirt")


# Each entry takes the event of its own type, which the table's common type cannot say.
DISPATCH: Final[dict[type, Callable[..., Stop]]] = {
    LimitReached: Dispatcher._limit,
    Interrupted: Dispatcher._interrupted,
    DebuggerHit: Dispatcher._debugger_hit,
    InterruptWindow: Dispatcher._impossible,
    NonMaskableInterrupt: Dispatcher._nmi,
    EngineFault: Dispatcher._impossible,
    ExceptionRaised: Dispatcher._exception,
    SoftwareInterrupt: Dispatcher._software_interrupt,
    PortAccess: Dispatcher._port,
    PhysicalAccess: Dispatcher._no_memory,
    EptViolated: Dispatcher._impossible,
    EptMisconfigured: Dispatcher._impossible,
    ModificationLogFull: Dispatcher._impossible,
    WatchedWrite: Dispatcher._traced_write,
    Halt: Dispatcher._impossible,
    Cpuid: Dispatcher._by_hardware,
    ReadTimeStampCounter: Dispatcher._by_hardware,
    ReadPerformanceCounter: Dispatcher._by_hardware,
    MsrAccess: Dispatcher._impossible,
    ControlRegisterAccess: Dispatcher._forbidden_store,
    DebugRegisterAccess: Dispatcher._impossible,
    DescriptorTableAccess: Dispatcher._forbidden_store,
    InvalidatePage: Dispatcher._impossible,
    InvalidateCaches: Dispatcher._impossible,
    FlagsAccess: Dispatcher._iret,
    Pause: Dispatcher._by_hardware,
    X87ErrorReported: Dispatcher._x87_error,
    SystemCall: Dispatcher._system_call,
}
"""What becomes of each event."""
