"""An instruction as a value: what it is, what it works on, how long it is.

Nothing here depends on a decoder library; `simvirt.x86.decode` makes these. Operands are a closed union, `Operand`,
so that whoever emulates an instruction matches on types rather than on text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.x86.operations import Operation
    from simvirt.x86.registers import ControlRegister, DebugRegister, GeneralRegister, SegmentRegister


class Bits(IntEnum):
    """The size of code that a processor decodes: of the code segment, or 64-bit mode."""

    CODE_16 = 16
    CODE_32 = 32
    CODE_64 = 64


class Flow(Enum):
    """Where control goes after an instruction."""

    NEXT = "next instruction"
    JUMP = "jump"
    CONDITIONAL_JUMP = "conditional jump"
    INDIRECT_JUMP = "indirect jump"
    CALL = "call"
    INDIRECT_CALL = "indirect call"
    RETURN = "return"
    INTERRUPT = "interrupt"
    EXCEPTION = "exception"
    TRANSACTION = "transaction"


class Repeat(Enum):
    """A repeat prefix."""

    NONE = ""
    REPE = "rep"
    """F3H: REP of INS, OUTS, MOVS, LODS and STOS, REPE of CMPS and SCAS."""
    REPNE = "repne"


class Access(Enum):
    """What an instruction does with an operand in memory."""

    READ = "read"
    WRITE = "write"
    READ_WRITE = "read-write"
    NONE = "none"
    """An address only (LEA, INVLPG)."""

    @property
    def reads(self) -> bool:
        """Reads, or may read."""
        return self in (Access.READ, Access.READ_WRITE)

    @property
    def writes(self) -> bool:
        """Writes, or may write."""
        return self in (Access.WRITE, Access.READ_WRITE)


@dataclass(frozen=True, slots=True)
class GeneralOperand:
    """A general register, seen at `width` bits."""

    register: GeneralRegister
    width: int
    high_byte: bool = False
    """AH, CH, DH or BH."""

    def __str__(self) -> str:
        return self.register.name_at(self.width, high_byte=self.high_byte)


@dataclass(frozen=True, slots=True)
class SegmentOperand:
    """A segment register."""

    register: SegmentRegister


@dataclass(frozen=True, slots=True)
class ControlOperand:
    """A control register."""

    register: ControlRegister


@dataclass(frozen=True, slots=True)
class DebugOperand:
    """A debug register."""

    register: DebugRegister


@dataclass(frozen=True, slots=True)
class OtherRegisterOperand:
    """A register that monitors do not emulate: x87, MMX, SSE, mask and so on; also CRn that does not exist."""

    name: str


@dataclass(frozen=True, slots=True)
class MemoryOperand:
    """An operand in memory, as the instruction spells its address (SDM Vol. 1 §3.7.5).

    `displacement` is already the target for an address relative to the instruction pointer.
    """

    segment: SegmentRegister
    base: GeneralRegister | None
    index: GeneralRegister | None
    scale: int
    displacement: int
    address_bits: int
    """Bits of the effective address: it wraps there."""
    size: int
    """Bytes; 0 where the instruction decides at run time or accesses nothing."""

    def effective_address(self, read: Callable[[GeneralRegister], int]) -> int:
        """The offset within the segment, registers read at full width by `read`."""
        address = self.displacement
        if self.base is not None:
            address += _window(read(self.base), self.address_bits)
        if self.index is not None:
            address += _window(read(self.index), self.address_bits) * self.scale
        return _window(address, self.address_bits)


@dataclass(frozen=True, slots=True)
class ImmediateOperand:
    """A constant, sign-extended to the operation's size where the instruction does so."""

    value: int


@dataclass(frozen=True, slots=True)
class BranchOperand:
    """The target of a near branch, an offset within the code segment."""

    target: int


@dataclass(frozen=True, slots=True)
class FarPointerOperand:
    """Selector and offset of a direct far branch."""

    selector: int
    offset: int


Operand: TypeAlias = (
    GeneralOperand
    | SegmentOperand
    | ControlOperand
    | DebugOperand
    | OtherRegisterOperand
    | MemoryOperand
    | ImmediateOperand
    | BranchOperand
    | FarPointerOperand
)


@dataclass(frozen=True, slots=True)
class UsedMemory:
    """One access to memory that an instruction makes, those of the stack and of string operations included."""

    operand: MemoryOperand
    access: Access
    conditional: bool = False
    """It may or may not happen (REP with a count of zero, a CMPXCHG that fails)."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction, or bytes that are none (`is_valid` False)."""

    encoding: bytes
    """Exactly its bytes."""
    address: int
    """The instruction pointer it was decoded for, an offset within the code segment."""
    bits: Bits
    mnemonic: str
    """Lower case, the manual's, with the size where the manual has it: "popfd"."""
    operation: Operation
    operands: tuple[Operand, ...]
    operand_size: int
    """Bits: 16, 32 or 64 where the operation's width depends on mode and prefixes (POPF, IRET, CALL far), else 0."""
    address_size: int
    """Bits of addresses after any 67H prefix: counters of REP and pointers of string instructions have it."""
    flow: Flow
    repeat: Repeat
    has_lock: bool
    segment_override: SegmentRegister | None
    is_privileged: bool
    """According to the decoder's tables: may need CPL 0, or CPL at most IOPL."""
    stack_pointer_increment: int
    """Bytes that the stack pointer moves by (down is negative), 0 if it does not or that is only known at run time."""
    is_valid: bool = True
    is_truncated: bool = False
    """The bytes given end before the instruction does."""
    cpuid_features: tuple[str, ...] = ()
    """The features that it needs, by the decoder's names."""

    @property
    def length(self) -> int:
        """Bytes."""
        return len(self.encoding)

    @property
    def next_address(self) -> int:
        """The instruction pointer after it, wrapped as the processor wraps it."""
        return _window(self.address + len(self.encoding), 64 if self.bits == Bits.CODE_64 else 32)

    @property
    def memory(self) -> MemoryOperand | None:
        """Its (first) explicit or string operand in memory."""
        return next((operand for operand in self.operands if isinstance(operand, MemoryOperand)), None)

    @property
    def immediate(self) -> int | None:
        """Its (first) constant."""
        return next((operand.value for operand in self.operands if isinstance(operand, ImmediateOperand)), None)

    @property
    def general(self) -> GeneralOperand | None:
        """Its (first) general register."""
        return next((operand for operand in self.operands if isinstance(operand, GeneralOperand)), None)

    @property
    def branch_target(self) -> int | None:
        """Target of a direct near branch."""
        return next((operand.target for operand in self.operands if isinstance(operand, BranchOperand)), None)


def _window(value: int, width: int) -> int:
    return value & (1 << width) - 1
