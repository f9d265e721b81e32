"""What becomes of each event in VMX non-root operation: a table over the event union.

Each entry answers by the current controls: complete the instruction as the processor does outside VMX, with the
changes of SDM Vol. 3C §26.3, or record a VM exit (§26.1, §26.2) and return its reason. Faults of privilege and of
operands come first (§26.1.1): the engine and the checks here raise them before a control is looked at; MOV DR is the
manual's one exception to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.completion import check_general_detect, complete_once, write_time_stamp
from simvirt.machine.events import (
    ControlRegisterAccess,
    Cpuid,
    DebuggerHit,
    DebugRegisterAccess,
    DescriptorTableAccess,
    DescriptorTableRegister,
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
    SoftwareInterruptKind,
    SystemCall,
    WatchedWrite,
    X87ErrorReported,
)
from simvirt.machine.faults import ProcessorFault, general_protection
from simvirt.machine.port_permission import io_allowed
from simvirt.machine.vmx import control_registers, ept_exits, instruction_information, vm_functions
from simvirt.machine.vmx.bitmaps import msr_exits, port_exits
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr4
from simvirt.x86.instruction import DebugOperand, GeneralOperand
from simvirt.x86.operations import Operation
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from simvirt.x86.vmx import (
    ExitReason,
    InterruptionType,
    MovDr,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.vmx.non_root_operation import NonRootOperation
    from simvirt.x86.instruction import Instruction

_F: Final = VmcsField
_HLT: Final = int(PrimaryControls.HLT_EXITING)
_INVLPG: Final = int(PrimaryControls.INVLPG_EXITING)
_RDPMC: Final = int(PrimaryControls.RDPMC_EXITING)
_RDTSC: Final = int(PrimaryControls.RDTSC_EXITING)
_MOV_DR: Final = int(PrimaryControls.MOV_DR_EXITING)
_UNCONDITIONAL_IO: Final = int(PrimaryControls.UNCONDITIONAL_IO_EXITING)
_IO_BITMAPS: Final = int(PrimaryControls.USE_IO_BITMAPS)
_MSR_BITMAPS: Final = int(PrimaryControls.USE_MSR_BITMAPS)
_PAUSE: Final = int(PrimaryControls.PAUSE_EXITING)
_TSC_OFFSETTING: Final = int(PrimaryControls.USE_TSC_OFFSETTING)
_TSC_SCALING: Final = int(SecondaryControls.USE_TSC_SCALING)
_PAUSE_LOOP: Final = int(SecondaryControls.PAUSE_LOOP_EXITING)
_VM_FUNCTIONS: Final = int(SecondaryControls.ENABLE_VM_FUNCTIONS)
_NMI_WINDOW: Final = int(PrimaryControls.NMI_WINDOW_EXITING)
_NMI_EXITING: Final = int(PinControls.NMI_EXITING)
_DESCRIPTOR_TABLES: Final = int(SecondaryControls.DESCRIPTOR_TABLE_EXITING)
_RDTSCP: Final = int(SecondaryControls.ENABLE_RDTSCP)
_WBINVD: Final = int(SecondaryControls.WBINVD_EXITING)


def complete(non_root: NonRootOperation, event: Event) -> ExitReason | None:
    """Do what the processor does outside VMX; what the instruction meets on its way is an event of its own."""
    met = complete_once(non_root.cpu, non_root.bus, event)
    return None if met is None else EXITS[type(met)](non_root, met)


# -------------------------------------------------------------------------------------------- exceptions and interrupts

_VMX_INSTRUCTIONS: Final = {
    Operation.VMCALL: ExitReason.VMCALL,
    Operation.VMCLEAR: ExitReason.VMCLEAR,
    Operation.VMLAUNCH: ExitReason.VMLAUNCH,
    Operation.VMPTRLD: ExitReason.VMPTRLD,
    Operation.VMPTRST: ExitReason.VMPTRST,
    Operation.VMREAD: ExitReason.VMREAD,
    Operation.VMRESUME: ExitReason.VMRESUME,
    Operation.VMWRITE: ExitReason.VMWRITE,
    Operation.VMXOFF: ExitReason.VMXOFF,
    Operation.VMXON: ExitReason.VMXON,
    Operation.INVEPT: ExitReason.INVEPT,
    Operation.INVVPID: ExitReason.INVVPID,
}
"""The instructions of VMX that exit without condition (SDM Vol. 3C §26.1.2); the engine does not have them: they
arrive as #UD."""


def _exception(non_root: NonRootOperation, event: ExceptionRaised) -> ExitReason | None:
    if event.vector is Vector.UD:
        instruction = _opcode_0f(non_root)
        if instruction is not None:
            if instruction.operation is Operation.VMFUNC and non_root.secondary & _VM_FUNCTIONS:
                return vm_functions.call(non_root, instruction.length)
            reason = _vmx_instruction(non_root, instruction)
            if reason is not None:
                return reason
    elif event.vector is Vector.GP and non_root.primary & _MOV_DR and not event.error_code:
        # MOV DR exits in place of its #GP for privilege (SDM Vol. 3C §26.1.3).
        instruction = non_root.cpu.instruction()
        if instruction.operation in (Operation.MOV_TO_DR, Operation.MOV_FROM_DR):
            return _mov_dr_at_any_cpl(non_root, instruction)
    return complete(non_root, event)


def _opcode_0f(non_root: NonRootOperation) -> Instruction | None:
    """The undefined instruction, if it is one of the two-byte opcodes, among which VMX has its own."""
    cpu = non_root.cpu
    return cpu.instruction() if 0x0F in cpu.engine.code_bytes[:5] else None


def _vmx_instruction(non_root: NonRootOperation, instruction: Instruction) -> ExitReason | None:
    """Is it an instruction of VMX?

    Those exit at any CPL; in real-address and virtual-8086 mode they are #UD as elsewhere, save VMCALL.
    """
    cpu = non_root.cpu
    reason = _VMX_INSTRUCTIONS.get(instruction.operation)
    if reason is None or instruction.has_lock:
        return None
    state = cpu.state
    if reason is not ExitReason.VMCALL and (
        not state.protected_mode or state.virtual_8086_mode or (state.long_mode and not state.code_64)
    ):
        return None
    memory = instruction.memory
    if memory is not None:
        non_root.vmcs.fields[_F.EXIT_INSTRUCTION_INFORMATION] = instruction_information.vmx(instruction)
    displacement = 0 if memory is None else memory.displacement
    return non_root.exit(reason, displacement & 0xFFFF_FFFF_FFFF_FFFF, instruction.length)


def _software_interrupt(non_root: NonRootOperation, event: SoftwareInterrupt) -> ExitReason | None:
    """INT n never exits by itself; INT3, INTO and INT1 are exceptions to the exception bitmap."""
    if event.kind is not SoftwareInterruptKind.INT_N and non_root.exception_bitmap >> event.vector & 1:
        privileged = event.kind is SoftwareInterruptKind.INT1
        kind = InterruptionType.PRIVILEGED_SOFTWARE_EXCEPTION if privileged else InterruptionType.SOFTWARE_EXCEPTION
        return non_root.exception_exit(event.vector, kind, None, length=event.length)
    non_root.delivering = event
    return complete(non_root, event)


def _interrupt_window(non_root: NonRootOperation, _event: InterruptWindow) -> ExitReason:
    return non_root.exit(ExitReason.INTERRUPT_WINDOW)


# -------------------------------------------------------------------------------------------- input, output, memory


def _port(non_root: NonRootOperation, event: PortAccess) -> ExitReason | None:
    cpu = non_root.cpu
    port, size = event.port, event.size
    if cpu.state.cpl and not io_allowed(cpu, port, size):
        raise general_protection(0)
    primary = non_root.primary
    if primary & _IO_BITMAPS:
        fields = non_root.vmcs.fields
        exits = port_exits(
            non_root.memory, fields.get(_F.IO_BITMAP_A_ADDRESS, 0), fields.get(_F.IO_BITMAP_B_ADDRESS, 0), port, size
        )
    else:
        exits = bool(primary & _UNCONDITIONAL_IO)
    if not exits:
        return complete(non_root, event)
    qualification = size - 1 | (not event.is_out) << 3 | port << 16
    if event.is_string:
        _string_port(non_root, event)
        qualification |= 1 << 4 | event.is_repeated << 5
    elif event.is_immediate:
        qualification |= 1 << 6
    return non_root.exit(ExitReason.IO_INSTRUCTION, qualification, event.length)


def _string_port(non_root: NonRootOperation, event: PortAccess) -> None:
    """INS and OUTS: the linear address of the operand and the instruction information."""
    cpu, fields = non_root.cpu, non_root.vmcs.fields
    state = cpu.state
    segment = instruction_information.string_segment(cpu, event)
    index = GeneralRegister.RSI if event.is_out else GeneralRegister.RDI
    flat = state.code_64 and segment < SegmentRegister.FS
    address = state.register(index, event.address_size) + (0 if flat else state.segment_base(segment))
    fields[_F.GUEST_LINEAR_ADDRESS] = address if state.code_64 else address & 0xFFFFFFFF
    fields[_F.EXIT_INSTRUCTION_INFORMATION] = instruction_information.string_port(event, segment)


# -------------------------------------------------------------------------------------------- instructions


def _halt(non_root: NonRootOperation, event: Halt) -> ExitReason | None:
    if non_root.primary & _HLT:
        return non_root.exit(ExitReason.HLT, 0, event.length)
    return complete(non_root, event)


def _cpuid(non_root: NonRootOperation, event: Cpuid) -> ExitReason:
    return non_root.exit(ExitReason.CPUID, 0, event.length)


def _time_stamp(non_root: NonRootOperation, event: ReadTimeStampCounter) -> ExitReason | None:
    """RDTSC and RDTSCP; the latter is #UD unless it is enabled."""
    if event.is_rdtscp and not non_root.secondary & _RDTSCP:
        raise ProcessorFault(Vector.UD)
    if not non_root.primary & _RDTSC:
        if not non_root.secondary & _TSC_SCALING:
            return complete(non_root, event)
        _scaled_time_stamp(non_root, event)
        return None
    state = non_root.cpu.state
    if state.cr4 & int(Cr4.TSD) and state.cpl and state.protected_mode:
        raise general_protection(0)
    return non_root.exit(ExitReason.RDTSCP if event.is_rdtscp else ExitReason.RDTSC, 0, event.length)


def _scaled_time_stamp(non_root: NonRootOperation, event: ReadTimeStampCounter) -> None:
    """RDTSC under "use TSC scaling": multiplied by a fixed-point number with 48 bits of fraction, then offset (§26.3).

    Without "use TSC offsetting" there is neither.
    """
    cpu, fields = non_root.cpu, non_root.vmcs.fields
    state = cpu.state
    if state.cr4 & int(Cr4.TSD) and state.cpl and state.protected_mode:
        raise general_protection(0)
    value = cpu.engine.count
    if non_root.primary & _TSC_OFFSETTING:
        value = (value * fields.get(_F.TSC_MULTIPLIER, 0) >> 48) + fields.get(_F.TSC_OFFSET, 0)
    write_time_stamp(cpu, value & 0xFFFF_FFFF_FFFF_FFFF, event)


def _performance_counter(non_root: NonRootOperation, event: ReadPerformanceCounter) -> ExitReason | None:
    if non_root.primary & _RDPMC:
        return non_root.exit(ExitReason.RDPMC, 0, event.length)
    return complete(non_root, event)


def _msr(non_root: NonRootOperation, event: MsrAccess) -> ExitReason | None:
    number = non_root.cpu.state.register(GeneralRegister.RCX, 4)
    if non_root.primary & _MSR_BITMAPS:
        bitmaps = non_root.vmcs.fields.get(_F.MSR_BITMAPS_ADDRESS, 0)
        if not msr_exits(non_root.memory, bitmaps, number, is_write=event.is_write):
            met = complete(non_root, event)
            non_root.long_mode_changed()
            return met
    return non_root.exit(ExitReason.WRMSR if event.is_write else ExitReason.RDMSR, 0, event.length)


def _debug_register(non_root: NonRootOperation, event: DebugRegisterAccess) -> ExitReason | None:
    if not non_root.primary & _MOV_DR:
        return complete(non_root, event)
    check_general_detect(non_root.cpu.state)
    qualification = MovDr(event.number, not event.is_write, event.register).encode()
    return non_root.exit(ExitReason.MOV_DR, qualification, event.length)


def _mov_dr_at_any_cpl(non_root: NonRootOperation, instruction: Instruction) -> ExitReason:
    register = next(o.register for o in instruction.operands if isinstance(o, DebugOperand))
    general = next(o.register for o in instruction.operands if isinstance(o, GeneralOperand))
    qualification = MovDr(register, instruction.operation is Operation.MOV_FROM_DR, general).encode()
    return non_root.exit(ExitReason.MOV_DR, qualification, instruction.length)


def _descriptor_table(non_root: NonRootOperation, event: DescriptorTableAccess) -> ExitReason | None:
    cpu = non_root.cpu
    state = cpu.state
    if not event.is_write and state.cr4 & int(Cr4.UMIP) and state.cpl:
        raise general_protection(0)
    if not non_root.secondary & _DESCRIPTOR_TABLES:
        return complete(non_root, event)
    instruction = cpu.instruction()
    memory = instruction.memory
    displacement = 0 if memory is None else memory.displacement & 0xFFFF_FFFF_FFFF_FFFF
    non_root.vmcs.fields[_F.EXIT_INSTRUCTION_INFORMATION] = instruction_information.descriptor_table(instruction)
    local = event.register in (DescriptorTableRegister.LDTR, DescriptorTableRegister.TR)
    reason = ExitReason.LDTR_TR_ACCESS if local else ExitReason.GDTR_IDTR_ACCESS
    return non_root.exit(reason, displacement, event.length)


def _nmi(non_root: NonRootOperation, event: NonMaskableInterrupt) -> ExitReason | None:
    """An NMI, or the window for one: an exit (§26.2), or the guest's own (§26.3)."""
    if non_root.pin & _NMI_EXITING and non_root.cpu.engine.nmi_pending:
        return non_root.nmi_exit()
    if non_root.primary & _NMI_WINDOW:
        return non_root.exit(ExitReason.NMI_WINDOW)
    return complete(non_root, event)


def _invalidate_page(non_root: NonRootOperation, event: InvalidatePage) -> ExitReason | None:
    if not non_root.primary & _INVLPG:
        return complete(non_root, event)
    operand = non_root.cpu.memory_operand()
    return non_root.exit(ExitReason.INVLPG, 0 if operand is None else operand[0], event.length)


def _invalidate_caches(non_root: NonRootOperation, event: InvalidateCaches) -> ExitReason | None:
    """INVD always exits, WBINVD with its control."""
    if not event.is_wbinvd:
        return non_root.exit(ExitReason.INVD, 0, event.length)
    if non_root.secondary & _WBINVD:
        return non_root.exit(ExitReason.WBINVD, 0, event.length)
    return complete(non_root, event)


def _pause(non_root: NonRootOperation, event: Pause) -> ExitReason | None:
    if non_root.primary & _PAUSE or _is_pause_loop(non_root):
        return non_root.exit(ExitReason.PAUSE, 0, event.length)
    return complete(non_root, event)


def _is_pause_loop(non_root: NonRootOperation) -> bool:
    """PAUSE-loop exiting: has CPL 0 been in one loop of PAUSEs for longer than PLE_WINDOW? (SDM Vol. 3C §26.1.3)."""
    if not non_root.secondary & _PAUSE_LOOP or non_root.cpu.state.cpl:
        return False
    fields, now = non_root.vmcs.fields, non_root.cpu.engine.count
    if now - non_root.last_pause > fields.get(_F.PLE_GAP, 0):
        non_root.first_pause = now
    non_root.last_pause = now
    return now - non_root.first_pause > fields.get(_F.PLE_WINDOW, 0)


EXITS: Final[dict[type, Callable[..., ExitReason | None]]] = {
    LimitReached: complete,
    Interrupted: complete,
    DebuggerHit: complete,
    InterruptWindow: _interrupt_window,
    NonMaskableInterrupt: _nmi,
    EngineFault: complete,
    ExceptionRaised: _exception,
    SoftwareInterrupt: _software_interrupt,
    PortAccess: _port,
    PhysicalAccess: complete,
    EptViolated: ept_exits.violation,
    EptMisconfigured: ept_exits.misconfiguration,
    ModificationLogFull: ept_exits.modification_log_full,
    WatchedWrite: complete,
    Halt: _halt,
    Cpuid: _cpuid,
    ReadTimeStampCounter: _time_stamp,
    ReadPerformanceCounter: _performance_counter,
    MsrAccess: _msr,
    ControlRegisterAccess: control_registers.access,
    DebugRegisterAccess: _debug_register,
    DescriptorTableAccess: _descriptor_table,
    InvalidatePage: _invalidate_page,
    InvalidateCaches: _invalidate_caches,
    FlagsAccess: complete,
    Pause: _pause,
    X87ErrorReported: complete,
    SystemCall: complete,
}
"""The answer to each event. Each entry takes the event of its own type, which the table's common type cannot say."""
