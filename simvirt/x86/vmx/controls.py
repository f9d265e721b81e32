"""The control words of a VMCS, bit by bit: they choose what makes a guest exit, and what entry and exit load and save.

SDM Vol. 3C §25.6 (VM-execution controls, Tables 25-5 to 25-7), §25.7 (VM-exit controls), §25.8 (VM-entry controls).
Some reserved bits must be 1: the *default1* class of Vol. 3D Appendix A.3 to A.5, from the days before a control was
given to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Final


class PinControls(IntFlag):
    """Pin-based VM-execution controls: asynchronous events (SDM Vol. 3C §25.6.1, Table 25-5)."""

    EXTERNAL_INTERRUPT_EXITING = 1 << 0
    NMI_EXITING = 1 << 3
    VIRTUAL_NMIS = 1 << 5
    ACTIVATE_PREEMPTION_TIMER = 1 << 6
    PROCESS_POSTED_INTERRUPTS = 1 << 7


class PrimaryControls(IntFlag):
    """Primary processor-based VM-execution controls: mostly instructions (SDM Vol. 3C §25.6.2, Table 25-6)."""

    INTERRUPT_WINDOW_EXITING = 1 << 2
    USE_TSC_OFFSETTING = 1 << 3
    HLT_EXITING = 1 << 7
    INVLPG_EXITING = 1 << 9
    MWAIT_EXITING = 1 << 10
    RDPMC_EXITING = 1 << 11
    RDTSC_EXITING = 1 << 12
    CR3_LOAD_EXITING = 1 << 15
    CR3_STORE_EXITING = 1 << 16
    ACTIVATE_TERTIARY_CONTROLS = 1 << 17
    CR8_LOAD_EXITING = 1 << 19
    CR8_STORE_EXITING = 1 << 20
    USE_TPR_SHADOW = 1 << 21
    NMI_WINDOW_EXITING = 1 << 22
    MOV_DR_EXITING = 1 << 23
    UNCONDITIONAL_IO_EXITING = 1 << 24
    USE_IO_BITMAPS = 1 << 25
    MONITOR_TRAP_FLAG = 1 << 27
    USE_MSR_BITMAPS = 1 << 28
    MONITOR_EXITING = 1 << 29
    PAUSE_EXITING = 1 << 30
    ACTIVATE_SECONDARY_CONTROLS = 1 << 31


class SecondaryControls(IntFlag):
    """Secondary processor-based VM-execution controls (SDM Vol. 3C §25.6.2, Table 25-7)."""

    VIRTUALIZE_APIC_ACCESSES = 1 << 0
    ENABLE_EPT = 1 << 1
    DESCRIPTOR_TABLE_EXITING = 1 << 2
    ENABLE_RDTSCP = 1 << 3
    VIRTUALIZE_X2APIC_MODE = 1 << 4
    ENABLE_VPID = 1 << 5
    WBINVD_EXITING = 1 << 6
    UNRESTRICTED_GUEST = 1 << 7
    APIC_REGISTER_VIRTUALIZATION = 1 << 8
    VIRTUAL_INTERRUPT_DELIVERY = 1 << 9
    PAUSE_LOOP_EXITING = 1 << 10
    RDRAND_EXITING = 1 << 11
    ENABLE_INVPCID = 1 << 12
    ENABLE_VM_FUNCTIONS = 1 << 13
    VMCS_SHADOWING = 1 << 14
    ENABLE_ENCLS_EXITING = 1 << 15
    RDSEED_EXITING = 1 << 16
    ENABLE_PML = 1 << 17
    EPT_VIOLATION_VE = 1 << 18
    CONCEAL_VMX_FROM_PT = 1 << 19
    ENABLE_XSAVES_XRSTORS = 1 << 20
    PASID_TRANSLATION = 1 << 21
    MODE_BASED_EXECUTE_CONTROL = 1 << 22
    SUB_PAGE_WRITE_PERMISSIONS = 1 << 23
    PT_USES_GUEST_PHYSICAL_ADDRESSES = 1 << 24
    USE_TSC_SCALING = 1 << 25
    ENABLE_USER_WAIT_AND_PAUSE = 1 << 26
    ENABLE_PCONFIG = 1 << 27
    ENABLE_ENCLV_EXITING = 1 << 28
    VMM_BUS_LOCK_DETECTION = 1 << 30
    INSTRUCTION_TIMEOUT = 1 << 31


class ExitControls(IntFlag):
    """Primary VM-exit controls (SDM Vol. 3C §25.7.1, Table 25-13)."""

    SAVE_DEBUG_CONTROLS = 1 << 2
    HOST_ADDRESS_SPACE_SIZE = 1 << 9
    LOAD_IA32_PERF_GLOBAL_CTRL = 1 << 12
    ACKNOWLEDGE_INTERRUPT_ON_EXIT = 1 << 15
    SAVE_IA32_PAT = 1 << 18
    LOAD_IA32_PAT = 1 << 19
    SAVE_IA32_EFER = 1 << 20
    LOAD_IA32_EFER = 1 << 21
    SAVE_PREEMPTION_TIMER = 1 << 22
    CLEAR_IA32_BNDCFGS = 1 << 23
    CONCEAL_VMX_FROM_PT = 1 << 24
    CLEAR_IA32_RTIT_CTL = 1 << 25
    CLEAR_IA32_LBR_CTL = 1 << 26
    CLEAR_UINV = 1 << 27
    LOAD_CET_STATE = 1 << 28
    LOAD_PKRS = 1 << 29
    SAVE_IA32_PERF_GLOBAL_CTL = 1 << 30
    ACTIVATE_SECONDARY_CONTROLS = 1 << 31


class EntryControls(IntFlag):
    """VM-entry controls (SDM Vol. 3C §25.8.1, Table 25-15)."""

    LOAD_DEBUG_CONTROLS = 1 << 2
    IA32E_MODE_GUEST = 1 << 9
    ENTRY_TO_SMM = 1 << 10
    DEACTIVATE_DUAL_MONITOR_TREATMENT = 1 << 11
    LOAD_IA32_PERF_GLOBAL_CTRL = 1 << 13
    LOAD_IA32_PAT = 1 << 14
    LOAD_IA32_EFER = 1 << 15
    LOAD_IA32_BNDCFGS = 1 << 16
    CONCEAL_VMX_FROM_PT = 1 << 17
    LOAD_IA32_RTIT_CTL = 1 << 18
    LOAD_UINV = 1 << 19
    LOAD_CET_STATE = 1 << 20
    LOAD_GUEST_IA32_LBR_CTL = 1 << 21
    LOAD_PKRS = 1 << 22


@dataclass(frozen=True, slots=True)
class ControlWord:
    """One control word: its flags and the bits that must be 1 on every processor unless it says otherwise."""

    title: str
    flags: type[IntFlag]
    default1: int
    section: str

    def encode(self, controls: int) -> int:
        """The value for the VMCS: `controls` with the default1 bits set."""
        return controls | self.default1


CONTROL_WORDS: Final[dict[type[IntFlag], ControlWord]] = {
    word.flags: word
    for word in (
        ControlWord(
            "Pin-based VM-execution controls", PinControls, 0x0000_0016, "SDM Vol. 3C §25.6.1, Vol. 3D Appendix A.3.1"
        ),
        ControlWord(
            "Primary processor-based VM-execution controls",
            PrimaryControls,
            0x0401_E172,
            "SDM Vol. 3C §25.6.2, Vol. 3D Appendix A.3.2",
        ),
        ControlWord(
            "Secondary processor-based VM-execution controls",
            SecondaryControls,
            0,
            "SDM Vol. 3C §25.6.2, Vol. 3D Appendix A.3.3",
        ),
        ControlWord("VM-exit controls", ExitControls, 0x0003_6DFF, "SDM Vol. 3C §25.7.1, Vol. 3D Appendix A.4"),
        ControlWord("VM-entry controls", EntryControls, 0x0000_11FF, "SDM Vol. 3C §25.8.1, Vol. 3D Appendix A.5"),
    )
}
"""By flags. The default1 bits are those of the plain capability MSRs; the *true* ones let CR3-load and CR3-store
exiting (and the debug controls) be 0 as well (SDM Vol. 3D Appendix A.2)."""
