"""What becomes of each event in VMX non-root operation: a table over the event union.

Each entry answers by the current controls: complete the instruction as the processor does outside VMX, with the
changes of SDM Vol. 3C §26.3, or record a VM exit (§26.1, §26.2) and return its reason. Faults of privilege and of
operands come first (§26.1.1): the engine and the checks here raise them before a control is looked at; MOV DR is the
manual's one exception to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.completion import complete_once
from simvirt.machine.events import (
    ControlRegisterAccess,
    Cpuid,
    DebugRegisterAccess,
    DescriptorTableAccess,
    DescriptorTableRegister,
    EngineFault,
    Event,
    ExceptionRaised,
    FlagsAccess,
    Halt,
    Interrupted,
    InterruptWindow,
    InvalidateCaches,
    InvalidatePage,
    LimitReached,
    MsrAccess,
    Pause,
    PhysicalAccess,
    PhysicalTarget,
    PortAccess,
    ReadPerformanceCounter,
    ReadTimeStampCounter,
    SoftwareInterrupt,
    SoftwareInterruptKind,
    SystemCall,
    WatchedWrite,
)
from simvirt.machine.faults import ProcessorFault, general_protection
from simvirt.machine.fills import Access
from simvirt.machine.port_permission import io_allowed
from simvirt.machine.vmx import control_registers, instruction_information
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
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.vmx.non_root import NonRootProcessor
    from simvirt.x86.instruction import Instruction

    Answer = Callable[["NonRootProcessor", "Event"], ExitReason | None]

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
_EPT: Final = int(SecondaryControls.ENABLE_EPT)
_DESCRIPTOR_TABLES: Final = int(SecondaryControls.DESCRIPTOR_TABLE_EXITING)
_RDTSCP: Final = int(SecondaryControls.ENABLE_RDTSCP)
_WBINVD: Final = int(SecondaryControls.WBINVD_EXITING)


def complete(processor: NonRootProcessor, event: Event) -> ExitReason | None:
    """Do what the processor does outside VMX; what the instruction meets on its way is an event of its own."""
    met = complete_once(processor.cpu, processor.bus, event)
    return None if met is None else EXITS[type(met)](processor, met)


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


def _exception(processor: NonRootProcessor, event: ExceptionRaised) -> ExitReason | None:
    if event.vector is Vector.UD:
        reason = _vmx_instruction(processor)
        if reason is not None:
            return reason
    elif event.vector is Vector.GP and processor.primary & _MOV_DR and not event.error_code:
        # MOV DR exits in place of its #GP for privilege (SDM Vol. 3C §26.1.3).
        instruction = processor.cpu.instruction()
        if instruction.operation in (Operation.MOV_TO_DR, Operation.MOV_FROM_DR):
            return _mov_dr_at_any_cpl(processor, instruction)
    return complete(processor, event)


def _vmx_instruction(processor: NonRootProcessor) -> ExitReason | None:
    """Is it an instruction of VMX?

    Those exit at any CPL; in real-address and virtual-8086 mode they are #UD as elsewhere, save VMCALL.
    """
    cpu = processor.cpu
    if 0x0F not in cpu.engine.code_bytes[:5]:
        return None
    instruction = cpu.instruction()
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
        processor.vmcs.fields[_F.EXIT_INSTRUCTION_INFORMATION] = instruction_information.vmx(instruction)
    displacement = 0 if memory is None else memory.displacement
    return processor.exit(reason, displacement & 0xFFFF_FFFF_FFFF_FFFF, instruction.length)


def _software_interrupt(processor: NonRootProcessor, event: SoftwareInterrupt) -> ExitReason | None:
    """INT n never exits by itself; INT3 and INTO are exceptions to the exception bitmap."""
    if event.kind is not SoftwareInterruptKind.INT_N and processor.exception_bitmap >> event.vector & 1:
        return processor.exception_exit(event.vector, InterruptionType.SOFTWARE_EXCEPTION, None, length=event.length)
    processor.delivering(event)
    return complete(processor, event)


def _interrupt_window(processor: NonRootProcessor, _event: InterruptWindow) -> ExitReason:
    return processor.exit(ExitReason.INTERRUPT_WINDOW)


# -------------------------------------------------------------------------------------------- input, output, memory


def _port(processor: NonRootProcessor, event: PortAccess) -> ExitReason | None:
    cpu = processor.cpu
    port, size = event.port, event.size
    if cpu.state.cpl and not io_allowed(cpu, port, size):
        raise general_protection(0)
    primary = processor.primary
    if primary & _IO_BITMAPS:
        fields = processor.vmcs.fields
        exits = port_exits(
            processor.memory, fields.get(_F.IO_BITMAP_A_ADDRESS, 0), fields.get(_F.IO_BITMAP_B_ADDRESS, 0), port, size
        )
    else:
        exits = bool(primary & _UNCONDITIONAL_IO)
    if not exits:
        return complete(processor, event)
    qualification = size - 1 | (not event.is_out) << 3 | port << 16
    if event.is_string:
        _string_port(processor, event)
        qualification |= 1 << 4 | event.is_repeated << 5
    elif event.length > 1:
        qualification |= instruction_information.port_is_immediate(cpu) << 6
    return processor.exit(ExitReason.IO_INSTRUCTION, qualification, event.length)


def _string_port(processor: NonRootProcessor, event: PortAccess) -> None:
    """INS and OUTS: the linear address of the operand and the instruction information."""
    cpu, fields = processor.cpu, processor.vmcs.fields
    state = cpu.state
    segment = instruction_information.string_segment(cpu, event)
    index = GeneralRegister.RSI if event.is_out else GeneralRegister.RDI
    flat = state.code_64 and segment < SegmentRegister.FS
    address = state.register(index, event.address_size) + (0 if flat else state.segment_base(segment))
    fields[_F.GUEST_LINEAR_ADDRESS] = address if state.code_64 else address & 0xFFFFFFFF
    fields[_F.EXIT_INSTRUCTION_INFORMATION] = instruction_information.string_port(event, segment)


def _physical(processor: NonRootProcessor, event: PhysicalAccess) -> ExitReason | None:
    """No EPT entry for a hole and for device memory; ROM is readable and executable."""
    if not processor.secondary & _EPT:
        return complete(processor, event)
    rom = event.target is PhysicalTarget.ROM
    return _ept_violation(
        processor, event.gpa, event.gva, event.access, readable=rom, executable=rom, length=event.length
    )


def _watched_write(processor: NonRootProcessor, event: WatchedWrite) -> ExitReason | None:
    """A page that the VMM has made read-only."""
    if not processor.secondary & _EPT:
        return complete(processor, event)
    return _ept_violation(
        processor, event.gpa, event.gva, Access.WRITE, readable=True, executable=True, length=event.length
    )


# `x86.vmx.EptViolation` by its bits, for this is a path that is taken often.
_EPT_ACCESS: Final = {Access.READ: 1 << 0, Access.WRITE: 1 << 1, Access.FETCH: 1 << 2}
_LINEAR_VALID: Final = 1 << 7
_TO_PAGE: Final = 1 << 8


def _ept_violation(
    processor: NonRootProcessor, gpa: int, gva: int, access: Access, *, readable: bool, executable: bool, length: int
) -> ExitReason:
    fields = processor.vmcs.fields
    fields[_F.GUEST_PHYSICAL_ADDRESS] = gpa
    fields[_F.GUEST_LINEAR_ADDRESS] = gva
    qualification = _EPT_ACCESS[access] | readable << 3 | executable << 5 | _LINEAR_VALID | _TO_PAGE
    return processor.exit(ExitReason.EPT_VIOLATION, qualification, length)


# -------------------------------------------------------------------------------------------- instructions


def _halt(processor: NonRootProcessor, event: Halt) -> ExitReason | None:
    if processor.primary & _HLT:
        return processor.exit(ExitReason.HLT, 0, event.length)
    return complete(processor, event)


def _cpuid(processor: NonRootProcessor, event: Cpuid) -> ExitReason:
    return processor.exit(ExitReason.CPUID, 0, event.length)


def _time_stamp(processor: NonRootProcessor, event: ReadTimeStampCounter) -> ExitReason | None:
    """RDTSC and RDTSCP; the latter is #UD unless it is enabled."""
    if event.is_rdtscp and not processor.secondary & _RDTSCP:
        raise ProcessorFault(Vector.UD)
    if not processor.primary & _RDTSC:
        return complete(processor, event)
    state = processor.cpu.state
    if state.cr4 & int(Cr4.TSD) and state.cpl and state.protected_mode:
        raise general_protection(0)
    return processor.exit(ExitReason.RDTSCP if event.is_rdtscp else ExitReason.RDTSC, 0, event.length)


def _performance_counter(processor: NonRootProcessor, event: ReadPerformanceCounter) -> ExitReason | None:
    if processor.primary & _RDPMC:
        return processor.exit(ExitReason.RDPMC, 0, event.length)
    return complete(processor, event)


def _msr(processor: NonRootProcessor, event: MsrAccess) -> ExitReason | None:
    number = processor.cpu.state.register(GeneralRegister.RCX, 4)
    if processor.primary & _MSR_BITMAPS:
        bitmaps = processor.vmcs.fields.get(_F.MSR_BITMAPS_ADDRESS, 0)
        if not msr_exits(processor.memory, bitmaps, number, is_write=event.is_write):
            met = complete(processor, event)
            processor.long_mode_changed()
            return met
    return processor.exit(ExitReason.WRMSR if event.is_write else ExitReason.RDMSR, 0, event.length)


def _debug_register(processor: NonRootProcessor, event: DebugRegisterAccess) -> ExitReason | None:
    if not processor.primary & _MOV_DR:
        return complete(processor, event)
    qualification = MovDr(event.number, not event.is_write, event.register).encode()
    return processor.exit(ExitReason.MOV_DR, qualification, event.length)


def _mov_dr_at_any_cpl(processor: NonRootProcessor, instruction: Instruction) -> ExitReason:
    register = next(o.register for o in instruction.operands if isinstance(o, DebugOperand))
    general = next(o.register for o in instruction.operands if isinstance(o, GeneralOperand))
    qualification = MovDr(register, instruction.operation is Operation.MOV_FROM_DR, general).encode()
    return processor.exit(ExitReason.MOV_DR, qualification, instruction.length)


def _descriptor_table(processor: NonRootProcessor, event: DescriptorTableAccess) -> ExitReason | None:
    cpu = processor.cpu
    state = cpu.state
    if not event.is_write and state.cr4 & int(Cr4.UMIP) and state.cpl:
        raise general_protection(0)
    if not processor.secondary & _DESCRIPTOR_TABLES:
        return complete(processor, event)
    instruction = cpu.instruction()
    memory = instruction.memory
    displacement = 0 if memory is None else memory.displacement & 0xFFFF_FFFF_FFFF_FFFF
    processor.vmcs.fields[_F.EXIT_INSTRUCTION_INFORMATION] = instruction_information.descriptor_table(instruction)
    local = event.register in (DescriptorTableRegister.LDTR, DescriptorTableRegister.TR)
    reason = ExitReason.LDTR_TR_ACCESS if local else ExitReason.GDTR_IDTR_ACCESS
    return processor.exit(reason, displacement, event.length)


def _invalidate_page(processor: NonRootProcessor, event: InvalidatePage) -> ExitReason | None:
    if not processor.primary & _INVLPG:
        return complete(processor, event)
    operand = processor.cpu.memory_operand()
    return processor.exit(ExitReason.INVLPG, 0 if operand is None else operand[0], event.length)


def _invalidate_caches(processor: NonRootProcessor, event: InvalidateCaches) -> ExitReason | None:
    """INVD always exits, WBINVD with its control."""
    if not event.is_wbinvd:
        return processor.exit(ExitReason.INVD, 0, event.length)
    if processor.secondary & _WBINVD:
        return processor.exit(ExitReason.WBINVD, 0, event.length)
    return complete(processor, event)


def _pause(processor: NonRootProcessor, event: Pause) -> ExitReason | None:
    if processor.primary & _PAUSE:
        return processor.exit(ExitReason.PAUSE, 0, event.length)
    return complete(processor, event)


EXITS: Final[dict[type, Callable[..., ExitReason | None]]] = {
    LimitReached: complete,
    Interrupted: complete,
    InterruptWindow: _interrupt_window,
    EngineFault: complete,
    ExceptionRaised: _exception,
    SoftwareInterrupt: _software_interrupt,
    PortAccess: _port,
    PhysicalAccess: _physical,
    WatchedWrite: _watched_write,
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
    SystemCall: complete,
}
"""The answer to each event. Each entry takes the event of its own type, which the table's common type cannot say."""
