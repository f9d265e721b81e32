"""Why a VM exit happened: the basic exit reasons (SDM Vol. 3D Appendix C, Table C-1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class ExitReason(IntEnum):
    """A basic exit reason by the manual's number (SDM Vol. 3D Table C-1). 35, 38, 42 and 71 are not assigned."""

    EXCEPTION_OR_NMI = 0
    EXTERNAL_INTERRUPT = 1
    TRIPLE_FAULT = 2
    INIT_SIGNAL = 3
    SIPI = 4
    IO_SMI = 5
    OTHER_SMI = 6
    INTERRUPT_WINDOW = 7
    NMI_WINDOW = 8
    TASK_SWITCH = 9
    CPUID = 10
    GETSEC = 11
    HLT = 12
    INVD = 13
    INVLPG = 14
    RDPMC = 15
    RDTSC = 16
    RSM = 17
    VMCALL = 18
    VMCLEAR = 19
    VMLAUNCH = 20
    VMPTRLD = 21
    VMPTRST = 22
    VMREAD = 23
    VMRESUME = 24
    VMWRITE = 25
    VMXOFF = 26
    VMXON = 27
    CR_ACCESS = 28
    MOV_DR = 29
    IO_INSTRUCTION = 30
    RDMSR = 31
    WRMSR = 32
    ENTRY_FAILURE_GUEST_STATE = 33
    ENTRY_FAILURE_MSR_LOADING = 34
    MWAIT = 36
    MONITOR_TRAP_FLAG = 37
    MONITOR = 39
    PAUSE = 40
    ENTRY_FAILURE_MACHINE_CHECK = 41
    TPR_BELOW_THRESHOLD = 43
    APIC_ACCESS = 44
    VIRTUALIZED_EOI = 45
    GDTR_IDTR_ACCESS = 46
    LDTR_TR_ACCESS = 47
    EPT_VIOLATION = 48
    EPT_MISCONFIGURATION = 49
    INVEPT = 50
    RDTSCP = 51
    PREEMPTION_TIMER_EXPIRED = 52
    INVVPID = 53
    WBINVD = 54
    XSETBV = 55
    APIC_WRITE = 56
    RDRAND = 57
    INVPCID = 58
    VMFUNC = 59
    ENCLS = 60
    RDSEED = 61
    PAGE_MODIFICATION_LOG_FULL = 62
    XSAVES = 63
    XRSTORS = 64
    PCONFIG = 65
    SPP_RELATED_EVENT = 66
    UMWAIT = 67
    TPAUSE = 68
    LOADIWKEY = 69
    ENCLV = 70
    ENQCMD_PASID_TRANSLATION_FAILURE = 72
    ENQCMDS_PASID_TRANSLATION_FAILURE = 73
    BUS_LOCK = 74
    INSTRUCTION_TIMEOUT = 75

    @property
    def info(self) -> ExitReasonInfo:
        """The row of the table: title, cause, section."""
        return EXIT_REASONS[self]

    @property
    def title(self) -> str:
        """The manual's name for people."""
        return EXIT_REASONS[self].title


@dataclass(frozen=True, slots=True)
class ExitReasonInfo:
    """What a basic exit reason means, in short, and where the manual explains it."""

    reason: ExitReason
    title: str
    cause: str
    section: str


_R = ExitReason
_UNCONDITIONAL: Final = "SDM Vol. 3C §26.1.2"
_CONDITIONAL: Final = "SDM Vol. 3C §26.1.3"
_OTHER: Final = "SDM Vol. 3C §26.2"
_ENTRY_FAILURE: Final = "SDM Vol. 3C §27.8"

# fmt: off
_ROWS: Final = (
    (_R.EXCEPTION_OR_NMI, "Exception or NMI", _OTHER,
     "an exception whose bit in the exception bitmap is 1, or an NMI with NMI exiting"),
    (_R.EXTERNAL_INTERRUPT, "External interrupt", _OTHER, "an interrupt arrived and external-interrupt exiting is 1"),
    (_R.TRIPLE_FAULT, "Triple fault", _OTHER, "an exception while a double fault was being delivered"),
    (_R.INIT_SIGNAL, "INIT signal", _OTHER, "an INIT signal arrived"),
    (_R.SIPI, "Start-up IPI (SIPI)", _OTHER, "a start-up IPI while waiting for one"),
    (_R.IO_SMI, "I/O system-management interrupt (SMI)", "SDM Vol. 3C §32.15.2",
     "an SMI right after an I/O instruction"),
    (_R.OTHER_SMI, "Other SMI", "SDM Vol. 3C §32.15.2", "an SMI not right after an I/O instruction"),
    (_R.INTERRUPT_WINDOW, "Interrupt window", _OTHER,
     "interrupt-window exiting is 1, IF is 1 and nothing blocks interrupts"),
    (_R.NMI_WINDOW, "NMI window", _OTHER, "NMI-window exiting is 1 and nothing blocks NMIs"),
    (_R.TASK_SWITCH, "Task switch", _OTHER, "the guest attempted a task switch"),
    (_R.CPUID, "CPUID", _UNCONDITIONAL, "the guest executed CPUID"),
    (_R.GETSEC, "GETSEC", _UNCONDITIONAL, "the guest executed GETSEC with CR4.SMXE=1"),
    (_R.HLT, "HLT", _CONDITIONAL, "the guest executed HLT and HLT exiting is 1"),
    (_R.INVD, "INVD", _UNCONDITIONAL, "the guest executed INVD"),
    (_R.INVLPG, "INVLPG", _CONDITIONAL, "the guest executed INVLPG and INVLPG exiting is 1"),
    (_R.RDPMC, "RDPMC", _CONDITIONAL, "the guest executed RDPMC and RDPMC exiting is 1"),
    (_R.RDTSC, "RDTSC", _CONDITIONAL, "the guest executed RDTSC and RDTSC exiting is 1"),
    (_R.RSM, "RSM", _CONDITIONAL, "the guest executed RSM in SMM"),
    (_R.VMCALL, "VMCALL", _UNCONDITIONAL, "the guest executed VMCALL"),
    (_R.VMCLEAR, "VMCLEAR", _UNCONDITIONAL, "the guest executed VMCLEAR"),
    (_R.VMLAUNCH, "VMLAUNCH", _UNCONDITIONAL, "the guest executed VMLAUNCH"),
    (_R.VMPTRLD, "VMPTRLD", _UNCONDITIONAL, "the guest executed VMPTRLD"),
    (_R.VMPTRST, "VMPTRST", _UNCONDITIONAL, "the guest executed VMPTRST"),
    (_R.VMREAD, "VMREAD", _CONDITIONAL, "the guest executed VMREAD and VMCS shadowing did not satisfy it"),
    (_R.VMRESUME, "VMRESUME", _UNCONDITIONAL, "the guest executed VMRESUME"),
    (_R.VMWRITE, "VMWRITE", _CONDITIONAL, "the guest executed VMWRITE and VMCS shadowing did not satisfy it"),
    (_R.VMXOFF, "VMXOFF", _UNCONDITIONAL, "the guest executed VMXOFF"),
    (_R.VMXON, "VMXON", _UNCONDITIONAL, "the guest executed VMXON"),
    (_R.CR_ACCESS, "Control-register accesses", _CONDITIONAL,
     "a control-register access that masks, shadows or controls make exit"),
    (_R.MOV_DR, "MOV DR", _CONDITIONAL, "the guest executed MOV to or from a debug register and MOV-DR exiting is 1"),
    (_R.IO_INSTRUCTION, "I/O instruction", _CONDITIONAL,
     "an I/O instruction that unconditional I/O exiting or an I/O-bitmap bit makes exit"),
    (_R.RDMSR, "RDMSR", _CONDITIONAL, "the guest executed RDMSR and the MSR bitmaps do not let it pass"),
    (_R.WRMSR, "WRMSR", _CONDITIONAL, "the guest executed WRMSR and the MSR bitmaps do not let it pass"),
    (_R.ENTRY_FAILURE_GUEST_STATE, "VM-entry failure due to invalid guest state", _ENTRY_FAILURE,
     "a check of the guest state failed"),
    (_R.ENTRY_FAILURE_MSR_LOADING, "VM-entry failure due to MSR loading", _ENTRY_FAILURE,
     "an MSR of the entry's load list was refused"),
    (_R.MWAIT, "MWAIT", _CONDITIONAL, "the guest executed MWAIT and MWAIT exiting is 1"),
    (_R.MONITOR_TRAP_FLAG, "Monitor trap flag", "SDM Vol. 3C §26.5.2",
     "an instruction completed while the monitor trap flag was 1"),
    (_R.MONITOR, "MONITOR", _CONDITIONAL, "the guest executed MONITOR and MONITOR exiting is 1"),
    (_R.PAUSE, "PAUSE", _CONDITIONAL, "the guest executed PAUSE and PAUSE exiting or the PAUSE loop took it"),
    (_R.ENTRY_FAILURE_MACHINE_CHECK, "VM-entry failure due to machine-check event", _ENTRY_FAILURE,
     "a machine check during VM entry"),
    (_R.TPR_BELOW_THRESHOLD, "TPR below threshold", "SDM Vol. 3C §30.1.2",
     "the guest lowered its task priority below the threshold"),
    (_R.APIC_ACCESS, "APIC access", "SDM Vol. 3C §30.4", "an access to the APIC-access page"),
    (_R.VIRTUALIZED_EOI, "Virtualized EOI", "SDM Vol. 3C §30.1.4",
     "an EOI of a vector whose bit in the EOI-exit bitmap is 1"),
    (_R.GDTR_IDTR_ACCESS, "Access to GDTR or IDTR", _CONDITIONAL,
     "LGDT, LIDT, SGDT or SIDT with descriptor-table exiting 1"),
    (_R.LDTR_TR_ACCESS, "Access to LDTR or TR", _CONDITIONAL, "LLDT, LTR, SLDT or STR with descriptor-table exiting 1"),
    (_R.EPT_VIOLATION, "EPT violation", "SDM Vol. 3C §29.3.3.2",
     "the EPT paging structures do not allow this guest-physical access"),
    (_R.EPT_MISCONFIGURATION, "EPT misconfiguration", "SDM Vol. 3C §29.3.3.1",
     "an EPT paging-structure entry has a value that means nothing"),
    (_R.INVEPT, "INVEPT", _UNCONDITIONAL, "the guest executed INVEPT"),
    (_R.RDTSCP, "RDTSCP", _CONDITIONAL, "the guest executed RDTSCP with enable RDTSCP and RDTSC exiting both 1"),
    (_R.PREEMPTION_TIMER_EXPIRED, "VMX-preemption timer expired", "SDM Vol. 3C §26.5.1",
     "the VMX-preemption timer counted down to zero"),
    (_R.INVVPID, "INVVPID", _UNCONDITIONAL, "the guest executed INVVPID"),
    (_R.WBINVD, "WBINVD or WBNOINVD", _CONDITIONAL, "the guest executed WBINVD or WBNOINVD and WBINVD exiting is 1"),
    (_R.XSETBV, "XSETBV", _UNCONDITIONAL, "the guest executed XSETBV"),
    (_R.APIC_WRITE, "APIC write", "SDM Vol. 3C §30.4.3.3",
     "a virtualized write to the virtual-APIC page that needs the monitor"),
    (_R.RDRAND, "RDRAND", _CONDITIONAL, "the guest executed RDRAND and RDRAND exiting is 1"),
    (_R.INVPCID, "INVPCID", _CONDITIONAL, "the guest executed INVPCID with enable INVPCID and INVLPG exiting both 1"),
    (_R.VMFUNC, "VMFUNC", "SDM Vol. 3C §26.5.6", "the guest called a VM function that is not enabled, or it failed"),
    (_R.ENCLS, "ENCLS", _CONDITIONAL, "the guest executed ENCLS and its leaf's bit in the ENCLS-exiting bitmap is 1"),
    (_R.RDSEED, "RDSEED", _CONDITIONAL, "the guest executed RDSEED and RDSEED exiting is 1"),
    (_R.PAGE_MODIFICATION_LOG_FULL, "Page-modification log full", "SDM Vol. 3C §29.3.6",
     "the page-modification log had no room for an entry"),
    (_R.XSAVES, "XSAVES", _CONDITIONAL, "the guest executed XSAVES for a component in the XSS-exiting bitmap"),
    (_R.XRSTORS, "XRSTORS", _CONDITIONAL, "the guest executed XRSTORS for a component in the XSS-exiting bitmap"),
    (_R.PCONFIG, "PCONFIG", _CONDITIONAL,
     "the guest executed PCONFIG and its leaf's bit in the PCONFIG-exiting bitmap is 1"),
    (_R.SPP_RELATED_EVENT, "SPP-related event", "SDM Vol. 3C §29.3.4",
     "the sub-page-permission walk missed or met a bad entry"),
    (_R.UMWAIT, "UMWAIT", _CONDITIONAL, "the guest executed UMWAIT with user wait enabled and RDTSC exiting 1"),
    (_R.TPAUSE, "TPAUSE", _CONDITIONAL, "the guest executed TPAUSE with user wait enabled and RDTSC exiting 1"),
    (_R.LOADIWKEY, "LOADIWKEY", _CONDITIONAL, "the guest executed LOADIWKEY and LOADIWKEY exiting is 1"),
    (_R.ENCLV, "ENCLV", _CONDITIONAL, "the guest executed ENCLV and its leaf's bit in the ENCLV-exiting bitmap is 1"),
    (_R.ENQCMD_PASID_TRANSLATION_FAILURE, "ENQCMD PASID translation failure", _CONDITIONAL,
     "PASID translation of ENQCMD failed"),
    (_R.ENQCMDS_PASID_TRANSLATION_FAILURE, "ENQCMDS PASID translation failure", _CONDITIONAL,
     "PASID translation of ENQCMDS failed"),
    (_R.BUS_LOCK, "Bus lock", _OTHER, "the guest asserted a bus lock and VMM bus-lock detection is 1"),
    (_R.INSTRUCTION_TIMEOUT, "Instruction timeout", _OTHER,
     "no interrupt window opened within the instruction timeout"),
)
# fmt: on

EXIT_REASONS: Final[dict[ExitReason, ExitReasonInfo]] = {
    reason: ExitReasonInfo(reason, title, cause, section) for reason, title, section, cause in _ROWS
}
"""One row for every `ExitReason`."""


@dataclass(frozen=True, slots=True)
class ExitReasonField:
    """The 32-bit exit-reason field of the VMCS (SDM Vol. 3C §25.9.1, Table 25-18).

    >>> hex(ExitReasonField(ExitReason.ENTRY_FAILURE_GUEST_STATE, entry_failure=True).encode())
    '0x80000021'
    """

    reason: ExitReason
    bus_lock: bool = False
    enclave_mode: bool = False
    pending_mtf: bool = False
    from_root: bool = False
    entry_failure: bool = False

    def encode(self) -> int:
        """The field's value."""
        return (
            self.reason
            | self.bus_lock << 26
            | self.enclave_mode << 27
            | self.pending_mtf << 28
            | self.from_root << 29
            | self.entry_failure << 31
        )

    @classmethod
    def decode(cls, value: int) -> ExitReasonField:
        """Take the field apart.

        Raises:
            ValueError: bits 15:0 are no basic exit reason that the manual assigns.
        """
        bits = (bool(value >> n & 1) for n in (26, 27, 28, 29, 31))
        return cls(ExitReason(value & 0xFFFF), *bits)
