"""The engine's SVM exits as typed events: which instruction or exception it was, and what its bytes say of it.

SVM guest mode is how the engine hands over precisely, whatever runs on the PC (`machine.svm`). Each function reads the
instruction's opcode and ModRM byte (SDM Vol. 2A §2.1, Vol. 2D Appendix A); nothing has had an effect yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError
from simvirt.machine.core import opcode
from simvirt.machine.events import (
    ControlRegisterAccess,
    ControlRegisterOperation,
    Cpuid,
    DebugRegisterAccess,
    DescriptorTableAccess,
    DescriptorTableRegister,
    Event,
    ExceptionRaised,
    FlagsAccess,
    Halt,
    InterruptWindow,
    InvalidateCaches,
    InvalidatePage,
    MsrAccess,
    Pause,
    PortAccess,
    ReadPerformanceCounter,
    ReadTimeStampCounter,
    SoftwareInterrupt,
    SoftwareInterruptKind,
)
from simvirt.machine.svm import SvmExit
from simvirt.x86.exceptions import ERROR_CODE_VECTORS, Vector
from simvirt.x86.registers import GeneralRegister

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.core import Core


def svm_event(cpu: Core) -> Event | None:
    """The event that the last SVM exit stands for; None when it has been dealt with and the run simply goes on.

    :raises MonitorError: nothing asked for this exit.
    """
    handler = _SVM_EVENTS.get(cpu.engine.svm_exit)
    if handler is None:
        raise MonitorError(f"the engine reported SVM exit {cpu.engine.svm_exit:#x}, which nothing asked for")
    return handler(cpu)


def _length(cpu: Core) -> int:
    return cpu.engine.instruction_length


def _exception(cpu: Core) -> Event:
    vector = _EXCEPTIONS[cpu.engine.svm_exit - _EXCEPTION_EXIT]
    if vector in ERROR_CODE_VECTORS:
        return ExceptionRaised(vector, cpu.state.error_code & 0xFFFF)
    if vector is Vector.UD and _is_int1(cpu):
        return SoftwareInterrupt(1, SoftwareInterruptKind.INT1, cpu.instruction().length)
    if vector is Vector.DB:
        return ExceptionRaised(vector, condition=cpu.engine.debug_condition)
    return ExceptionRaised(vector)


def _is_int1(cpu: Core) -> bool:
    """INT1, which the engine does not know."""
    prefixes, code = opcode(cpu)
    return code[:1] == b"\xf1" and not prefixes.lock


def _software_interrupt(cpu: Core) -> Event:
    _, code = opcode(cpu)
    if code[0] == 0xCD:
        return SoftwareInterrupt(code[1], SoftwareInterruptKind.INT_N, _length(cpu))
    if code[0] == 0xCC:
        return SoftwareInterrupt(3, SoftwareInterruptKind.INT3, _length(cpu))
    return SoftwareInterrupt(4, SoftwareInterruptKind.INTO, _length(cpu))


def port_access(cpu: Core) -> PortAccess:
    """The last I/O access, of IN, OUT, INS or OUTS."""
    engine = cpu.engine
    port, size, is_out, value, first_byte, length = engine.io
    if first_byte >= _FIRST_IO_NOT_STRING:
        return PortAccess(port, size, is_out, value, length, is_immediate=first_byte < _FIRST_IO_BY_DX)
    prefixes, _ = opcode(cpu)
    address_size = prefixes.address_size(cpu.state.bits)
    return PortAccess(port, size, is_out, value, length, False, True, prefixes.repeated, address_size)


def _time_stamp_counter(cpu: Core) -> Event:
    _, code = opcode(cpu)
    return ReadTimeStampCounter(code[:3] == b"\x0f\x01\xf9", _length(cpu))


def _msr(cpu: Core) -> Event:
    _, code = opcode(cpu)
    return MsrAccess(code[1] == 0x30, _length(cpu))


def _cr(cpu: Core) -> Event:
    prefixes, code = opcode(cpu)
    length = _length(cpu)
    if code[1] == 0x06:
        return ControlRegisterAccess(ControlRegisterOperation.CLTS, 0, GeneralRegister.RAX, length)
    if code[1] == 0x01:
        operation = ControlRegisterOperation.LMSW if code[2] >> 3 & 7 == 6 else ControlRegisterOperation.SMSW
        return ControlRegisterAccess(operation, 0, GeneralRegister(code[2] & 7 | prefixes.rex_b << 3), length)
    number = code[2] >> 3 & 7 | prefixes.rex_r << 3
    if prefixes.lock and number == 0:  # AMD's alternative encoding of CR8
        number = 8
    register = GeneralRegister(code[2] & 7 | prefixes.rex_b << 3)
    operation = ControlRegisterOperation.MOV_TO_CR if code[1] == 0x22 else ControlRegisterOperation.MOV_FROM_CR
    return ControlRegisterAccess(operation, number, register, length)


def _dr(cpu: Core) -> Event:
    prefixes, code = opcode(cpu)
    register = GeneralRegister(code[2] & 7 | prefixes.rex_b << 3)
    return DebugRegisterAccess(code[1] == 0x23, code[2] >> 3 & 7, register, _length(cpu))


def _descriptor_table(cpu: Core) -> Event:
    code = SvmExit(cpu.engine.svm_exit)
    register, is_write = _DESCRIPTOR_TABLE_EXITS[code]
    return DescriptorTableAccess(register, is_write, _length(cpu))


def wants_iret(cpu: Core) -> bool:
    """Does whoever runs the processor want IRET handed over? It may be so for the sake of blocking by NMI alone."""
    return SvmExit.IRET in cpu.engine.intercepts.instructions


def _iret(cpu: Core) -> Event | None:
    if wants_iret(cpu):
        return FlagsAccess("iret", _length(cpu))
    cpu.unblock_nmi()
    blocked = cpu.state.nmi_blocked
    event = cpu.run_natively()
    if blocked:  # the engine's IRET has ended it all the same
        cpu.engine.block_nmi(True)
    return event


def _cache_invalidation(cpu: Core) -> Event:
    _, code = opcode(cpu)
    return InvalidateCaches(code[1] == 0x09, _length(cpu))


def _undefined(_cpu: Core) -> Event:
    """#UD: an instruction of AMD's SVM, or another that the processor of this PC does not have."""
    return ExceptionRaised(Vector.UD)


_FIRST_IO_NOT_STRING: Final = 0xE4
_FIRST_IO_BY_DX: Final = 0xEC
"""By their opcodes: INS and OUTS from 6CH, IN and OUT with an immediate port from E4H, by DX from ECH."""
_EXCEPTIONS: Final = tuple(Vector)
_EXCEPTION_EXIT: Final = int(SvmExit.EXCEPTION)
_DESCRIPTOR_TABLE_EXITS: Final = {
    SvmExit.GDTR_READ: (DescriptorTableRegister.GDTR, False),
    SvmExit.IDTR_READ: (DescriptorTableRegister.IDTR, False),
    SvmExit.LDTR_READ: (DescriptorTableRegister.LDTR, False),
    SvmExit.TR_READ: (DescriptorTableRegister.TR, False),
    SvmExit.GDTR_WRITE: (DescriptorTableRegister.GDTR, True),
    SvmExit.IDTR_WRITE: (DescriptorTableRegister.IDTR, True),
    SvmExit.LDTR_WRITE: (DescriptorTableRegister.LDTR, True),
    SvmExit.TR_WRITE: (DescriptorTableRegister.TR, True),
}
_CONTROL_REGISTERS: Final = (0, 2, 3, 4, 8)


def _svm_events() -> dict[int, Callable[[Core], Event | None]]:
    table: dict[int, Callable[[Core], Event | None]] = {
        SvmExit.VINTR: lambda _: InterruptWindow(),
        SvmExit.SWINT: _software_interrupt,
        SvmExit.HLT: lambda cpu: Halt(_length(cpu)),
        SvmExit.CPUID: lambda cpu: Cpuid(_length(cpu)),
        SvmExit.RDTSC: _time_stamp_counter,
        SvmExit.RDTSCP: _time_stamp_counter,
        SvmExit.RDPMC: lambda cpu: ReadPerformanceCounter(_length(cpu)),
        SvmExit.MSR: _msr,
        SvmExit.INVLPG: lambda cpu: InvalidatePage(_length(cpu)),
        SvmExit.INVD: _cache_invalidation,
        SvmExit.WBINVD: _cache_invalidation,
        SvmExit.PUSHF: lambda cpu: FlagsAccess("pushf", _length(cpu)),
        SvmExit.POPF: lambda cpu: FlagsAccess("popf", _length(cpu)),
        SvmExit.IRET: _iret,
        SvmExit.PAUSE: lambda cpu: Pause(_length(cpu)),
    }
    table |= dict.fromkeys(_DESCRIPTOR_TABLE_EXITS, _descriptor_table)
    for number in _CONTROL_REGISTERS:
        table[SvmExit.CR_READ + number] = _cr
        table[SvmExit.CR_WRITE + number] = _cr
    for number in range(8):
        table[SvmExit.DR_READ + number] = _dr
        table[SvmExit.DR_WRITE + number] = _dr
    for vector in range(32):
        table[SvmExit.EXCEPTION + vector] = _exception
    undefined = (
        SvmExit.RSM, SvmExit.INVLPGA, SvmExit.VMRUN, SvmExit.VMMCALL, SvmExit.VMLOAD, SvmExit.VMSAVE, SvmExit.STGI,
        SvmExit.CLGI, SvmExit.SKINIT, SvmExit.MONITOR, SvmExit.MWAIT,
    )  # fmt: skip
    table |= dict.fromkeys(undefined, _undefined)
    return table


_SVM_EVENTS: Final = _svm_events()
