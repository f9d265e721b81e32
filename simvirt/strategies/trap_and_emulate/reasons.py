"""Why a de-privileged guest trapped: the exit reasons of trap-and-emulate, and the rule behind each."""

from __future__ import annotations

from enum import Enum
from typing import Final

from simvirt.x86.exceptions import Vector
from simvirt.x86.operations import Operation


class TrapReason(Enum):
    """What the VMM's dispatcher found; the value is the heading in tables."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and every exit is counted by its reason

    CLI = "CLI"
    STI = "STI"
    HLT = "HLT"
    IN = "IN"
    OUT = "OUT"
    INS = "INS"
    OUTS = "OUTS"
    LGDT = "LGDT"
    LIDT = "LIDT"
    LLDT = "LLDT"
    LTR = "LTR"
    SGDT = "SGDT"
    SIDT = "SIDT"
    SLDT = "SLDT"
    STR = "STR"
    SMSW = "SMSW"
    CLAC = "CLAC"
    STAC = "STAC"
    LMSW = "LMSW"
    CLTS = "CLTS"
    MOV_TO_CR = "MOV to CR"
    MOV_FROM_CR = "MOV from CR"
    MOV_TO_DR = "MOV to DR"
    MOV_FROM_DR = "MOV from DR"
    RDMSR = "RDMSR"
    WRMSR = "WRMSR"
    RDTSC = "RDTSC"
    RDTSCP = "RDTSCP"
    INVLPG = "INVLPG"
    INVD = "INVD"
    WBINVD = "WBINVD"
    MOV_TO_SEGMENT = "MOV to segment register"
    POP_SEGMENT = "POP segment register"
    LOAD_FAR_POINTER = "load far pointer"
    JMP_FAR = "far JMP"
    CALL_FAR = "far CALL"
    RET_FAR = "far RET"
    IRET = "IRET"
    SYSENTER = "SYSENTER"
    SYSEXIT = "SYSEXIT"
    SOFTWARE_INTERRUPT = "INT n"
    EXCEPTION = "exception of the guest"
    DESCRIPTOR_LOAD = "first load of a descriptor"
    DESCRIPTOR_TABLE_WRITE = "write to a traced descriptor table"
    DESCRIPTOR_TABLE_USE = "use of a descriptor table that was written"
    WAIT = "WAIT that the guest's CR0.MP lets pass"
    SHADOW_FILL = "fill of a shadow page table"
    PAGE_TABLE_WRITE = "write to a traced page table"
    NO_MEMORY = "access where the guest has no memory"


BY_OPERATION: Final[dict[Operation, TrapReason]] = {
    operation: TrapReason[operation.name] for operation in Operation if operation.name in TrapReason.__members__
}
"""The reasons that are an instruction of their own."""

IOPL_SENSITIVE: Final = frozenset(
    {Operation.CLI, Operation.STI, Operation.IN, Operation.OUT, Operation.INS, Operation.OUTS}
)
"""Instructions that need CPL <= IOPL rather than CPL 0."""

UMIP_SENSITIVE: Final = frozenset({Operation.SGDT, Operation.SIDT, Operation.SLDT, Operation.STR, Operation.SMSW})
"""Instructions that need CPL 0 while CR4.UMIP is 1, and trap then alone (SDM Vol. 3A §2.5)."""

DESCRIPTOR_FAULTS: Final = frozenset({Vector.GP, Vector.NP, Vector.SS, Vector.TS, Vector.PF, Vector.UD})
"""What a load of a segment register, a far transfer or a privileged instruction can raise in rings 1 and 3."""

FAULT_OF_PRIVILEGE: Final = {Operation.CLAC: Vector.UD, Operation.STAC: Vector.UD}
"""What a privileged instruction raises above CPL 0 where that is not #GP (SDM Vol. 2A "CLAC", 2B "STAC")."""

SEGMENT_LOADS: Final = frozenset(
    {
        Operation.MOV_TO_SEGMENT,
        Operation.POP_SEGMENT,
        Operation.LOAD_FAR_POINTER,
        Operation.JMP_FAR,
        Operation.CALL_FAR,
        Operation.RET_FAR,
        Operation.IRET,
    }
)
"""Instructions that read a descriptor: they fault on a shadow entry where the guest's own might have been fine."""
