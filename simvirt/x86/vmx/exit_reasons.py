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

EXIT_REASONS: Final[dict[ExitReason, ExitReasonInfo]] = {
    reason: ExitReasonInfo(reason, title, cause, section)
    for reason, title, cause, section in (
        (
            _R.EXCEPTION_OR_NMI,
            "Exception or NMI",
            "an exception whose bit in the exception bitmap is 1, or an NMI with NMI exiting",
            _OTHER,
        ),
        (
            _R.EXTERNAL_INTERRUPT,
            "External interrupt",
            "an interrupt arrived and external-interrupt exiting is 1",
            _OTHER,
        ),
        (_R.TRIPLE_FAULT, "Triple fault", "an exception while a double fault was being delivered", _OTHER),
        (_R.INIT_SIGNAL, "INIT signal", "an INIT signal arrived", _OTHER),
        (_R.SIPI, "Start-up IPI (SIPI)", "a start-up IPI while waiting for one", _OTHER),
        (
            _R.IO_SMI,
            "I/O system-management interrupt (SMI)",
            "an SMI right after an I/O instruction",
            "SDM Vol. 3C §32.15.2",
        ),
        (_R.OTHER_SMI, "Other SMI", "an SMI not right after an I/O instruction", "SDM Vol. 3C §32.15.2"),
        (
            _R.INTERRUPT_WINDOW,
            "Interrupt window",
            "interrupt-window exiting is 1, IF is 1 and nothing blocks interrupts",
            _OTHER,
        ),
        (_R.NMI_WINDOW, "NMI window", "NMI-window exiting is 1 and nothing blocks NMIs", _OTHER),
        (_R.TASK_SWITCH, "Task switch", "the guest attempted a task switch", _OTHER),
        (_R.CPUID, "CPUID", "the guest executed CPUID", _UNCONDITIONAL),
        (_R.GETSEC, "GETSEC", "the guest executed GETSEC with CR4.SMXE=1", _UNCONDITIONAL),
        (_R.HLT, "HLT", "the guest executed HLT and HLT exiting is 1", _CONDITIONAL),
        (_R.INVD, "INVD", "the guest executed INVD", _UNCONDITIONAL),
        (_R.INVLPG, "INVLPG", "the guest executed INVLPG and INVLPG exiting is 1", _CONDITIONAL),
        (_R.RDPMC, "RDPMC", "the guest executed RDPMC and RDPMC exiting is 1", _CONDITIONAL),
        (_R.RDTSC, "RDTSC", "the guest executed RDTSC and RDTSC exiting is 1", _CONDITIONAL),
        (_R.RSM, "RSM", "the guest executed RSM in SMM", _CONDITIONAL),
        (_R.VMCALL, "VMCALL", "the guest executed VMCALL", _UNCONDITIONAL),
        (_R.VMCLEAR, "VMCLEAR", "the guest executed VMCLEAR", _UNCONDITIONAL),
        (_R.VMLAUNCH, "VMLAUNCH", "the guest executed VMLAUNCH", _UNCONDITIONAL),
        (_R.VMPTRLD, "VMPTRLD", "the guest executed VMPTRLD", _UNCONDITIONAL),
        (_R.VMPTRST, "VMPTRST", "the guest executed VMPTRST", _UNCONDITIONAL),
        (_R.VMREAD, "VMREAD", "the guest executed VMREAD and VMCS shadowing did not satisfy it", _CONDITIONAL),
        (_R.VMRESUME, "VMRESUME", "the guest executed VMRESUME", _UNCONDITIONAL),
        (_R.VMWRITE, "VMWRITE", "the guest executed VMWRITE and VMCS shadowing did not satisfy it", _CONDITIONAL),
        (_R.VMXOFF, "VMXOFF", "the guest executed VMXOFF", _UNCONDITIONAL),
        (_R.VMXON, "VMXON", "the guest executed VMXON", _UNCONDITIONAL),
        (
            _R.CR_ACCESS,
            "Control-register accesses",
            "a control-register access that masks, shadows or controls make exit",
            _CONDITIONAL,
        ),
        (
            _R.MOV_DR,
            "MOV DR",
            "the guest executed MOV to or from a debug register and MOV-DR exiting is 1",
            _CONDITIONAL,
        ),
        (
            _R.IO_INSTRUCTION,
            "I/O instruction",
            "an I/O instruction that unconditional I/O exiting or an I/O-bitmap bit makes exit",
            _CONDITIONAL,
        ),
        (_R.RDMSR, "RDMSR", "the guest executed RDMSR and the MSR bitmaps do not let it pass", _CONDITIONAL),
        (_R.WRMSR, "WRMSR", "the guest executed WRMSR and the MSR bitmaps do not let it pass", _CONDITIONAL),
        (
            _R.ENTRY_FAILURE_GUEST_STATE,
            "VM-entry failure due to invalid guest state",
            "a check of the guest state failed",
            _ENTRY_FAILURE,
        ),
        (
            _R.ENTRY_FAILURE_MSR_LOADING,
            "VM-entry failure due to MSR loading",
            "an MSR of the entry's load list was refused",
            _ENTRY_FAILURE,
        ),
        (_R.MWAIT, "MWAIT", "the guest executed MWAIT and MWAIT exiting is 1", _CONDITIONAL),
        (
            _R.MONITOR_TRAP_FLAG,
            "Monitor trap flag",
            "an instruction completed while the monitor trap flag was 1",
            "SDM Vol. 3C §26.5.2",
        ),
        (_R.MONITOR, "MONITOR", "the guest executed MONITOR and MONITOR exiting is 1", _CONDITIONAL),
        (_R.PAUSE, "PAUSE", "the guest executed PAUSE and PAUSE exiting or the PAUSE loop took it", _CONDITIONAL),
        (
            _R.ENTRY_FAILURE_MACHINE_CHECK,
            "VM-entry failure due to machine-check event",
            "a machine check during VM entry",
            _ENTRY_FAILURE,
        ),
        (
            _R.TPR_BELOW_THRESHOLD,
            "TPR below threshold",
            "the guest lowered its task priority below the threshold",
            "SDM Vol. 3C §30.1.2",
        ),
        (_R.APIC_ACCESS, "APIC access", "an access to the APIC-access page", "SDM Vol. 3C §30.4"),
        (
            _R.VIRTUALIZED_EOI,
            "Virtualized EOI",
            "an EOI of a vector whose bit in the EOI-exit bitmap is 1",
            "SDM Vol. 3C §30.1.4",
        ),
        (
            _R.GDTR_IDTR_ACCESS,
            "Access to GDTR or IDTR",
            "LGDT, LIDT, SGDT or SIDT with descriptor-table exiting 1",
            _CONDITIONAL,
        ),
        (
            _R.LDTR_TR_ACCESS,
            "Access to LDTR or TR",
            "LLDT, LTR, SLDT or STR with descriptor-table exiting 1",
            _CONDITIONAL,
        ),
        (
            _R.EPT_VIOLATION,
            "EPT violation",
            "the EPT paging structures do not allow this guest-physical access",
            "SDM Vol. 3C §29.3.3.2",
        ),
        (
            _R.EPT_MISCONFIGURATION,
            "EPT misconfiguration",
            "an EPT paging-structure entry has a value that means nothing",
            "SDM Vol. 3C §29.3.3.1",
        ),
        (_R.INVEPT, "INVEPT", "the guest executed INVEPT", _UNCONDITIONAL),
        (_R.RDTSCP, "RDTSCP", "the guest executed RDTSCP with enable RDTSCP and RDTSC exiting both 1", _CONDITIONAL),
        (
            _R.PREEMPTION_TIMER_EXPIRED,
            "VMX-preemption timer expired",
            "the VMX-preemption timer counted down to zero",
            "SDM Vol. 3C §26.5.1",
        ),
        (_R.INVVPID, "INVVPID", "the guest executed INVVPID", _UNCONDITIONAL),
        (
            _R.WBINVD,
            "WBINVD or WBNOINVD",
            "the guest executed WBINVD or WBNOINVD and WBINVD exiting is 1",
            _CONDITIONAL,
        ),
        (_R.XSETBV, "XSETBV", "the guest executed XSETBV", _UNCONDITIONAL),
        (
            _R.APIC_WRITE,
            "APIC write",
            "a virtualized write to the virtual-APIC page that needs the monitor",
            "SDM Vol. 3C §30.4.3.3",
        ),
        (_R.RDRAND, "RDRAND", "the guest executed RDRAND and RDRAND exiting is 1", _CONDITIONAL),
        (
            _R.INVPCID,
            "INVPCID",
            "the guest executed INVPCID with enable INVPCID and INVLPG exiting both 1",
            _CONDITIONAL,
        ),
        (
            _R.VMFUNC,
            "VMFUNC",
            "the guest called a VM function that is not enabled, or it failed",
            "SDM Vol. 3C §26.5.6",
        ),
        (
            _R.ENCLS,
            "ENCLS",
            "the guest executed ENCLS and its leaf's bit in the ENCLS-exiting bitmap is 1",
            _CONDITIONAL,
        ),
        (_R.RDSEED, "RDSEED", "the guest executed RDSEED and RDSEED exiting is 1", _CONDITIONAL),
        (
            _R.PAGE_MODIFICATION_LOG_FULL,
            "Page-modification log full",
            "the page-modification log had no room for an entry",
            "SDM Vol. 3C §29.3.6",
        ),
        (_R.XSAVES, "XSAVES", "the guest executed XSAVES for a component in the XSS-exiting bitmap", _CONDITIONAL),
        (_R.XRSTORS, "XRSTORS", "the guest executed XRSTORS for a component in the XSS-exiting bitmap", _CONDITIONAL),
        (
            _R.PCONFIG,
            "PCONFIG",
            "the guest executed PCONFIG and its leaf's bit in the PCONFIG-exiting bitmap is 1",
            _CONDITIONAL,
        ),
        (
            _R.SPP_RELATED_EVENT,
            "SPP-related event",
            "the sub-page-permission walk missed or met a bad entry",
            "SDM Vol. 3C §29.3.4",
        ),
        (_R.UMWAIT, "UMWAIT", "the guest executed UMWAIT with user wait enabled and RDTSC exiting 1", _CONDITIONAL),
        (_R.TPAUSE, "TPAUSE", "the guest executed TPAUSE with user wait enabled and RDTSC exiting 1", _CONDITIONAL),
        (_R.LOADIWKEY, "LOADIWKEY", "the guest executed LOADIWKEY and LOADIWKEY exiting is 1", _CONDITIONAL),
        (
            _R.ENCLV,
            "ENCLV",
            "the guest executed ENCLV and its leaf's bit in the ENCLV-exiting bitmap is 1",
            _CONDITIONAL,
        ),
        (
            _R.ENQCMD_PASID_TRANSLATION_FAILURE,
            "ENQCMD PASID translation failure",
            "PASID translation of ENQCMD failed",
            _CONDITIONAL,
        ),
        (
            _R.ENQCMDS_PASID_TRANSLATION_FAILURE,
            "ENQCMDS PASID translation failure",
            "PASID translation of ENQCMDS failed",
            _CONDITIONAL,
        ),
        (_R.BUS_LOCK, "Bus lock", "the guest asserted a bus lock and VMM bus-lock detection is 1", _OTHER),
        (
            _R.INSTRUCTION_TIMEOUT,
            "Instruction timeout",
            "no interrupt window opened within the instruction timeout",
            _OTHER,
        ),
    )
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
