"""What the hardware does with each event: the rest of the processor around the engine.

`complete` is the bare processor's answer to an event of `Cpu.run`: deliver the exception, ask the bus, load the
register. The bare PC calls it for everything, VMX non-root mode for what its controls do not turn into VM exits. It is
a table over the event union; each entry reads like the instruction's page in SDM Vol. 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import EngineError
from simvirt.machine import device_access
from simvirt.machine.control_registers import TASK_PRIORITY, access_control_register, access_task_priority
from simvirt.machine.core import opcode
from simvirt.machine.debug_registers import GENERAL_DETECT
from simvirt.machine.events import (
    ControlRegisterAccess,
    Cpuid,
    DebuggerHit,
    DebugRegisterAccess,
    DescriptorTableAccess,
    DescriptorTableRegister,
    EngineFault,
    EptMisconfigured,
    EptRefusal,
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
from simvirt.machine.interrupts import Interruption, Source
from simvirt.machine.msrs import read_msr, write_msr
from simvirt.machine.port_permission import io_allowed
from simvirt.machine.segment_loading import load_local_descriptor_table, load_task_register
from simvirt.machine.string_io import further_iterations, runs_on
from simvirt.machine.system_calls import syscall, sysenter
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr4, Dr6, Eflags, iopl
from simvirt.x86.paging import is_canonical
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.cpu import Cpu
    from simvirt.machine.processor_bus import Bus
    from simvirt.machine.state import ProcessorState


def complete(cpu: Cpu, bus: Bus, event: Event) -> None:
    """Do what the processor does about `event`; exceptions are delivered to the guest.

    :raises Shutdown: a triple fault.
    :raises EngineError: the engine failed.
    """
    met: Event | None = event
    while met is not None:
        try:
            met = _COMPLETIONS[type(met)](cpu, bus, met)
        except ProcessorFault as fault:
            cpu.raise_fault(fault)
            return


def complete_once(cpu: Cpu, bus: Bus, event: Event) -> Event | None:
    """As `complete`, but an event or fault that the instruction meets is returned or raised, not dealt with.

    :raises ProcessorFault: the instruction faults.
    """
    return _COMPLETIONS[type(event)](cpu, bus, event)


# -------------------------------------------------------------------------------------------- exceptions and interrupts


def _nothing(_cpu: Cpu, _bus: Bus, _event: Event) -> None:
    """The run simply ended here."""


def _exception(cpu: Cpu, _bus: Bus, event: ExceptionRaised) -> None:
    cpu.raise_exception(event.vector, event.error_code, event.cr2, condition=event.condition)


def _software_interrupt(cpu: Cpu, _bus: Bus, event: SoftwareInterrupt) -> None:
    """INT n and its kin: a trap, so its handler returns behind it. A fault on the way stands on the instruction."""
    state = cpu.state
    if state.virtual_8086_mode and iopl(state.eflags) < 3 and event.kind is SoftwareInterruptKind.INT_N:
        raise general_protection(0)
    after = state.rip + event.length
    source = Source.EXCEPTION if event.kind is SoftwareInterruptKind.INT1 else Source.SOFTWARE
    if cpu.deliver(Interruption(event.vector, source, after if state.code_64 else after & 0xFFFFFFFF)):
        cpu.engine.count += 1


def _nmi(cpu: Cpu, _bus: Bus, _event: NonMaskableInterrupt) -> None:
    cpu.deliver_nmi()


def _engine_fault(cpu: Cpu, _bus: Bus, event: EngineFault) -> None:
    raise EngineError(
        f"the engine stopped with status {event.status} at {cpu.state.rip:#x}: "
        "this is a bug in simvirt, please report it"
    )


# -------------------------------------------------------------------------------------------- input, output, devices


def _port(cpu: Cpu, bus: Bus, event: PortAccess) -> None:
    """IN, OUT, INS, OUTS (SDM Vol. 1 §19.5 "Protected-Mode I/O")."""
    if cpu.state.cpl and not io_allowed(cpu, event.port, event.size):
        raise general_protection(0)
    if event.is_out:
        value = event.value
        bus.write_port(event.port, event.size, value)
    else:
        value = bus.read_port(event.port, event.size)
    goes_on = event.is_repeated and runs_on(cpu, event)
    finish_port_access(cpu, event, value)
    if goes_on:
        further_iterations(cpu, bus, event)


def finish_port_access(cpu: Cpu, event: PortAccess, value: int) -> None:
    """Finish an I/O instruction whose port has been served: store `value`, move string registers, advance RIP."""
    state = cpu.state
    if cpu.breakpoints.hardware:
        cpu.note_port(event.port, event.size)
    if not event.is_string:
        if not event.is_out:
            state.set_register(GeneralRegister.RAX, event.size, value)
        cpu.advance(event.length)
        return
    size = event.address_size
    index = GeneralRegister.RSI if event.is_out else GeneralRegister.RDI
    offset = state.register(index, size)
    if not event.is_out:
        address = offset + (0 if state.code_64 else state.segment_base(SegmentRegister.ES))
        cpu.memory.write_integer(address, event.size, value, user=state.cpl == 3, explicit=True)
    step = -event.size if state.eflags & int(Eflags.DF) else event.size
    state.set_register(index, size, offset + step)
    if not event.is_repeated:
        cpu.advance(event.length)
        return
    remaining = state.register(GeneralRegister.RCX, size) - 1
    state.set_register(GeneralRegister.RCX, size, remaining)
    # As the engine counts the other string instructions: it tests the count once more after the last iteration, unless
    # it steps by TF or a shadow is in force, which lasts until the instruction is done (docs/counting.md).
    shadow = state.interrupt_shadow
    if remaining == 0 and (shadow or bool(state.eflags & int(Eflags.TF))):
        cpu.advance(event.length)
    else:
        cpu.retire()
        state.interrupt_shadow = shadow
        state.eflags |= int(Eflags.RF)  # between two iterations (SDM Vol. 3B §18.3.1.1)


def _no_ept(_cpu: Cpu, _bus: Bus, event: EptRefusal) -> None:
    raise EngineError(f"an EPT outside of VMX non-root operation: {event}; this is a bug in simvirt, please report it")


def _physical(cpu: Cpu, bus: Bus, event: PhysicalAccess) -> Event | None:
    return device_access.complete(cpu, bus, event)


def _watched_write(_cpu: Cpu, _bus: Bus, event: WatchedWrite) -> None:
    raise EngineError(f"a write to {event.gva:#x} was watched and nobody took it: this is a bug in simvirt")


def _halt(cpu: Cpu, _bus: Bus, event: Halt) -> None:
    """HLT: the processor sleeps; whoever runs it sees the event and waits for an interrupt."""
    cpu.advance(event.length)


# -------------------------------------------------------------------------------------------- identification and time


def _cpuid(cpu: Cpu, bus: Bus, event: Cpuid) -> None:
    state = cpu.state
    leaf, subleaf = state.register(GeneralRegister.RAX, 4), state.register(GeneralRegister.RCX, 4)
    values = bus.cpu_model.cpuid(leaf, subleaf)
    for register, value in zip(
        (GeneralRegister.RAX, GeneralRegister.RBX, GeneralRegister.RCX, GeneralRegister.RDX), values, strict=True
    ):
        state[register] = value
    cpu.advance(event.length)


def _time_stamp(cpu: Cpu, bus: Bus, event: ReadTimeStampCounter) -> None:
    """RDTSC, RDTSCP: at CPL above 0 only while CR4.TSD is 0."""
    state = cpu.state
    if event.is_rdtscp and not bus.cpu_model.has_rdtscp:
        raise ProcessorFault(Vector.UD)
    if state.cr4 & int(Cr4.TSD) and state.cpl and state.protected_mode:
        raise general_protection(0)
    write_time_stamp(cpu, bus.time_stamp(), event)


def write_time_stamp(cpu: Cpu, value: int, event: ReadTimeStampCounter) -> None:
    """Leave `value` in EDX:EAX, for RDTSCP IA32_TSC_AUX in ECX, and go on behind the instruction."""
    state = cpu.state
    state[GeneralRegister.RAX] = value & 0xFFFFFFFF
    state[GeneralRegister.RDX] = value >> 32 & 0xFFFFFFFF
    if event.is_rdtscp:
        state[GeneralRegister.RCX] = state.doubleword(cpu.engine.platform.state.tsc_aux)
    cpu.advance(event.length)


def _performance_counter(_cpu: Cpu, _bus: Bus, _event: ReadPerformanceCounter) -> None:
    """RDPMC: this processor has no performance counters, so any number in ECX is one too many."""
    raise general_protection(0)


def _msr(cpu: Cpu, bus: Bus, event: MsrAccess) -> None:
    state = cpu.state
    number = state.register(GeneralRegister.RCX, 4)
    if event.is_write:
        value = state.register(GeneralRegister.RDX, 4) << 32 | state.register(GeneralRegister.RAX, 4)
        write_msr(cpu, bus, number, value)
    else:
        value = read_msr(cpu, bus, number)
        state[GeneralRegister.RAX] = value & 0xFFFFFFFF
        state[GeneralRegister.RDX] = value >> 32
    cpu.advance(event.length)


# ------------------------------------------------------------------------------------------ control and debug registers


def _control_register(cpu: Cpu, bus: Bus, event: ControlRegisterAccess) -> None:
    if event.number == TASK_PRIORITY:
        access_task_priority(cpu, bus, event)
    else:
        access_control_register(cpu, event)


def check_general_detect(state: ProcessorState) -> None:
    """MOV of a debug register while DR7.GD is 1 is a fault, whose handler finds GD clear (SDM Vol. 3B §18.3.1.3).

    :raises ProcessorFault: #DB.
    """
    if state.debug_register(7) & GENERAL_DETECT:
        state.eflags |= int(Eflags.RF)  # of all #DB that are faults, only an instruction breakpoint pushes RF as it was
        raise ProcessorFault(Vector.DB, condition=int(Dr6.BD))


def _debug_register(cpu: Cpu, _bus: Bus, event: DebugRegisterAccess) -> None:
    """MOV to and from DR0 to DR7; DR4 and DR5 are DR6 and DR7 unless CR4.DE is set."""
    state = cpu.state
    number = event.number
    if number in (4, 5):
        if state.cr4 & int(Cr4.DE):
            raise ProcessorFault(Vector.UD)
        number += 2
    check_general_detect(state)
    if event.is_write:
        value = state[event.register] if state.code_64 else state.register(event.register, 4)
        if number >= 6 and value >> 32:
            raise general_protection(0)
        if number == 6:
            value = value & ~0x1000 | 0xFFFF0FF0
        elif number == 7:
            value = value & ~0xD800 | 0x400
        state.set_debug_register(number, value)
    else:
        state[event.register] = state.debug_register(number)
    cpu.advance(event.length)


# -------------------------------------------------------------------------------------------- descriptor tables, caches


def _descriptor_table(cpu: Cpu, _bus: Bus, event: DescriptorTableAccess) -> Event | None:
    """LTR and LLDT; the checks of LGDT and LIDT, and of SGDT, SIDT, SLDT, STR by CR4.UMIP, which run in the engine."""
    state = cpu.state
    if not event.is_write:
        if state.cr4 & int(Cr4.UMIP) and state.cpl:
            raise general_protection(0)
        return cpu.run_natively()
    operand = cpu.memory_operand()
    if event.register in (DescriptorTableRegister.GDTR, DescriptorTableRegister.IDTR):
        if (
            state.code_64
            and operand is not None
            and not is_canonical(cpu.memory.read_integer(operand[0] + 2, 8, explicit=True))
        ):
            raise general_protection(0)
        return cpu.run_natively()
    if operand is None:
        prefixes, code = opcode(cpu)
        selector = state.register(code[2] & 7 | prefixes.rex_b << 3, 2)
    else:
        selector = cpu.memory.read_integer(operand[0], 2, explicit=True)
    load = load_task_register if event.register is DescriptorTableRegister.TR else load_local_descriptor_table
    load(state, cpu.memory, selector)
    cpu.advance(event.length)
    return None


def _invalidate_page(cpu: Cpu, _bus: Bus, event: InvalidatePage) -> None:
    """INVLPG: the engine keeps large pages as small ones, so all translations go."""
    cpu.engine.flush_tlb()
    cpu.advance(event.length)


def _invalidate_caches(cpu: Cpu, _bus: Bus, event: InvalidateCaches) -> None:
    """INVD, WBINVD: no caches are simulated, so nothing is to be written back or lost."""
    cpu.advance(event.length)


def _flags(cpu: Cpu, _bus: Bus, event: FlagsAccess) -> Event | None:
    if event.mnemonic == "iret":
        cpu.unblock_nmi()
    return cpu.run_natively()


def _pause(cpu: Cpu, _bus: Bus, event: Pause) -> None:
    cpu.advance(event.length)


def _x87_error(_cpu: Cpu, bus: Bus, _event: X87ErrorReported) -> None:
    """FERR#; whoever runs the processor sees the event and waits for an interrupt, as for HLT."""
    bus.report_x87_error()


def _system_call(cpu: Cpu, bus: Bus, event: SystemCall) -> None:
    if event.is_sysenter:
        sysenter(cpu, supported=bus.cpu_model.has_sysenter)
    else:
        syscall(cpu, event.length, supported=bus.cpu_model.has_syscall)


# Each entry takes the event of its own type, which the table's common type cannot say, and may return another one that
# the instruction met on its way.
_COMPLETIONS: Final[dict[type, Callable[..., Event | None]]] = {
    LimitReached: _nothing,
    Interrupted: _nothing,
    DebuggerHit: _nothing,
    InterruptWindow: _nothing,
    NonMaskableInterrupt: _nmi,
    EngineFault: _engine_fault,
    ExceptionRaised: _exception,
    SoftwareInterrupt: _software_interrupt,
    PortAccess: _port,
    PhysicalAccess: _physical,
    EptViolated: _no_ept,
    EptMisconfigured: _no_ept,
    ModificationLogFull: _no_ept,
    WatchedWrite: _watched_write,
    Halt: _halt,
    Cpuid: _cpuid,
    ReadTimeStampCounter: _time_stamp,
    ReadPerformanceCounter: _performance_counter,
    MsrAccess: _msr,
    ControlRegisterAccess: _control_register,
    DebugRegisterAccess: _debug_register,
    DescriptorTableAccess: _descriptor_table,
    InvalidatePage: _invalidate_page,
    InvalidateCaches: _invalidate_caches,
    FlagsAccess: _flags,
    Pause: _pause,
    X87ErrorReported: _x87_error,
    SystemCall: _system_call,
}
