"""Model-specific registers: which a processor has, what they accept, and where they live.

What a CPU model has follows from what its CPUID claims, or from its family (`requirement`). Any other MSR does not
exist: RDMSR and WRMSR of it are #GP(0) (SDM Vol. 2B "RDMSR", "WRMSR"; the registers: SDM Vol. 4 Table 2-2). Of the
architectural ones there are those that this PC has something for to stand behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.machine.clock import WORD
from simvirt.machine.devices import local_apic as apic
from simvirt.machine.faults import general_protection
from simvirt.machine.memory_types import CAPABILITIES, MTRRS, PAT_TYPES, are_types, mtrr_accepts
from simvirt.machine.platforms import StateOffsets
from simvirt.machine.state import Segment
from simvirt.x86.cpuid import Feature
from simvirt.x86.flags import Efer
from simvirt.x86.msrs import APIC_BASE_BSP, APIC_BASE_ENABLE, ArchCapability, Msr
from simvirt.x86.paging import is_canonical
from simvirt.x86.registers import SegmentRegister

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.processor_bus import Bus
    from simvirt.x86.cpuid import CpuModel

_O: Final = StateOffsets()
_FAST_STRINGS: Final = 1
"""Fast-Strings Enable: the one bit of IA32_MISC_ENABLE behind which something could stand (SDM Vol. 4 Table 2-2)."""


@dataclass(frozen=True, slots=True)
class Storage:
    """An MSR that is plain storage in the state image."""

    offset: int
    size: int = 8
    writable: int = (1 << 64) - 1
    """Bits that may be set; any other is #GP(0)."""
    canonical: bool = False
    """Only canonical addresses are accepted."""
    memory_types: bool = False
    """Each byte is a memory type of a page attribute table's (SDM Vol. 3A Table 12-10)."""

    def accepts(self, value: int) -> bool:
        """May the register take `value`?"""
        if value & ~self.writable or (self.canonical and not is_canonical(value)):
            return False
        return not self.memory_types or are_types(value, PAT_TYPES)


class Since(Enum):
    """Requirements for which CPUID has no flag."""

    P6 = "family 6 or later"


REQUIREMENTS: Final[dict[int, Feature | Since]] = {
    Msr.IA32_TIME_STAMP_COUNTER: Feature.TSC,
    Msr.IA32_PLATFORM_ID: Since.P6,
    Msr.IA32_APIC_BASE: Since.P6,
    Msr.IA32_TSC_ADJUST: Feature.TSC_ADJUST,
    Msr.IA32_BIOS_SIGN_ID: Since.P6,
    Msr.IA32_MTRRCAP: Feature.MTRR,
    **dict.fromkeys(MTRRS, Feature.MTRR),
    Msr.IA32_ARCH_CAPABILITIES: Feature.ARCH_CAPABILITIES,
    Msr.IA32_SYSENTER_CS: Feature.SEP,
    Msr.IA32_SYSENTER_ESP: Feature.SEP,
    Msr.IA32_SYSENTER_EIP: Feature.SEP,
    Msr.IA32_MISC_ENABLE: Since.P6,
    Msr.IA32_DEBUGCTL: Since.P6,
    Msr.IA32_PAT: Feature.PAT,
    Msr.IA32_TSC_DEADLINE: Feature.TSC_DEADLINE,
    Msr.IA32_EFER: Feature.NX,
    Msr.IA32_STAR: Feature.SYSCALL,
    Msr.IA32_LSTAR: Feature.SYSCALL,
    Msr.IA32_CSTAR: Feature.SYSCALL,
    Msr.IA32_FMASK: Feature.SYSCALL,
    Msr.IA32_FS_BASE: Feature.LM,
    Msr.IA32_GS_BASE: Feature.LM,
    Msr.IA32_KERNEL_GS_BASE: Feature.LM,
    Msr.IA32_TSC_AUX: Feature.RDTSCP,
}
"""The MSRs that there are, and what a model has them for (SDM Vol. 4 Table 2-2, the column of comments)."""


def exists(model: CpuModel, number: int) -> bool:
    """Has this processor that register?"""
    requirement = REQUIREMENTS.get(number)
    if requirement is Since.P6:
        return model.family > _PENTIUM
    return isinstance(requirement, Feature) and model.has(requirement)


_PENTIUM: Final = 5
"""Its family."""
STORED: Final[dict[int, Storage]] = {
    Msr.IA32_SYSENTER_CS: Storage(_O.sysenter_cs, 4, 0xFFFFFFFF),
    Msr.IA32_SYSENTER_ESP: Storage(_O.sysenter_esp, canonical=True),
    Msr.IA32_SYSENTER_EIP: Storage(_O.sysenter_eip, canonical=True),
    Msr.IA32_STAR: Storage(_O.star),
    Msr.IA32_LSTAR: Storage(_O.lstar, canonical=True),
    Msr.IA32_CSTAR: Storage(_O.cstar, canonical=True),
    Msr.IA32_FMASK: Storage(_O.fmask, writable=0xFFFFFFFF),
    Msr.IA32_KERNEL_GS_BASE: Storage(_O.kernel_gs_base, canonical=True),
    Msr.IA32_TSC_AUX: Storage(_O.tsc_aux, writable=0xFFFFFFFF),
    Msr.IA32_MISC_ENABLE: Storage(_O.misc_enable, writable=_FAST_STRINGS),
    Msr.IA32_PAT: Storage(_O.pat, memory_types=True),
    **{msr: Storage(_O.mtrrs + 8 * number) for number, msr in enumerate(sorted(MTRRS))},
}
_BASES: Final = {Msr.IA32_FS_BASE: SegmentRegister.FS, Msr.IA32_GS_BASE: SegmentRegister.GS}
MICROCODE_REVISION: Final = 0xFFFF
"""No processor of these models has an erratum here that a microcode update would have mended."""
_APIC_BASE: Final = apic.BASE | APIC_BASE_ENABLE | APIC_BASE_BSP
_NOT_SUFFERED_FROM: Final = sum(ArchCapability)
"""This processor speculates about nothing."""
_LOCAL_APIC: Final = frozenset({Msr.IA32_APIC_BASE, Msr.IA32_TSC_DEADLINE})
_TIME: Final = frozenset({Msr.IA32_TIME_STAMP_COUNTER, Msr.IA32_TSC_ADJUST})
_CONSTANT: Final[dict[int, int]] = {
    Msr.IA32_PLATFORM_ID: 0,
    Msr.IA32_MTRRCAP: CAPABILITIES,
    Msr.IA32_ARCH_CAPABILITIES: _NOT_SUFFERED_FROM,
    Msr.IA32_BIOS_SIGN_ID: MICROCODE_REVISION << 32,
    Msr.IA32_DEBUGCTL: 0,
}
"""What never changes."""
_IGNORES_WRITES: Final = Msr.IA32_BIOS_SIGN_ID
"""CPUID would put the revision there; here it always is."""
_TAKES_ITS_VALUE: Final = Msr.IA32_DEBUGCTL
"""No branch is recorded and none stepped to, so no bit can be set."""
_EFER_BITS: Final = {Efer.SCE: Feature.SYSCALL, Efer.LME: Feature.LM, Efer.NXE: Feature.NX}


def read_msr(cpu: Cpu, bus: Bus, number: int) -> int:
    """What RDMSR reads; the time-stamp counter is the bus's.

    :raises ProcessorFault: #GP(0), there is no such register.
    """
    if not exists(bus.cpu_model, number):
        raise general_protection(0)
    state = cpu.state
    if number in _TIME:
        return bus.time_stamp() if number == Msr.IA32_TIME_STAMP_COUNTER else bus.time_stamp_adjustment
    if number == Msr.IA32_EFER:
        return state.efer
    if number in _LOCAL_APIC:
        return _read_local_apic(bus, number)
    if number in _CONSTANT:
        return _CONSTANT[number]
    if (register := _BASES.get(number)) is not None:  # type: ignore[call-overload]  # plain integers look up enum keys
        return state.segment_base(register)
    storage = STORED[number]
    return state.word(storage.offset) if storage.size == 8 else state.doubleword(storage.offset)


def write_msr(cpu: Cpu, bus: Bus, number: int, value: int) -> None:
    """Write a register as WRMSR does.

    :raises ProcessorFault: #GP(0), there is no such register, or it does not take this value.
    """
    if not exists(bus.cpu_model, number):
        raise general_protection(0)
    state = cpu.state
    if number == Msr.IA32_EFER:
        _write_efer(cpu, bus.cpu_model, value)
    elif number in _TIME:
        _write_time(bus, number, value)
    elif number in _LOCAL_APIC:
        _write_local_apic(bus, number, value)
    elif number in _CONSTANT:
        if number != _IGNORES_WRITES and (number != _TAKES_ITS_VALUE or value):
            raise general_protection(0)
    elif (register := _BASES.get(number)) is not None:  # type: ignore[call-overload]  # plain integers look up enum keys
        if not is_canonical(value):
            raise general_protection(0)
        old = state.segment(register)
        state.set_segment(register, Segment(old.selector, value, old.limit, old.flags))
    else:
        storage = STORED[number]
        if not storage.accepts(value):
            raise general_protection(0)
        if number in MTRRS and not mtrr_accepts(number, value, bus.cpu_model.physical_bits):
            raise general_protection(0)
        if storage.size == 8:
            state.set_word(storage.offset, value)
        else:
            state.set_doubleword(storage.offset, value)


def _write_time(bus: Bus, number: int, value: int) -> None:
    """The counter and what it has been moved by change together (SDM Vol. 3B §18.17, §18.17.3).

    Processors of the Pentium's time clear the counter's upper half when the lower one is written.
    """
    adjustment = bus.time_stamp_adjustment
    if number == Msr.IA32_TIME_STAMP_COUNTER:
        if bus.cpu_model.family <= _PENTIUM:
            value &= 0xFFFF_FFFF
        value = adjustment + value - bus.time_stamp()
    bus.move_time_stamp(value & WORD)


def _read_local_apic(bus: Bus, number: int) -> int:
    """A register of the local APIC's.

    :raises ProcessorFault: #GP(0), this processor has none.
    """
    local_apic = bus.local_apic
    if local_apic is None:
        raise general_protection(0)
    return local_apic.tsc_deadline if number == Msr.IA32_TSC_DEADLINE else _APIC_BASE


def _write_local_apic(bus: Bus, number: int, value: int) -> None:
    """IA32_TSC_DEADLINE arms the timer; IA32_APIC_BASE takes the value alone that it has.

    :raises ProcessorFault: #GP(0).
    """
    was = _read_local_apic(bus, number)
    if number == Msr.IA32_TSC_DEADLINE:
        assert bus.local_apic is not None  # as reading has found
        bus.local_apic.tsc_deadline = value
    elif value != was:
        raise general_protection(0)


def _write_efer(cpu: Cpu, model: CpuModel, value: int) -> None:
    """IA32_EFER: LMA is read-only and ignored; LME cannot change while paging is on (SDM Vol. 3A §10.8.5)."""
    state = cpu.state
    old = state.efer
    writable = sum(int(bit) for bit, feature in _EFER_BITS.items() if model.has(feature))
    if value & ~(writable | int(Efer.LMA)):
        raise general_protection(0)
    if state.cr0 >> 31 and (value ^ old) & int(Efer.LME):
        raise general_protection(0)
    state.efer = value & writable | old & int(Efer.LMA)
    cpu.engine.flush_tlb()
