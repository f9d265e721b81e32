"""What a processor offers of VMX: the contents of its VMX capability MSRs (SDM Vol. 3D Appendix A).

A control that is not offered must be 0: setting it makes VM entry fail, as on any processor that lacks it. `THIS_PC`
offers everything that is modelled; the other presets offer what processors of their generation had, so that a VMM
can be written for, and tried on, the machines of its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnknownNameError
from simvirt.x86.cpuid import CR4_FEATURES
from simvirt.x86.flags import Cr0, Cr4
from simvirt.x86.msrs import Msr
from simvirt.x86.vmx import (
    CONTROL_WORDS,
    ActivityState,
    EntryControls,
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import IntFlag

REQUIRED: Final[dict[type[IntFlag], int]] = {
    PinControls: 0x0000_0016,
    PrimaryControls: 0x0400_6172,
    SecondaryControls: 0,
    ExitControls: 0x0003_6DFB,
    EntryControls: 0x0000_11FB,
}
"""Bits that must be 1, by the *true* capability MSRs, which leave CR3 exiting and the debug controls free (Vol. 3D
Appendix A.2 to A.5)."""

CR0_FIXED_1: Final = int(Cr0.PE | Cr0.PG)
"""IA32_VMX_CR0_FIXED0: bits of CR0 that must be 1 in VMX operation; an unrestricted guest is free of both. Intel's
processors fix NE too (Vol. 3D Appendix A.7); here it is free, for with NE fixed a guest's x87 errors would arrive by
another way than on the bare PC."""
CR4_FIXED_1: Final = int(Cr4.VMXE)
"""IA32_VMX_CR4_FIXED0: bits of CR4 that must be 1 in VMX operation (Vol. 3D Appendix A.8). IA32_VMX_CR4_FIXED1 has
those that some CPU model has; for a guest VM entry goes by those of its own model."""
CR3_TARGETS: Final = 4
"""Bits 24:16 of IA32_VMX_MISC: how many CR3-target values there are (Vol. 3D Appendix A.6)."""
PHYSICAL_BITS: Final = 40
"""Width of a physical address."""
PREEMPTION_TIMER_RATE: Final = 5
"""Bits 4:0 of IA32_VMX_MISC: the VMX-preemption timer counts down when this bit of the TSC changes."""
MSR_AREA_LIMIT: Final = 512
"""Entries that an MSR area should not exceed: bits 27:25 of IA32_VMX_MISC are 0 (Vol. 3D Appendix A.6)."""
REVISION: Final = 1
"""VMCS revision identifier: the first doubleword of a VMXON region and of a VMCS region."""
REGION_SIZE: Final = 4096
EPTP_SWITCHING: Final = 1
"""Bit 0 of the VM-function controls: VM function 0 (SDM Vol. 3C Table 25-10)."""

ACTIVITY_STATES: Final = frozenset({ActivityState.ACTIVE, ActivityState.HLT})
"""Activity states in which a VM entry may leave the processor: bits 8:6 of IA32_VMX_MISC name all but "active"."""

_HLT_STATE: Final = 1 << 6
_WRITE_BACK: Final = 6
_EPT_AND_VPID: Final = (
    1 << 6  # page walks of four levels
    | 1 << 8  # uncacheable paging structures
    | 1 << 14  # write-back ones
    | 1 << 16  # pages of 2 MBytes
    | 1 << 17  # and of 1 GByte
    | 1 << 20  # INVEPT
    | 1 << 25  # single-context
    | 1 << 26  # all-context
)
_EPT_ACCESSED_DIRTY: Final = 1 << 21
_INVVPID: Final = 1 << 32 | 0xF << 40
_HIGHEST_FIELD_INDEX: Final = max((field >> 1) & 0x1FF for field in VmcsField)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One processor's VMX capabilities."""

    name: str
    title: str
    year: int
    offered: Mapping[type[IntFlag], int]
    """The named controls that may be 1."""
    ept_accessed_dirty: bool = False
    vm_functions: int = 0

    def allowed(self, flags: type[IntFlag]) -> int:
        """The bits of a control word that may be 1."""
        return self.offered[flags] | REQUIRED[flags] | CONTROL_WORDS[flags].default1

    def offers(self, control: IntFlag) -> bool:
        """May this control be 1?"""
        return bool(self.offered[type(control)] & control)

    def msr(self, number: Msr) -> int:
        """What RDMSR of a VMX capability MSR gives.

        >>> hex(THIS_PC.msr(Msr.IA32_VMX_TRUE_PINBASED_CTLS) & 0xFFFFFFFF)
        '0x16'

        Raises:
            UnknownNameError: it is none of those registers, or the processor has no such register.
        """
        if number in _CONTROL_MSRS:
            flags, true_one = _CONTROL_MSRS[number]
            must = REQUIRED[flags] if true_one else CONTROL_WORDS[flags].default1
            return must | self.allowed(flags) << 32
        values = {
            Msr.IA32_VMX_BASIC: REVISION | REGION_SIZE << 32 | _WRITE_BACK << 50 | 1 << 54 | 1 << 55,
            Msr.IA32_VMX_MISC: PREEMPTION_TIMER_RATE | 1 << 5 | _HLT_STATE | CR3_TARGETS << 16,
            Msr.IA32_VMX_CR0_FIXED0: CR0_FIXED_1,
            Msr.IA32_VMX_CR0_FIXED1: 0xFFFF_FFFF,
            Msr.IA32_VMX_CR4_FIXED0: CR4_FIXED_1,
            Msr.IA32_VMX_CR4_FIXED1: CR4_FIXED_1 | CR4_FEATURES,
            Msr.IA32_VMX_VMCS_ENUM: _HIGHEST_FIELD_INDEX << 1,
        }
        if self.offers(SecondaryControls.ENABLE_EPT) or self.offers(SecondaryControls.ENABLE_VPID):
            ept = _EPT_AND_VPID if self.offers(SecondaryControls.ENABLE_EPT) else 0
            dirty = _EPT_ACCESSED_DIRTY if self.ept_accessed_dirty else 0
            vpid = _INVVPID if self.offers(SecondaryControls.ENABLE_VPID) else 0
            values[Msr.IA32_VMX_EPT_VPID_CAP] = ept | dirty | vpid
        if self.offers(SecondaryControls.ENABLE_VM_FUNCTIONS):
            values[Msr.IA32_VMX_VMFUNC] = self.vm_functions
        try:
            return values[number]
        except KeyError:
            raise UnknownNameError("VMX capability MSR", number.name, [msr.name for msr in values]) from None


_CONTROL_MSRS: Final = {
    Msr.IA32_VMX_PINBASED_CTLS: (PinControls, False),
    Msr.IA32_VMX_PROCBASED_CTLS: (PrimaryControls, False),
    Msr.IA32_VMX_EXIT_CTLS: (ExitControls, False),
    Msr.IA32_VMX_ENTRY_CTLS: (EntryControls, False),
    Msr.IA32_VMX_PROCBASED_CTLS2: (SecondaryControls, True),
    Msr.IA32_VMX_TRUE_PINBASED_CTLS: (PinControls, True),
    Msr.IA32_VMX_TRUE_PROCBASED_CTLS: (PrimaryControls, True),
    Msr.IA32_VMX_TRUE_EXIT_CTLS: (ExitControls, True),
    Msr.IA32_VMX_TRUE_ENTRY_CTLS: (EntryControls, True),
}

_P, _S, _X, _E = PrimaryControls, SecondaryControls, ExitControls, EntryControls
_FIRST_PRIMARY: Final = (
    _P.INTERRUPT_WINDOW_EXITING | _P.USE_TSC_OFFSETTING | _P.HLT_EXITING | _P.INVLPG_EXITING
    | _P.RDPMC_EXITING | _P.RDTSC_EXITING | _P.CR3_LOAD_EXITING | _P.CR3_STORE_EXITING | _P.CR8_LOAD_EXITING
    | _P.CR8_STORE_EXITING | _P.USE_TPR_SHADOW | _P.MOV_DR_EXITING | _P.UNCONDITIONAL_IO_EXITING | _P.USE_IO_BITMAPS
    | _P.USE_MSR_BITMAPS | _P.PAUSE_EXITING
)  # fmt: skip
_FIRST_EXIT: Final = _X.SAVE_DEBUG_CONTROLS | _X.HOST_ADDRESS_SPACE_SIZE | _X.ACKNOWLEDGE_INTERRUPT_ON_EXIT
_FIRST_ENTRY: Final = _E.LOAD_DEBUG_CONTROLS | _E.IA32E_MODE_GUEST
_PAT_EXIT: Final = _X.SAVE_IA32_PAT | _X.LOAD_IA32_PAT | _X.SAVE_IA32_EFER | _X.LOAD_IA32_EFER
_PAT_ENTRY: Final = _E.LOAD_IA32_PAT | _E.LOAD_IA32_EFER
_PIN: Final = PinControls.EXTERNAL_INTERRUPT_EXITING | PinControls.NMI_EXITING
_SECOND_PIN: Final = _PIN | PinControls.VIRTUAL_NMIS


def _preset(
    name: str,
    title: str,
    year: int,
    *,
    primary: PrimaryControls,
    secondary: SecondaryControls | int = 0,
    pin: PinControls = _PIN,
    leave: ExitControls = _FIRST_EXIT,
    enter: EntryControls = _FIRST_ENTRY,
    accessed_dirty: bool = False,
    vm_functions: int = 0,
) -> Capabilities:
    offered: dict[type[IntFlag], int] = {
        PinControls: int(pin),
        PrimaryControls: int(primary),
        SecondaryControls: int(secondary),
        ExitControls: int(leave),
        EntryControls: int(enter),
    }
    return Capabilities(name, title, year, offered, accessed_dirty, vm_functions)


_SECOND_PRIMARY: Final = _FIRST_PRIMARY | _P.NMI_WINDOW_EXITING | _P.ACTIVATE_SECONDARY_CONTROLS
_NEHALEM_PRIMARY: Final = _SECOND_PRIMARY | _P.MONITOR_TRAP_FLAG
_NEHALEM_PIN: Final = _SECOND_PIN | PinControls.ACTIVATE_PREEMPTION_TIMER
_NEHALEM_SECONDARY: Final = (
    _S.WBINVD_EXITING | _S.ENABLE_VPID | _S.ENABLE_EPT | _S.DESCRIPTOR_TABLE_EXITING | _S.ENABLE_RDTSCP
)
_NEHALEM_EXIT: Final = _FIRST_EXIT | _PAT_EXIT | _X.SAVE_PREEMPTION_TIMER
_NEHALEM_ENTRY: Final = _FIRST_ENTRY | _PAT_ENTRY
_WESTMERE_SECONDARY: Final = _NEHALEM_SECONDARY | _S.UNRESTRICTED_GUEST | _S.PAUSE_LOOP_EXITING
_HASWELL_SECONDARY: Final = _WESTMERE_SECONDARY | _S.ENABLE_VM_FUNCTIONS
_BROADWELL_SECONDARY: Final = _HASWELL_SECONDARY | _S.ENABLE_PML | _S.EPT_VIOLATION_VE
_SKYLAKE_SECONDARY: Final = _BROADWELL_SECONDARY | _S.USE_TSC_SCALING

THIS_PC: Final = _preset(
    "this-pc", "everything that this PC models", 2026,
    pin=_NEHALEM_PIN, primary=_NEHALEM_PRIMARY, secondary=_SKYLAKE_SECONDARY,
    leave=_NEHALEM_EXIT, enter=_NEHALEM_ENTRY, accessed_dirty=True, vm_functions=EPTP_SWITCHING,
)  # fmt: skip

PRESETS: Final[dict[str, Capabilities]] = {
    preset.name: preset
    for preset in (
        _preset("prescott-2005", "Pentium 4 662 and 672, the first with VT-x", 2005, primary=_FIRST_PRIMARY),
        _preset(
            "merom-2006", "Core 2: secondary controls, virtual NMIs", 2006,
            pin=_SECOND_PIN, primary=_SECOND_PRIMARY, secondary=_S.WBINVD_EXITING,
        ),
        _preset(
            "nehalem-2008", "Nehalem: EPT, VPIDs, the preemption timer", 2008,
            pin=_NEHALEM_PIN, primary=_NEHALEM_PRIMARY, secondary=_NEHALEM_SECONDARY,
            leave=_NEHALEM_EXIT, enter=_NEHALEM_ENTRY,
        ),
        _preset(
            "westmere-2010", "Westmere: unrestricted guests, PAUSE-loop exiting", 2010,
            pin=_NEHALEM_PIN, primary=_NEHALEM_PRIMARY, secondary=_WESTMERE_SECONDARY,
            leave=_NEHALEM_EXIT, enter=_NEHALEM_ENTRY,
        ),
        _preset(
            "haswell-2013", "Haswell: accessed and dirty flags in EPT, VM functions", 2013,
            pin=_NEHALEM_PIN, primary=_NEHALEM_PRIMARY, secondary=_HASWELL_SECONDARY,
            leave=_NEHALEM_EXIT, enter=_NEHALEM_ENTRY, accessed_dirty=True, vm_functions=EPTP_SWITCHING,
        ),
        _preset(
            "broadwell-2014", "Broadwell: page-modification logging, virtualization exceptions", 2014,
            pin=_NEHALEM_PIN, primary=_NEHALEM_PRIMARY, secondary=_BROADWELL_SECONDARY,
            leave=_NEHALEM_EXIT, enter=_NEHALEM_ENTRY, accessed_dirty=True, vm_functions=EPTP_SWITCHING,
        ),
        _preset(
            "skylake-2015", "Skylake: TSC scaling", 2015,
            pin=_NEHALEM_PIN, primary=_NEHALEM_PRIMARY, secondary=_SKYLAKE_SECONDARY,
            leave=_NEHALEM_EXIT, enter=_NEHALEM_ENTRY, accessed_dirty=True, vm_functions=EPTP_SWITCHING,
        ),
        THIS_PC,
    )
}  # fmt: skip
"""By name, oldest first. What came when: the feature lists of Bochs's processor models (cpu/cpudb, 2.7), of each less
what this PC does not model."""


def find_capabilities(name: str) -> Capabilities:
    """The preset of this name.

    Raises:
        UnknownNameError: there is none.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise UnknownNameError("VMX capability preset", name, PRESETS) from None
