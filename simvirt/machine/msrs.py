"""Model-specific registers: which exist, what they accept, and where they live.

An MSR that is not in the table does not exist: RDMSR and WRMSR of it are #GP(0) (SDM Vol. 2B "RDMSR", "WRMSR"; the
registers: SDM Vol. 4 Table 2-2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.devices import local_apic as apic
from simvirt.machine.faults import general_protection
from simvirt.machine.platforms import StateOffsets
from simvirt.machine.state import Segment
from simvirt.x86.cpuid import Feature
from simvirt.x86.flags import Efer
from simvirt.x86.msrs import APIC_BASE_BSP, APIC_BASE_ENABLE, ArchCapability, Msr
from simvirt.x86.registers import SegmentRegister

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.processor_bus import Bus

_O: Final = StateOffsets()
_FAST_STRINGS: Final = 1
"""Fast-Strings Enable: the one bit of IA32_MISC_ENABLE behind which something could stand (SDM Vol. 4 Table 2-2)."""
_RESERVED_MEMORY_TYPES: Final = (2, 3)


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
    """Each byte is a memory type, of which 2 and 3 are reserved (SDM Vol. 3A Table 12-10)."""

    def accepts(self, value: int) -> bool:
        """May the register take `value`?"""
        if value & ~self.writable or (self.canonical and not _canonical(value)):
            return False
        return not (self.memory_types and any(byte in _RESERVED_MEMORY_TYPES for byte in value.to_bytes(8, "little")))


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
    Msr.IA32_PAT: Storage(_O.pat, writable=0x0707_0707_0707_0707, memory_types=True),
}
_BASES: Final = {Msr.IA32_FS_BASE: SegmentRegister.FS, Msr.IA32_GS_BASE: SegmentRegister.GS}
MICROCODE_REVISION: Final = 0xFFFF
"""No processor of these models has an erratum here that a microcode update would have mended."""
_APIC_BASE: Final = apic.BASE | APIC_BASE_ENABLE | APIC_BASE_BSP
_NOT_SUFFERED_FROM: Final = sum(ArchCapability)
"""This processor speculates about nothing."""
_LOCAL_APIC: Final = frozenset({Msr.IA32_APIC_BASE, Msr.IA32_TSC_DEADLINE})
_EFER_WRITABLE: Final = int(Efer.SCE | Efer.LME | Efer.NXE)


def read_msr(cpu: Cpu, bus: Bus, number: int) -> int:
    """What RDMSR reads; the time-stamp counter is the bus's.

    :raises ProcessorFault: #GP(0), there is no such register.
    """
    state = cpu.state
    if number == Msr.IA32_TIME_STAMP_COUNTER:
        return bus.time_stamp()
    if number == Msr.IA32_EFER:
        return state.efer
    if number in _LOCAL_APIC:
        return _read_local_apic(bus, number)
    if number == Msr.IA32_ARCH_CAPABILITIES and bus.cpu_model.has(Feature.ARCH_CAPABILITIES):
        return _NOT_SUFFERED_FROM
    if number == Msr.IA32_BIOS_SIGN_ID:
        return MICROCODE_REVISION << 32
    if (register := _BASES.get(number)) is not None:  # type: ignore[call-overload]  # plain integers look up enum keys
        return state.segment_base(register)
    storage = STORED.get(number)
    if storage is None:
        raise general_protection(0)
    return state.word(storage.offset) if storage.size == 8 else state.doubleword(storage.offset)


def write_msr(cpu: Cpu, bus: Bus, number: int, value: int) -> None:
    """Write a register as WRMSR does; the time-stamp counter takes no writes.

    :raises ProcessorFault: #GP(0), there is no such register, or it does not take this value.
    """
    state = cpu.state
    if number == Msr.IA32_EFER:
        _write_efer(cpu, value)
    elif number in _LOCAL_APIC:
        _write_local_apic(bus, number, value)
    elif number == Msr.IA32_BIOS_SIGN_ID:
        pass  # CPUID would put the revision there; here it always is
    elif (register := _BASES.get(number)) is not None:  # type: ignore[call-overload]  # plain integers look up enum keys
        if not _canonical(value):
            raise general_protection(0)
        old = state.segment(register)
        state.set_segment(register, Segment(old.selector, value, old.limit, old.flags))
    elif (storage := STORED.get(number)) is not None:
        if not storage.accepts(value):
            raise general_protection(0)
        if storage.size == 8:
            state.set_word(storage.offset, value)
        else:
            state.set_doubleword(storage.offset, value)
    else:
        raise general_protection(0)


def _read_local_apic(bus: Bus, number: int) -> int:
    """A register of the local APIC's.

    :raises ProcessorFault: #GP(0), this processor has none.
    """
    local_apic = bus.local_apic
    if local_apic is None or (number == Msr.IA32_TSC_DEADLINE and not bus.cpu_model.has(Feature.TSC_DEADLINE)):
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


def _write_efer(cpu: Cpu, value: int) -> None:
    """IA32_EFER: LMA is read-only and ignored; LME cannot change while paging is on (SDM Vol. 3A §10.8.5)."""
    state = cpu.state
    old = state.efer
    if value & ~(_EFER_WRITABLE | int(Efer.LMA)):
        raise general_protection(0)
    if state.cr0 >> 31 and (value ^ old) & int(Efer.LME):
        raise general_protection(0)
    state.efer = value & _EFER_WRITABLE | old & int(Efer.LMA)
    cpu.engine.flush_tlb()


def _canonical(address: int) -> bool:
    return address < 1 << 47 or address >= (1 << 64) - (1 << 47)
