"""Model-specific registers, by the manual's names and numbers (SDM Vol. 4 Chapter 2)."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final


class Msr(IntEnum):
    """An architectural MSR (SDM Vol. 4 Table 2-2), or an AMD one where a comment says so."""

    IA32_TIME_STAMP_COUNTER = 0x10
    IA32_PLATFORM_ID = 0x17
    IA32_APIC_BASE = 0x1B
    IA32_FEATURE_CONTROL = 0x3A
    IA32_TSC_ADJUST = 0x3B
    IA32_BIOS_UPDT_TRIG = 0x79
    IA32_BIOS_SIGN_ID = 0x8B
    IA32_MTRRCAP = 0xFE
    IA32_ARCH_CAPABILITIES = 0x10A
    IA32_SYSENTER_CS = 0x174
    IA32_SYSENTER_ESP = 0x175
    IA32_SYSENTER_EIP = 0x176
    IA32_MCG_CAP = 0x179
    IA32_MCG_STATUS = 0x17A
    IA32_MISC_ENABLE = 0x1A0
    IA32_DEBUGCTL = 0x1D9
    IA32_MTRR_PHYSBASE0 = 0x200
    IA32_MTRR_PHYSMASK0 = 0x201
    IA32_MTRR_PHYSBASE1 = 0x202
    IA32_MTRR_PHYSMASK1 = 0x203
    IA32_MTRR_PHYSBASE2 = 0x204
    IA32_MTRR_PHYSMASK2 = 0x205
    IA32_MTRR_PHYSBASE3 = 0x206
    IA32_MTRR_PHYSMASK3 = 0x207
    IA32_MTRR_PHYSBASE4 = 0x208
    IA32_MTRR_PHYSMASK4 = 0x209
    IA32_MTRR_PHYSBASE5 = 0x20A
    IA32_MTRR_PHYSMASK5 = 0x20B
    IA32_MTRR_PHYSBASE6 = 0x20C
    IA32_MTRR_PHYSMASK6 = 0x20D
    IA32_MTRR_PHYSBASE7 = 0x20E
    IA32_MTRR_PHYSMASK7 = 0x20F
    IA32_MTRR_FIX64K_00000 = 0x250
    IA32_MTRR_FIX16K_80000 = 0x258
    IA32_MTRR_FIX16K_A0000 = 0x259
    IA32_MTRR_FIX4K_C0000 = 0x268
    IA32_MTRR_FIX4K_C8000 = 0x269
    IA32_MTRR_FIX4K_D0000 = 0x26A
    IA32_MTRR_FIX4K_D8000 = 0x26B
    IA32_MTRR_FIX4K_E0000 = 0x26C
    IA32_MTRR_FIX4K_E8000 = 0x26D
    IA32_MTRR_FIX4K_F0000 = 0x26E
    IA32_MTRR_FIX4K_F8000 = 0x26F
    IA32_PAT = 0x277
    IA32_MTRR_DEF_TYPE = 0x2FF
    IA32_VMX_BASIC = 0x480
    IA32_VMX_PINBASED_CTLS = 0x481
    IA32_VMX_PROCBASED_CTLS = 0x482
    IA32_VMX_EXIT_CTLS = 0x483
    IA32_VMX_ENTRY_CTLS = 0x484
    IA32_VMX_MISC = 0x485
    IA32_VMX_CR0_FIXED0 = 0x486
    IA32_VMX_CR0_FIXED1 = 0x487
    IA32_VMX_CR4_FIXED0 = 0x488
    IA32_VMX_CR4_FIXED1 = 0x489
    IA32_VMX_VMCS_ENUM = 0x48A
    IA32_VMX_PROCBASED_CTLS2 = 0x48B
    IA32_VMX_EPT_VPID_CAP = 0x48C
    IA32_VMX_TRUE_PINBASED_CTLS = 0x48D
    IA32_VMX_TRUE_PROCBASED_CTLS = 0x48E
    IA32_VMX_TRUE_EXIT_CTLS = 0x48F
    IA32_VMX_TRUE_ENTRY_CTLS = 0x490
    IA32_VMX_VMFUNC = 0x491
    IA32_TSC_DEADLINE = 0x6E0
    IA32_XSS = 0xDA0
    IA32_EFER = 0xC0000080
    IA32_STAR = 0xC0000081
    IA32_LSTAR = 0xC0000082
    IA32_CSTAR = 0xC0000083
    """Written to by 64-bit systems; used by AMD processors only."""
    IA32_FMASK = 0xC0000084
    IA32_FS_BASE = 0xC0000100
    IA32_GS_BASE = 0xC0000101
    IA32_KERNEL_GS_BASE = 0xC0000102
    IA32_TSC_AUX = 0xC0000103
    # AMD APM Vol. 2, Appendix A
    VM_CR = 0xC0010114
    VM_HSAVE_PA = 0xC0010117


PAT_AT_RESET: Final = 0x0007_0406_0007_0406
"""IA32_PAT after reset (SDM Vol. 3A Table 12-12)."""


class ArchCapability(IntFlag):
    """Bits of IA32_ARCH_CAPABILITIES: what a processor does *not* suffer from (SDM Vol. 4 Table 2-2)."""

    RDCL_NO = 1 << 0
    """Rogue data cache load, known as Meltdown."""
    SKIP_L1DFL_VMENTRY = 1 << 3
    SSB_NO = 1 << 4
    MDS_NO = 1 << 5
    IF_PSCHANGE_MC_NO = 1 << 6
    TAA_NO = 1 << 8
    SBDR_SSDP_NO = 1 << 13
    FBSDP_NO = 1 << 14
    PSDP_NO = 1 << 15
    BHI_NO = 1 << 20
    PBRSB_NO = 1 << 24
    GDS_NO = 1 << 26
    RFDS_NO = 1 << 27


APIC_BASE_ENABLE: Final = 1 << 11
APIC_BASE_BSP: Final = 1 << 8

BITMAP_LOW: Final = range(0x2000)
BITMAP_HIGH: Final = range(0xC000_0000, 0xC000_2000)
"""The MSRs that the VMX MSR bitmaps cover; any other always exits (SDM Vol. 3C §25.6.9)."""


def name_of(number: int) -> str:
    """The name of MSR `number`, or its number where it is not known here.

    >>> name_of(0x174), name_of(0x123)
    ('IA32_SYSENTER_CS', 'MSR 0x123')
    """
    return Msr(number).name if number in _NUMBERS else f"MSR {number:#x}"


_NUMBERS: Final = frozenset(int(msr) for msr in Msr)
