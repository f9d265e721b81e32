"""SYSENTER and SYSCALL, which the engine leaves to us; SYSEXIT and SYSRET run in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.faults import ProcessorFault, general_protection
from simvirt.machine.state import Segment
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Efer, Eflags
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu

_FLAT_CODE_32 = 0x00CF9B00
_FLAT_CODE_64 = 0x00AF9B00
_FLAT_DATA = 0x00CF9300
_LIMIT = 0xFFFFFFFF


def sysenter(cpu: Cpu, *, supported: bool) -> None:
    """SYSENTER (SDM Vol. 2B): to ring 0 at IA32_SYSENTER_EIP, with the flat segments that IA32_SYSENTER_CS implies.

    :raises ProcessorFault: #GP(0) in real-address mode or with a null IA32_SYSENTER_CS.
    """
    if not supported:
        raise ProcessorFault(Vector.UD)
    state, o = cpu.state, cpu.engine.platform.state
    selector = state.doubleword(o.sysenter_cs) & 0xFFFC
    if not state.protected_mode or not selector:
        raise general_protection(0)
    long_mode = state.long_mode
    mask = (1 << 64) - 1 if long_mode else 0xFFFFFFFF
    state.set_segment(SegmentRegister.CS, Segment(selector, 0, _LIMIT, _FLAT_CODE_64 if long_mode else _FLAT_CODE_32))
    state.set_segment(SegmentRegister.SS, Segment(selector + 8, 0, _LIMIT, _FLAT_DATA))
    state.eflags = state.eflags & ~int(Eflags.VM | Eflags.IF)
    state.rsp = state.word(o.sysenter_esp) & mask
    state.rip = state.word(o.sysenter_eip) & mask
    state.refresh(cpl=0)
    cpu.retire()


def syscall(cpu: Cpu, length: int, *, supported: bool) -> None:
    """SYSCALL (SDM Vol. 2B): to ring 0 at IA32_LSTAR; RIP goes to RCX, RFLAGS to R11 and then through IA32_FMASK.

    Intel's processors have it in 64-bit mode alone. `supported` is what CPUID says of it.

    :raises ProcessorFault: #UD without IA32_EFER.SCE, or outside 64-bit mode.
    """
    state, o = cpu.state, cpu.engine.platform.state
    if not supported or not state.code_64 or not state.efer & int(Efer.SCE):
        raise ProcessorFault(Vector.UD)
    selector = state.word(o.star) >> 32 & 0xFFFC
    eflags = state.eflags
    state[GeneralRegister.RCX] = state.rip + length & (1 << 64) - 1
    state[GeneralRegister.R11] = eflags & ~int(Eflags.RF)
    state.set_segment(SegmentRegister.CS, Segment(selector, 0, _LIMIT, _FLAT_CODE_64))
    state.set_segment(SegmentRegister.SS, Segment(selector + 8, 0, _LIMIT, _FLAT_DATA))
    state.eflags = eflags & ~state.word(o.fmask) & ~int(Eflags.RF)
    state.rip = state.word(o.lstar)
    state.refresh(cpl=0)
    cpu.retire()
