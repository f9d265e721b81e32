"""The controls that this VMM chooses, and where it keeps what they point to.

The guest is to run as far as possible by itself, and to reach nothing that is not its own. So what exits is: HLT (the
VMM decides who runs then), every I/O port (all devices are the VMM's models), CR8 where a held-back interrupt of the
VM's local APIC waits for it to fall (the TPR shadow is that APIC's register), the MSRs that are not the guest's own
state, accesses to memory that the VM does not have, and what exits without a choice. Interrupts of the PC exit.
Everything else, CLI and POPF, page tables and CR3, RDTSC with an offset, exceptions and system calls, is between the
guest and the processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.bitmaps import msr_bit
from simvirt.machine.vmx.capabilities import REQUIRED
from simvirt.x86.addresses import PAGE_SIZE, Hpa
from simvirt.x86.flags import Cr0, Cr4, Efer
from simvirt.x86.msrs import PAT_AT_RESET, Msr
from simvirt.x86.vmx import (
    EntryControls,
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from simvirt.machine.vmx.vmcs import Vmcs
    from simvirt.x86.cpuid import CpuModel

_F: Final = VmcsField

PIN: Final = PinControls.EXTERNAL_INTERRUPT_EXITING | PinControls.NMI_EXITING | PinControls.VIRTUAL_NMIS
PRIMARY: Final = (
    PrimaryControls.HLT_EXITING
    | PrimaryControls.CR8_LOAD_EXITING
    | PrimaryControls.CR8_STORE_EXITING
    | PrimaryControls.USE_TSC_OFFSETTING
    | PrimaryControls.USE_IO_BITMAPS
    | PrimaryControls.USE_MSR_BITMAPS
    | PrimaryControls.ACTIVATE_SECONDARY_CONTROLS
)
SECONDARY: Final = SecondaryControls.ENABLE_EPT | SecondaryControls.ENABLE_VPID | SecondaryControls.UNRESTRICTED_GUEST
RDTSCP: Final = SecondaryControls.ENABLE_RDTSCP
"""Where the guest's processor has RDTSCP; it is #UD without this control."""
EXIT: Final = (
    ExitControls.HOST_ADDRESS_SPACE_SIZE
    | ExitControls.SAVE_DEBUG_CONTROLS
    | ExitControls.SAVE_IA32_PAT
    | ExitControls.LOAD_IA32_PAT
    | ExitControls.SAVE_IA32_EFER
    | ExitControls.LOAD_IA32_EFER
)
ENTRY: Final = EntryControls.LOAD_DEBUG_CONTROLS | EntryControls.LOAD_IA32_PAT | EntryControls.LOAD_IA32_EFER

_VPID: Final = 1
"""Any but 0, the host's: the TLB outlives an exit. A world switch exchanges it together with everything else."""

CR0_MASK: Final = int(Cr0.CD | Cr0.NW)
"""The caches are the host's: the guest sees what it wrote, and the processor's bits stay 0."""
CR4_MASK: Final = int(Cr4.VMXE)
"""VMXE is 1 in VMX operation, and the guest must not see it."""

PASSED_MSRS: Final = (
    Msr.IA32_SYSENTER_CS,
    Msr.IA32_SYSENTER_ESP,
    Msr.IA32_SYSENTER_EIP,
    Msr.IA32_STAR,
    Msr.IA32_LSTAR,
    Msr.IA32_CSTAR,
    Msr.IA32_FMASK,
    Msr.IA32_FS_BASE,
    Msr.IA32_GS_BASE,
    Msr.IA32_KERNEL_GS_BASE,
)
"""State of the guest alone, read and written without an exit."""

VMM_MEMORY: Final = 2 << 20
"""The VMM's own memory for a VM: the first 2 MBytes of the VM's partition of the host's, which its EPT does not map.

The VM's memory lies behind it, at a boundary of large pages.
"""


class VmmPages:
    """Where in a VM's partition the VMM keeps what the VMCS points to.

    :ivar absent_page: a page of ones: what a bus gives on which nobody answers.
    :ivar io_apic: what reads of the VM's I/O APIC give.
    :ivar ept: where the EPT's tables go.
    """

    def __init__(self, partition: Hpa) -> None:
        first = partition + PAGE_SIZE
        pages = [Hpa(first + number * PAGE_SIZE) for number in range(6)]
        self.io_bitmap_a, self.io_bitmap_b, self.msr_bitmaps, self.absent_page, self.virtual_apic, self.io_apic = pages
        self.ept = range(first + len(pages) * PAGE_SIZE, partition + VMM_MEMORY, PAGE_SIZE)


_HOST_CODE, _HOST_DATA, _HOST_TASK = 0x10, 0x18, 0x40
_HOST_RIP: Final = 0xFFFF_8000_0000_1000
_HOST_CR0: Final = int(Cr0.PG | Cr0.WP | Cr0.NE | Cr0.ET | Cr0.PE)
_HOST_CR4: Final = int(Cr4.PAE | Cr4.VMXE)
_HOST_EFER: Final = int(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)


def set_up(vmcs: Vmcs, memory: memoryview, pages: VmmPages, cpu_model: CpuModel) -> None:
    """Write the controls and the host state, and fill the bitmaps in the VMM's memory."""
    for field, controls in (
        (_F.PIN_BASED_CONTROLS, PIN),
        (_F.PRIMARY_CONTROLS, PRIMARY),
        (_F.SECONDARY_CONTROLS, SECONDARY | RDTSCP if cpu_model.has_rdtscp else SECONDARY),
        (_F.EXIT_CONTROLS, EXIT),
        (_F.ENTRY_CONTROLS, ENTRY),
    ):
        vmcs.write(field, encoded(controls))
    vmcs.write(_F.VIRTUAL_PROCESSOR_ID, _VPID)
    vmcs.write(_F.CR0_GUEST_HOST_MASK, CR0_MASK)
    vmcs.write(_F.CR4_GUEST_HOST_MASK, CR4_MASK)
    vmcs.write(_F.IO_BITMAP_A_ADDRESS, pages.io_bitmap_a)
    vmcs.write(_F.IO_BITMAP_B_ADDRESS, pages.io_bitmap_b)
    vmcs.write(_F.MSR_BITMAPS_ADDRESS, pages.msr_bitmaps)
    for page in (pages.io_bitmap_a, pages.io_bitmap_b, pages.msr_bitmaps, pages.absent_page):
        memory[page : page + PAGE_SIZE] = b"\xff" * PAGE_SIZE
    for msr in PASSED_MSRS:
        pass_msr(memory, pages.msr_bitmaps, msr)
    _set_host_state(vmcs)


def shadow_task_priority(vmcs: Vmcs, pages: VmmPages) -> None:
    """Let CR8 be a byte of the virtual-APIC page (SDM Vol. 3C §30.3) instead of an exit."""
    primary = vmcs.read(_F.PRIMARY_CONTROLS)
    exits = PrimaryControls.CR8_LOAD_EXITING | PrimaryControls.CR8_STORE_EXITING
    vmcs.write(_F.PRIMARY_CONTROLS, primary & ~int(exits) | int(PrimaryControls.USE_TPR_SHADOW))
    vmcs.write(_F.VIRTUAL_APIC_ADDRESS, pages.virtual_apic)


def encoded(controls: PinControls | PrimaryControls | SecondaryControls | ExitControls | EntryControls) -> int:
    """A control word's value for the VMCS: what is wanted, and the bits that must be 1 by the true capability MSRs."""
    return int(controls) | REQUIRED[type(controls)]


def pass_msr(memory: memoryview, bitmaps: Hpa, msr: int) -> None:
    """Let the guest read and write an MSR without an exit."""
    for is_write in (False, True):
        at = msr_bit(msr, is_write=is_write)
        if at is not None:
            memory[bitmaps + at[0]] &= ~(1 << at[1]) & 0xFF


def _set_host_state(vmcs: Vmcs) -> None:
    """A 64-bit host. Nothing of it runs in the PC, where Python is root mode; but VM entry checks it."""
    vmcs.write(_F.HOST_CR0, _HOST_CR0)
    vmcs.write(_F.HOST_CR4, _HOST_CR4)
    vmcs.write(_F.HOST_IA32_PAT, PAT_AT_RESET)
    vmcs.write(_F.HOST_IA32_EFER, _HOST_EFER)
    vmcs.write(_F.HOST_CS_SELECTOR, _HOST_CODE)
    for name in ("ES", "SS", "DS"):
        vmcs.write(_F[f"HOST_{name}_SELECTOR"], _HOST_DATA)
    vmcs.write(_F.HOST_TR_SELECTOR, _HOST_TASK)
    vmcs.write(_F.HOST_RIP, _HOST_RIP)
