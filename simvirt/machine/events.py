"""What `Cpu.run` returns: a closed union of records, one for each thing that a processor does not settle by itself.

They are not frozen, for one is made at every exit, and a frozen record takes several times as long; nobody changes one
all the same. Every event stands *before* its instruction's effects: RIP is on the instruction, nothing has changed, and
`length` is the instruction's in bytes. `completion.complete` then does what the bare processor does; a VMM does
something else instead. Every dispatcher is a table over the whole union.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from simvirt.machine.fills import Refusal

if TYPE_CHECKING:
    from simvirt.machine.breakpoints import DebuggerPoint
    from simvirt.machine.fills import Access, Verdict
    from simvirt.x86.addresses import Gpa, Gva, Port
    from simvirt.x86.exceptions import Vector
    from simvirt.x86.registers import GeneralRegister


@dataclass(slots=True)
class LimitReached:
    """Exactly the wanted number of instructions has been retired."""


@dataclass(slots=True)
class DebuggerHit:
    """Breakpoints or watchpoints of a debugger: RIP is on the instruction, or behind the one that touched the data."""

    points: tuple[DebuggerPoint, ...]


@dataclass(slots=True)
class Interrupted:
    """The host asked for the run to stop (Ctrl-C)."""


@dataclass(slots=True)
class InterruptWindow:
    """The guest can take an interrupt now: IF is 1 and no shadow is in force."""


@dataclass(slots=True)
class NonMaskableInterrupt:
    """An NMI is pending, and the processor can take it now: it comes before the instruction at RIP."""


@dataclass(slots=True)
class EngineFault:
    """The engine itself failed: a bug, not a guest's deed."""

    status: int
    """As `Engine.status` has it."""


@dataclass(slots=True)
class ExceptionRaised:
    """An exception; RIP is where the manual says that it is reported."""

    vector: Vector
    error_code: int | None = None
    cr2: Gva | None = None
    """The linear address of a page fault."""
    condition: int = 0
    """The bits of DR6 that a debug exception is to show (SDM Vol. 3B §18.2.3)."""


class SoftwareInterruptKind(Enum):
    """Which instruction it was: virtual-8086 mode and VMX treat INT n, INT3 and INTO differently."""

    INT_N = "INT n"
    INT3 = "INT3"
    INTO = "INTO"
    INT1 = "INT1"
    """A debug exception that does not look at the gate's DPL, and sets nothing in DR6 (SDM Vol. 2A "INT n")."""


@dataclass(slots=True)
class SoftwareInterrupt:
    """INT n, INT3, INTO or INT1."""

    vector: int
    kind: SoftwareInterruptKind
    length: int


@dataclass(slots=True)
class PortAccess:
    """IN, OUT, INS or OUTS, one element; no permission has been checked."""

    port: Port
    size: int
    """Bytes of the element: 1, 2 or 4."""
    is_out: bool
    value: int
    """What OUT and OUTS write; 0 for IN and INS."""
    length: int
    is_immediate: bool = False
    """Is the port a part of the instruction, rather than in DX?"""
    is_string: bool = False
    is_repeated: bool = False
    """Is there a REP prefix?"""
    address_size: int = 4
    """Bytes of the string instruction's address."""


class PhysicalTarget(Enum):
    """What lies at a guest-physical address that is not plain memory."""

    MMIO = "device"
    HOLE = "hole"
    ROM = "ROM"


@dataclass(slots=True)
class PhysicalAccess:
    """An access to device memory or to nothing, or a write to ROM."""

    target: PhysicalTarget
    gpa: Gpa
    gva: Gva
    access: Access
    length: int


@dataclass(slots=True)
class EptViolated:
    """The EPT has no translation for a guest-physical address, or none that allows the access."""

    gpa: Gpa
    gva: Gva | None
    """The linear address whose translation was under way; None where MOV to CR loads the PDPTE registers."""
    access: Access
    rights: int
    """What all entries of the walk allow: bit 0 reads, bit 1 writes, bit 2 fetches."""
    to_page: bool
    """Was the access to the page itself, rather than to one of the guest's paging structures?"""
    length: int = 0


@dataclass(slots=True)
class EptMisconfigured:
    """An entry of the EPT has a value that none may have."""

    gpa: Gpa
    length: int = 0


@dataclass(slots=True)
class ModificationLogFull:
    """A page is about to become dirty, and the page-modification log has no entry left for it."""

    gpa: Gpa
    length: int = 0


EptRefusal: TypeAlias = EptViolated | EptMisconfigured | ModificationLogFull


def ept_event(verdict: Verdict, length: int = 0) -> EptRefusal:
    """What an access that the EPT refused is as an event; `length` is its instruction's."""
    if verdict.refusal is Refusal.PML_FULL:
        return ModificationLogFull(verdict.gpa, length)
    if verdict.refusal is Refusal.EPT_MISCONFIGURATION:
        return EptMisconfigured(verdict.gpa, length)
    return EptViolated(verdict.gpa, verdict.gva, verdict.access, verdict.error_code, verdict.to_page, length)


@dataclass(slots=True)
class WatchedWrite:
    """A write to a page that somebody watches (`Engine.watch_page`)."""

    gpa: Gpa
    gva: Gva
    length: int


@dataclass(slots=True)
class Halt:
    """HLT at CPL 0, with the processor not asleep yet."""

    length: int


@dataclass(slots=True)
class Cpuid:
    """CPUID, where it is not answered natively; EAX and ECX hold leaf and subleaf."""

    length: int


@dataclass(slots=True)
class ReadTimeStampCounter:
    """RDTSC or RDTSCP, where it is not answered natively."""

    is_rdtscp: bool
    length: int


@dataclass(slots=True)
class ReadPerformanceCounter:
    """RDPMC; ECX names the counter."""

    length: int


@dataclass(slots=True)
class MsrAccess:
    """RDMSR or WRMSR at CPL 0; ECX names the register."""

    is_write: bool
    length: int


class ControlRegisterOperation(Enum):
    """The instructions that reach control registers (SDM Vol. 3C Table 28-3 "access type")."""

    MOV_TO_CR = 0
    MOV_FROM_CR = 1
    CLTS = 2
    LMSW = 3
    SMSW = 4
    """Not an access type of VMX, where SMSW never exits."""


@dataclass(slots=True)
class ControlRegisterAccess:
    """An access to a control register that is intercepted."""

    operation: ControlRegisterOperation
    number: int
    register: GeneralRegister
    """The general register of MOV."""
    length: int


@dataclass(slots=True)
class DebugRegisterAccess:
    """MOV to or from a debug register (SDM Vol. 2B "MOV—Move to/from Debug Registers")."""

    is_write: bool
    number: int
    register: GeneralRegister
    length: int


class DescriptorTableRegister(Enum):
    """The registers that LGDT and its kin load and store."""

    GDTR = "GDTR"
    IDTR = "IDTR"
    LDTR = "LDTR"
    TR = "TR"


@dataclass(slots=True)
class DescriptorTableAccess:
    """LGDT, SGDT, LIDT, SIDT, LLDT, SLDT, LTR or STR."""

    register: DescriptorTableRegister
    is_write: bool
    """Is the register loaded?"""
    length: int


@dataclass(slots=True)
class InvalidatePage:
    """INVLPG at CPL 0."""

    length: int


@dataclass(slots=True)
class InvalidateCaches:
    """INVD or WBINVD at CPL 0."""

    is_wbinvd: bool
    length: int


@dataclass(slots=True)
class FlagsAccess:
    """PUSHF, POPF or IRET, where they are intercepted: no Intel processor can, and the analyzer wants to."""

    mnemonic: str
    length: int


@dataclass(slots=True)
class Pause:
    """PAUSE, where it is intercepted."""

    length: int


@dataclass(slots=True)
class X87ErrorReported:
    """An x87 exception is pending and CR0.NE is 0: FERR# reports it (SDM Vol. 1 §8.7.2).

    The processor waits for an interrupt in front of the instruction at RIP, which would report it by #MF.
    """


@dataclass(slots=True)
class SystemCall:
    """SYSCALL or SYSENTER."""

    is_sysenter: bool
    length: int


Event: TypeAlias = (
    LimitReached
    | Interrupted
    | DebuggerHit
    | InterruptWindow
    | NonMaskableInterrupt
    | EngineFault
    | ExceptionRaised
    | SoftwareInterrupt
    | PortAccess
    | PhysicalAccess
    | EptViolated
    | EptMisconfigured
    | ModificationLogFull
    | WatchedWrite
    | Halt
    | Cpuid
    | ReadTimeStampCounter
    | ReadPerformanceCounter
    | MsrAccess
    | ControlRegisterAccess
    | DebugRegisterAccess
    | DescriptorTableAccess
    | InvalidatePage
    | InvalidateCaches
    | FlagsAccess
    | Pause
    | X87ErrorReported
    | SystemCall
)
