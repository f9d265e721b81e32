"""VM exits in words: what a reason means, which controls ask for it, its qualification, the manual's section.

Names and numbers are the manual's; the names that Linux prints in its ``kvm_exit`` events and in ``perf kvm stat`` are
understood too (Linux, arch/x86/include/uapi/asm/vmx.h), so that a trace from a real host can be explained.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnknownNameError, UsageError
from simvirt.x86.sensitivity import VtxBehaviour, sensitivity_table
from simvirt.x86.vmx.exit_reasons import ExitReason
from simvirt.x86.vmx.qualifications import CrAccess, EptViolation, IoInstruction, MovDr, TaskSwitch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LINUX: Final = {
    "EXCEPTION_NMI": ExitReason.EXCEPTION_OR_NMI,
    "OTHER_SMI": ExitReason.OTHER_SMI,
    "PENDING_INTERRUPT": ExitReason.INTERRUPT_WINDOW,
    "NMI_WINDOW": ExitReason.NMI_WINDOW,
    "DR_ACCESS": ExitReason.MOV_DR,
    "MSR_READ": ExitReason.RDMSR,
    "MSR_WRITE": ExitReason.WRMSR,
    "INVALID_STATE": ExitReason.ENTRY_FAILURE_GUEST_STATE,
    "MSR_LOAD_FAIL": ExitReason.ENTRY_FAILURE_MSR_LOADING,
    "MWAIT_INSTRUCTION": ExitReason.MWAIT,
    "MONITOR_INSTRUCTION": ExitReason.MONITOR,
    "PAUSE_INSTRUCTION": ExitReason.PAUSE,
    "MCE_DURING_VMENTRY": ExitReason.ENTRY_FAILURE_MACHINE_CHECK,
    "EOI_INDUCED": ExitReason.VIRTUALIZED_EOI,
    "GDTR_IDTR": ExitReason.GDTR_IDTR_ACCESS,
    "LDTR_TR": ExitReason.LDTR_TR_ACCESS,
    "EPT_MISCONFIG": ExitReason.EPT_MISCONFIGURATION,
    "PREEMPTION_TIMER": ExitReason.PREEMPTION_TIMER_EXPIRED,
    "PML_FULL": ExitReason.PAGE_MODIFICATION_LOG_FULL,
    "INIT_SIGNAL": ExitReason.INIT_SIGNAL,
    "SIPI_SIGNAL": ExitReason.SIPI,
    "VMOFF": ExitReason.VMXOFF,
    "VMON": ExitReason.VMXON,
    "NOTIFY": ExitReason.INSTRUCTION_TIMEOUT,
}
"""Linux's names where they are not the manual's."""

_QUALIFICATIONS: Final[dict[ExitReason, str]] = {
    ExitReason.EXCEPTION_OR_NMI: "for #PF the linear address, for #DB bits as in DR6 (Table 28-1); the vector "
    "is in the VM-exit interruption information",
    ExitReason.TASK_SWITCH: "selector of the TSS in bits 15:0, in 31:30 CALL, IRET, JMP or a gate (Table 28-2)",
    ExitReason.CR_ACCESS: "register in bits 3:0, kind of access in 5:4 (MOV to, MOV from, CLTS, LMSW), general "
    "register in 11:8, LMSW's source in 31:16 (Table 28-3)",
    ExitReason.MOV_DR: "register in bits 2:0, direction in 4, general register in 11:8 (Table 28-4)",
    ExitReason.IO_INSTRUCTION: "size in bits 2:0, direction in 3, string in 4, REP in 5, immediate in 6, port in 31:16 "
    "(Table 28-5)",
    ExitReason.APIC_ACCESS: "offset of the access in bits 11:0, its kind in 15:12 (Table 28-6)",
    ExitReason.EPT_VIOLATION: "read, write or fetch in bits 2:0, what EPT would have allowed in 5:3, linear address "
    "valid in 7, to the page or to a paging structure in 8 (Table 28-7)",
    ExitReason.INVLPG: "the linear address",
    ExitReason.VIRTUALIZED_EOI: "the vector, in bits 7:0",
    ExitReason.APIC_WRITE: "offset of the write in the APIC page",
    **dict.fromkeys(
        (
            ExitReason.INVEPT, ExitReason.INVVPID, ExitReason.INVPCID, ExitReason.GDTR_IDTR_ACCESS,
            ExitReason.LDTR_TR_ACCESS, ExitReason.VMCLEAR, ExitReason.VMPTRLD, ExitReason.VMPTRST, ExitReason.VMREAD,
            ExitReason.VMWRITE, ExitReason.VMXON, ExitReason.XSAVES, ExitReason.XRSTORS,
        ),
        "the displacement of the operand in memory; the rest of the operand is in the VM-exit instruction information",
    ),
}  # fmt: skip
_RECORDS: Final[dict[ExitReason, Callable[[int], object]]] = {
    ExitReason.CR_ACCESS: CrAccess.decode,
    ExitReason.MOV_DR: MovDr.decode,
    ExitReason.IO_INSTRUCTION: IoInstruction.decode,
    ExitReason.EPT_VIOLATION: EptViolation.decode,
    ExitReason.TASK_SWITCH: TaskSwitch.decode,
}


@dataclass(frozen=True, slots=True)
class ExitWords:
    """One exit reason explained."""

    reason: ExitReason
    cause: str
    section: str
    qualification: str
    instructions: tuple[str, ...]
    """The instructions that can cause it, each with the control that asks for it."""


def explain_exit(name: str | int) -> ExitWords:
    """The exit reason of this number or name, the manual's or Linux's.

    >>> explain_exit("MSR_WRITE").reason, explain_exit("0x1e").reason
    (<ExitReason.WRMSR: 32>, <ExitReason.IO_INSTRUCTION: 30>)

    Raises:
        UnknownNameError: there is no such name.
        UsageError: the manual assigns no such number.
    """
    reason = _reason(str(name))
    info = reason.info
    instructions = tuple(
        f"{row.title}: {_ASKS[row.vtx]}{row.vtx_note}"
        for row in sensitivity_table().rows
        if reason in row.vtx_exit_reasons
    )
    qualification = _QUALIFICATIONS.get(reason, "none: it reads 0")
    return ExitWords(reason, info.cause, info.section, qualification, instructions)


_ASKS: Final = {
    VtxBehaviour.ALWAYS: "always; ",
    VtxBehaviour.CONTROL: "",
    VtxBehaviour.SHADOW: "",
    VtxBehaviour.OWN_STATE: "",
}


def _reason(name: str) -> ExitReason:
    text = name.strip()
    if re.fullmatch(r"\d+|0[xX][0-9a-fA-F]+", text):
        try:
            return ExitReason(int(text, 0) & 0xFFFF)
        except ValueError:
            raise UsageError(
                f"{text} is no basic exit reason: they are 0 to {max(ExitReason)}, without 35, 38, 42 and 71 "
                "(SDM Vol. 3D Table C-1)"
            ) from None
    wanted = text.upper().replace("-", "_").replace(" ", "_").removeprefix("EXIT_REASON_")
    if wanted in ExitReason.__members__:
        return ExitReason[wanted]
    if wanted in _LINUX:
        return _LINUX[wanted]
    raise UnknownNameError("exit reason", name, [known.lower() for known in (*ExitReason.__members__, *_LINUX)])


@dataclass(frozen=True, slots=True)
class PastedExit:
    """An exit of a trace or a table of a real host."""

    words: ExitWords
    count: int
    share: float | None = None
    """Of all time, in per cent, where a table gives it."""
    details: str = ""
    """The qualification of the first of them, taken apart, where the trace has it."""


_TRACE_LINE: Final = re.compile(r"kvm_exit:.*?\breason\s+([A-Za-z0-9_]+)(?:.*?\binfo1?\s+(0x)?([0-9a-fA-F]+))?")
_TABLE_LINE: Final = re.compile(r"^\s*([A-Z][A-Z0-9_]{2,})\s+(\d+)\s+([\d.]+)%(?:\s+([\d.]+)%)?")


def explain_pasted(lines: Iterable[str]) -> tuple[PastedExit, ...]:
    """The exits in the lines of a ``kvm_exit`` trace or of ``perf kvm stat report``, the most frequent first.

    Lines that are neither are passed over.

    Raises:
        UsageError: no line is either.
        UnknownNameError: an exit reason that neither the manual nor Linux has.
    """
    counts: dict[ExitReason, int] = {}
    shares: dict[ExitReason, float] = {}
    details: dict[ExitReason, str] = {}
    for line in lines:
        if (found := _TRACE_LINE.search(line)) is not None:
            reason = _reason(found[1])
            counts[reason] = counts.get(reason, 0) + 1
            if found[3] is not None and reason not in details:
                details[reason] = _details(reason, int(found[3], 16))
        elif (found := _TABLE_LINE.match(line)) is not None:
            reason = _reason(found[1])
            counts[reason] = counts.get(reason, 0) + int(found[2])
            shares[reason] = float(found[4] or found[3])
    if not counts:
        raise UsageError(
            "no line is an exit: give lines of the event kvm_exit (trace-cmd, perf trace) or the table of "
            "`perf kvm stat report`"
        )
    order = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return tuple(
        PastedExit(explain_exit(int(reason)), counts[reason], shares.get(reason), details.get(reason, ""))
        for reason in order
    )


def _details(reason: ExitReason, qualification: int) -> str:
    record = _RECORDS.get(reason)
    if record is None:
        return ""
    try:
        return str(record(qualification))
    except ValueError:
        return ""
