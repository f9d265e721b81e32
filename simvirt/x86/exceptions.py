"""Exceptions and interrupts: vectors, classes, error codes, and what two in a row become.

The numbers 0 to 31 belong to the processor; 32 to 255 are anybody's (SDM Vol. 3A §6.2). An exception met while an
earlier one is being delivered is either handled after it, or the pair becomes a double fault, or, during a double
fault, the processor shuts down (a *triple fault*): `escalate` is that table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from simvirt.x86.segments import Selector


class ExceptionClass(Enum):
    """How an exception reports its place (SDM Vol. 3A §6.5)."""

    FAULT = "fault"
    """The saved instruction pointer is the faulting instruction: it can be restarted."""
    TRAP = "trap"
    """The saved instruction pointer is the next instruction."""
    ABORT = "abort"
    """The place is not reliably known; the program cannot be restarted."""
    FAULT_OR_TRAP = "fault or trap"
    """#DB alone: the cause decides (SDM Vol. 3B §18.3.1)."""
    INTERRUPT = "interrupt"
    """No exception at all: the NMI."""
    RESERVED = "reserved"


class Vector(IntEnum):
    """A vector that the architecture has given a meaning (SDM Vol. 3A Table 6-1)."""

    DE = 0
    DB = 1
    NMI = 2
    BP = 3
    OF = 4
    BR = 5
    UD = 6
    NM = 7
    DF = 8
    COPROCESSOR_SEGMENT_OVERRUN = 9
    TS = 10
    NP = 11
    SS = 12
    GP = 13
    PF = 14
    RESERVED_15 = 15
    MF = 16
    AC = 17
    MC = 18
    XM = 19
    VE = 20
    CP = 21
    RESERVED_22 = 22
    RESERVED_23 = 23
    RESERVED_24 = 24
    RESERVED_25 = 25
    RESERVED_26 = 26
    RESERVED_27 = 27
    RESERVED_28 = 28
    RESERVED_29 = 29
    RESERVED_30 = 30
    RESERVED_31 = 31

    @property
    def info(self) -> VectorInfo:
        """The row of Table 6-1."""
        return VECTORS.get(self) or VectorInfo(self, "Intel reserved", ExceptionClass.RESERVED, False)

    @property
    def title(self) -> str:
        """The manual's description, as "General Protection"."""
        return self.info.title

    @property
    def mnemonic(self) -> str:
        """How manuals write it: "#GP"; "NMI" has no hash, a reserved vector none at all.

        >>> Vector.GP.mnemonic, Vector.NMI.mnemonic
        ('#GP', 'NMI')
        """
        if self is Vector.NMI:
            return "NMI"
        return f"#{self.name}" if len(self.name) == 2 else f"vector {self.value}"

    @property
    def has_error_code(self) -> bool:
        """Does its delivery push an error code?"""
        return self in ERROR_CODE_VECTORS


@dataclass(frozen=True, slots=True)
class VectorInfo:
    """One row of SDM Vol. 3A Table 6-1 "Protected-Mode Exceptions and Interrupts"."""

    vector: Vector
    title: str
    exception_class: ExceptionClass
    has_error_code: bool


VECTORS: Final[dict[Vector, VectorInfo]] = {
    vector: VectorInfo(vector, title, exception_class, has_error_code)
    for vector, title, exception_class, has_error_code in (
        (Vector.DE, "Divide Error", ExceptionClass.FAULT, False),
        (Vector.DB, "Debug Exception", ExceptionClass.FAULT_OR_TRAP, False),
        (Vector.NMI, "NMI Interrupt", ExceptionClass.INTERRUPT, False),
        (Vector.BP, "Breakpoint", ExceptionClass.TRAP, False),
        (Vector.OF, "Overflow", ExceptionClass.TRAP, False),
        (Vector.BR, "BOUND Range Exceeded", ExceptionClass.FAULT, False),
        (Vector.UD, "Invalid Opcode", ExceptionClass.FAULT, False),
        (Vector.NM, "Device Not Available", ExceptionClass.FAULT, False),
        (Vector.DF, "Double Fault", ExceptionClass.ABORT, True),
        (Vector.COPROCESSOR_SEGMENT_OVERRUN, "Coprocessor Segment Overrun", ExceptionClass.FAULT, False),
        (Vector.TS, "Invalid TSS", ExceptionClass.FAULT, True),
        (Vector.NP, "Segment Not Present", ExceptionClass.FAULT, True),
        (Vector.SS, "Stack-Segment Fault", ExceptionClass.FAULT, True),
        (Vector.GP, "General Protection", ExceptionClass.FAULT, True),
        (Vector.PF, "Page Fault", ExceptionClass.FAULT, True),
        (Vector.MF, "x87 FPU Floating-Point Error", ExceptionClass.FAULT, False),
        (Vector.AC, "Alignment Check", ExceptionClass.FAULT, True),
        (Vector.MC, "Machine Check", ExceptionClass.ABORT, False),
        (Vector.XM, "SIMD Floating-Point Exception", ExceptionClass.FAULT, False),
        (Vector.VE, "Virtualization Exception", ExceptionClass.FAULT, False),
        (Vector.CP, "Control Protection Exception", ExceptionClass.FAULT, True),
    )
}

ERROR_CODE_VECTORS: Final[frozenset[int]] = frozenset(row.vector for row in VECTORS.values() if row.has_error_code)
"""Vectors whose delivery pushes an error code; INT n with the same number pushes none, nor does real mode."""


class Severity(Enum):
    """The class that decides what two exceptions in a row become (SDM Vol. 3A Table 6-4)."""

    BENIGN = "benign"
    CONTRIBUTORY = "contributory"
    PAGE_FAULT = "page fault"
    DOUBLE_FAULT = "double fault"


CONTRIBUTORY: Final = frozenset({Vector.DE, Vector.TS, Vector.NP, Vector.SS, Vector.GP, Vector.CP})
"""The contributory exceptions of SDM Vol. 3A Table 6-4."""


class Escalation(Enum):
    """What an exception during the delivery of another leads to (SDM Vol. 3A §6.15, Table 6-5)."""

    SERIAL = "handle the second exception, then the first"
    DOUBLE_FAULT = "generate a double fault"
    SHUTDOWN = "enter shutdown (triple fault)"


def severity(vector: int | None) -> Severity:
    """The class of `vector` in Table 6-4; None stands for an external interrupt or INT n, both benign."""
    if vector is None:
        return Severity.BENIGN
    if vector in CONTRIBUTORY:
        return Severity.CONTRIBUTORY
    if vector in (Vector.PF, Vector.VE):
        return Severity.PAGE_FAULT
    return Severity.DOUBLE_FAULT if vector == Vector.DF else Severity.BENIGN


_PAIRS: Final[dict[tuple[Severity, Severity], Escalation]] = {
    (Severity.CONTRIBUTORY, Severity.CONTRIBUTORY): Escalation.DOUBLE_FAULT,
    (Severity.PAGE_FAULT, Severity.CONTRIBUTORY): Escalation.DOUBLE_FAULT,
    (Severity.PAGE_FAULT, Severity.PAGE_FAULT): Escalation.DOUBLE_FAULT,
    (Severity.DOUBLE_FAULT, Severity.CONTRIBUTORY): Escalation.SHUTDOWN,
    (Severity.DOUBLE_FAULT, Severity.PAGE_FAULT): Escalation.SHUTDOWN,
    (Severity.DOUBLE_FAULT, Severity.DOUBLE_FAULT): Escalation.SHUTDOWN,
}


def escalate(first: int | None, second: int) -> Escalation:
    """What becomes of exception `second`, met while `first` was being delivered (SDM Vol. 3A Tables 6-4 and 6-5).

    `first` is None while an external interrupt or a software interrupt is being delivered.

    >>> escalate(Vector.PF, Vector.GP), escalate(Vector.DF, Vector.PF), escalate(Vector.GP, Vector.PF)
    (<Escalation.DOUBLE_FAULT: 'generate a double fault'>, <Escalation.SHUTDOWN: 'enter shutdown (triple fault)'>, \
<Escalation.SERIAL: 'handle the second exception, then the first'>)
    """
    return _PAIRS.get((severity(first), severity(second)), Escalation.SERIAL)


@dataclass(frozen=True, slots=True)
class SelectorErrorCode:
    """The error code of #TS, #NP, #SS and #GP (SDM Vol. 3A §6.13): what was referred to, and by whom.

    >>> hex(SelectorErrorCode.for_vector(0x20, external=False).encode()), SelectorErrorCode.decode(0x102)
    ('0x102', SelectorErrorCode(index=32, in_idt=True, in_ldt=False, external=False))
    """

    index: int
    in_idt: bool = False
    in_ldt: bool = False
    external: bool = False

    @classmethod
    def for_selector(cls, selector: int, *, external: bool = False) -> SelectorErrorCode:
        """The code that names the descriptor of `selector`; its RPL does not matter."""
        named = Selector(selector)
        return cls(named.index, in_ldt=named.in_ldt, external=external)

    @classmethod
    def for_vector(cls, vector: int, *, external: bool) -> SelectorErrorCode:
        """The code that names gate `vector` of the IDT."""
        return cls(vector, in_idt=True, external=external)

    @classmethod
    def decode(cls, value: int) -> SelectorErrorCode:
        """Take an error code apart. With the IDT bit set, the TI bit has no meaning and is dropped."""
        in_idt = bool(value & 2)
        return cls(value >> 3 & 0x1FFF, in_idt, bool(value & 4) and not in_idt, bool(value & 1))

    def encode(self) -> int:
        """The 16 bits that are pushed."""
        return self.index << 3 | self.in_ldt << 2 | self.in_idt << 1 | int(self.external)

    def __str__(self) -> str:
        if not self.encode():
            return "0"
        table = "IDT" if self.in_idt else "LDT" if self.in_ldt else "GDT"
        return f"{self.encode():#06x} ({table} entry {self.index}{', external event' if self.external else ''})"
