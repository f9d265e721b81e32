"""What this PC's processor offers of VMX: the contents of its VMX capability MSRs (SDM Vol. 3D Appendix A).

A control that is not offered must be 0: setting it makes VM entry fail, as on any processor that lacks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.x86.flags import Cr0, Cr4
from simvirt.x86.vmx import EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls

if TYPE_CHECKING:
    from enum import IntFlag

OFFERED: Final[dict[type[IntFlag], int]] = {
    PinControls: int(PinControls.EXTERNAL_INTERRUPT_EXITING | PinControls.NMI_EXITING),
    PrimaryControls: int(
        PrimaryControls.INTERRUPT_WINDOW_EXITING
        | PrimaryControls.USE_TSC_OFFSETTING
        | PrimaryControls.HLT_EXITING
        | PrimaryControls.INVLPG_EXITING
        | PrimaryControls.MWAIT_EXITING
        | PrimaryControls.RDPMC_EXITING
        | PrimaryControls.RDTSC_EXITING
        | PrimaryControls.CR3_LOAD_EXITING
        | PrimaryControls.CR3_STORE_EXITING
        | PrimaryControls.CR8_LOAD_EXITING
        | PrimaryControls.CR8_STORE_EXITING
        | PrimaryControls.MOV_DR_EXITING
        | PrimaryControls.UNCONDITIONAL_IO_EXITING
        | PrimaryControls.USE_IO_BITMAPS
        | PrimaryControls.MONITOR_TRAP_FLAG
        | PrimaryControls.USE_MSR_BITMAPS
        | PrimaryControls.MONITOR_EXITING
        | PrimaryControls.PAUSE_EXITING
        | PrimaryControls.ACTIVATE_SECONDARY_CONTROLS
    ),
    SecondaryControls: int(
        SecondaryControls.ENABLE_EPT
        | SecondaryControls.DESCRIPTOR_TABLE_EXITING
        | SecondaryControls.ENABLE_RDTSCP
        | SecondaryControls.WBINVD_EXITING
        | SecondaryControls.UNRESTRICTED_GUEST
    ),
    ExitControls: int(
        ExitControls.SAVE_DEBUG_CONTROLS
        | ExitControls.HOST_ADDRESS_SPACE_SIZE
        | ExitControls.SAVE_IA32_PAT
        | ExitControls.LOAD_IA32_PAT
        | ExitControls.SAVE_IA32_EFER
        | ExitControls.LOAD_IA32_EFER
    ),
    EntryControls: int(
        EntryControls.LOAD_DEBUG_CONTROLS
        | EntryControls.IA32E_MODE_GUEST
        | EntryControls.LOAD_IA32_PAT
        | EntryControls.LOAD_IA32_EFER
    ),
}
"""The named controls that may be 1."""

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
"""IA32_VMX_CR4_FIXED0: bits of CR4 that must be 1 in VMX operation (Vol. 3D Appendix A.8)."""
CR3_TARGETS: Final = 4
"""Bits 24:16 of IA32_VMX_MISC: how many CR3-target values there are (Vol. 3D Appendix A.6)."""
PHYSICAL_BITS: Final = 40
"""Width of a physical address."""
