"""The registers as gdb knows them: one table for each layout, in the order in which they travel.

A layout is fixed for a session, because gdb is. In the 64-bit layout everything is there in every mode; in the 32-bit
layout a guest that goes to 64-bit mode shows the low halves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from simvirt.errors import UnknownNameError, UsageError
from simvirt.machine.floating_point import FloatingPoint
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.flags import Eflags
from simvirt.x86.registers import GENERAL_REGISTERS_32, GeneralRegister, SegmentRegister
from simvirt.x86.segments import Descriptor, Selector

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.architectural_state import ArchitecturalState

CORE: Final = "org.gnu.gdb.i386.core"
SSE: Final = "org.gnu.gdb.i386.sse"
SEGMENTS: Final = "org.gnu.gdb.i386.segments"
SYSTEM: Final = "org.simvirt.i386.system"
"""gdb shows registers of features that it does not know by their names and groups."""


class RegisterFile:
    """A state on its way to gdb, or with what gdb has changed. `read` is the guest's linear memory."""

    def __init__(self, state: ArchitecturalState, read: Callable[[int, int], bytes]) -> None:
        self.state = state
        self.read = read
        self._floating_point: FloatingPoint | None = None

    @property
    def floating_point(self) -> FloatingPoint:
        """The x87 and SSE registers."""
        if self._floating_point is None:
            self._floating_point = FloatingPoint(self.state.floating_point)
        return self._floating_point

    def result(self) -> ArchitecturalState:
        """The state as it is by now."""
        if self._floating_point is None:
            return self.state
        return replace(self.state, floating_point=bytes(self._floating_point))


class Part(Protocol):
    """Where in a state a register is found, and how it is changed."""

    def get(self, file: RegisterFile) -> int:
        """Its value."""
        ...

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it."""
        ...


@dataclass(frozen=True, slots=True)
class Register:
    """One row: a register's name, size and type in gdb's words, and what it is."""

    name: str
    bits: int
    kind: str
    feature: str
    part: Part
    group: str | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes in a packet."""
        return self.bits // 8

    def encode(self, file: RegisterFile) -> bytes:
        """Its value, as it travels; what does not fit is cut off."""
        return (self.part.get(file) & (1 << self.bits) - 1).to_bytes(self.size, "little")

    def decode(self, file: RegisterFile, data: bytes) -> None:
        """Take a value that has travelled.

        Raises:
            UsageError: there is no such value.
        """
        self.part.set(file, int.from_bytes(data, "little"))


# ---------------------------------------------------------------------------------------------------------------- parts


@dataclass(frozen=True, slots=True)
class General:
    """A general register, or its low half."""

    register: GeneralRegister
    mask: int

    def get(self, file: RegisterFile) -> int:
        """Its value."""
        return file.state.general[self.register]

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it; the half that gdb does not see stays."""
        general = list(file.state.general)
        general[self.register] = general[self.register] & ~self.mask & (1 << 64) - 1 | value
        file.state = replace(file.state, general=tuple(general))


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the state."""

    name: str

    def get(self, file: RegisterFile) -> int:
        """Its value."""
        value: int = getattr(file.state, self.name)
        return value

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it."""
        changes: dict[str, int] = {self.name: value}
        file.state = replace(file.state, **changes)  # type: ignore[arg-type]  # the fields named below are integers


@dataclass(frozen=True, slots=True)
class FlagsRegister:
    """EFLAGS, whose bit 1 is always set."""

    def get(self, file: RegisterFile) -> int:
        """Its value."""
        return file.state.eflags

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it."""
        file.state = replace(file.state, eflags=value | 2)


@dataclass(frozen=True, slots=True)
class Element:
    """An element of one of the state's tuples of integers: control and debug registers."""

    field: str
    index: int

    def get(self, file: RegisterFile) -> int:
        """Its value."""
        value: int = getattr(file.state, self.field)[self.index]
        return value

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it."""
        values = list(getattr(file.state, self.field))
        values[self.index] = value
        changes = {self.field: tuple(values)}
        if self.field == "control":
            changes["pdptes"] = ()  # those that CR3 leads to from now on, as behind a MOV to CR
        file.state = replace(file.state, **changes)  # type: ignore[arg-type]  # of the two fields that the table names


@dataclass(frozen=True, slots=True)
class SelectorOf:
    """A segment register. Writing it loads it as MOV does, with what its descriptor says, but without its checks."""

    register: SegmentRegister

    def get(self, file: RegisterFile) -> int:
        """The selector."""
        return file.state.segments[self.register].selector

    def set(self, file: RegisterFile, value: int) -> None:
        """Load it.

        Raises:
            UsageError: the selector names no descriptor that is there.
        """
        if value != self.get(file):
            _set_segment(file, self.register, _loaded(file, Selector(value & 0xFFFF), self.register))


@dataclass(frozen=True, slots=True)
class BaseOf:
    """The base of a segment register."""

    register: SegmentRegister

    def get(self, file: RegisterFile) -> int:
        """The base."""
        return file.state.segments[self.register].base

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it, and nothing else of the register."""
        _set_segment(file, self.register, replace(file.state.segments[self.register], base=value))


@dataclass(frozen=True, slots=True)
class TablePart:
    """Base or limit of GDTR or IDTR."""

    table: str
    field: str

    def get(self, file: RegisterFile) -> int:
        """Its value."""
        value: int = getattr(getattr(file.state, self.table), self.field)
        return value

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it."""
        old: DescriptorTable = getattr(file.state, self.table)
        new = replace(old, base=value) if self.field == "base" else replace(old, limit=value)
        changes = {self.table: new}
        file.state = replace(file.state, **changes)  # type: ignore[arg-type]  # of the two fields that the table names


@dataclass(frozen=True, slots=True)
class SystemPart:
    """Selector, base or limit of LDTR or TR; they show, and do not change."""

    register: str
    field: str

    def get(self, file: RegisterFile) -> int:
        """Its value."""
        value: int = getattr(getattr(file.state, self.register), self.field)
        return value

    def set(self, file: RegisterFile, value: int) -> None:
        """Refuse.

        Raises:
            UsageError: it would change.
        """
        if value != self.get(file):
            raise UsageError(f"{self.register.upper()} is loaded by LLDT and LTR alone")


@dataclass(frozen=True, slots=True)
class FloatingPointWord:
    """A property of the x87 and SSE registers."""

    name: str

    def get(self, file: RegisterFile) -> int:
        """Its value."""
        value: int = getattr(file.floating_point, self.name)
        return value

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it."""
        setattr(file.floating_point, self.name, value)


@dataclass(frozen=True, slots=True)
class StackElement:
    """ST(number)."""

    number: int

    def get(self, file: RegisterFile) -> int:
        """Its value, all 80 bits."""
        return file.floating_point.stack(self.number)

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it."""
        file.floating_point.set_stack(self.number, value)


@dataclass(frozen=True, slots=True)
class Xmm:
    """An XMM register."""

    number: int

    def get(self, file: RegisterFile) -> int:
        """Its value, all 128 bits."""
        return file.floating_point.xmm(self.number)

    def set(self, file: RegisterFile, value: int) -> None:
        """Change it."""
        file.floating_point.set_xmm(self.number, value)


def _set_segment(file: RegisterFile, register: SegmentRegister, segment: Segment) -> None:
    segments = list(file.state.segments)
    segments[register] = segment
    file.state = replace(file.state, segments=tuple(segments))


def _loaded(file: RegisterFile, selector: Selector, register: SegmentRegister) -> Segment:
    state = file.state
    if not state.control[0] & 1 or state.eflags & int(Eflags.VM):
        return replace(state.segments[register], selector=int(selector), base=selector << 4)
    if selector.is_null:
        return Segment(int(selector), 0, 0, 0)
    table = state.ldtr if selector.in_ldt else state.gdtr
    data = file.read(table.base + selector.offset, 8) if selector.offset + 7 <= table.limit else b""
    if len(data) < 8:
        raise UsageError(f"selector {selector:#06x} names no descriptor: the table has {table.limit + 1:#x} bytes")
    return Segment.from_descriptor(int(selector), Descriptor.from_bytes(data))


# -------------------------------------------------------------------------------------------------------------- layouts


@dataclass(frozen=True, slots=True)
class Layout:
    """The registers of a session."""

    name: str
    """On the command line."""
    architecture: str
    """As gdb calls it."""
    registers: tuple[Register, ...]

    @property
    def size(self) -> int:
        """Bytes of all registers together."""
        return sum(register.size for register in self.registers)


_SELECTORS: Final = (
    SegmentRegister.CS, SegmentRegister.SS, SegmentRegister.DS, SegmentRegister.ES, SegmentRegister.FS,
    SegmentRegister.GS,
)  # fmt: skip
_X87: Final = (
    ("fctrl", "control_word"), ("fstat", "status_word"), ("ftag", "tag_word"), ("fiseg", "instruction_selector"),
    ("fioff", "instruction_pointer"), ("foseg", "data_selector"), ("fooff", "data_pointer"), ("fop", "last_opcode"),
)  # fmt: skip
_AMD64_ORDER: Final = (
    GeneralRegister.RAX, GeneralRegister.RBX, GeneralRegister.RCX, GeneralRegister.RDX, GeneralRegister.RSI,
    GeneralRegister.RDI, GeneralRegister.RBP, GeneralRegister.RSP, *tuple(GeneralRegister)[8:],
)  # fmt: skip


def _layout(name: str, architecture: str, bits: int) -> Layout:
    general = GENERAL_REGISTERS_32 if bits == 32 else _AMD64_ORDER
    mask = (1 << bits) - 1
    rows = [
        Register(
            register.name_at(bits),
            bits,
            "data_ptr" if register in (GeneralRegister.RSP, GeneralRegister.RBP) else f"int{bits}",
            CORE,
            General(register, mask),
        )
        for register in general
    ]
    rows.append(Register("eip" if bits == 32 else "rip", bits, "code_ptr", CORE, Field("rip")))
    rows.append(Register("eflags", 32, "i386_eflags", CORE, FlagsRegister()))
    rows += [Register(register.name.lower(), 32, "int32", CORE, SelectorOf(register)) for register in _SELECTORS]
    rows += [Register(f"st{number}", 80, "i387_ext", CORE, StackElement(number)) for number in range(8)]
    rows += [Register(gdb, 32, "int", CORE, FloatingPointWord(part), "float") for gdb, part in _X87]
    rows += [Register(f"xmm{number}", 128, "vec128", SSE, Xmm(number)) for number in range(8 if bits == 32 else 16)]
    rows.append(Register("mxcsr", 32, "i386_mxcsr", SSE, FloatingPointWord("mxcsr"), "vector"))
    if bits == 64:
        rows += [
            Register(f"{register.name.lower()}_base", 64, "int", SEGMENTS, BaseOf(register))
            for register in (SegmentRegister.FS, SegmentRegister.GS)
        ]
    return Layout(name, architecture, (*rows, *_system(bits)))


def _system(bits: int) -> list[Register]:
    """What no program of an operating system sees, and whoever debugs one wants to."""

    def row(name: str, part: Part, width: int = bits) -> Register:
        return Register(name, width, f"int{width}", SYSTEM, part, "system")

    rows = [row(f"cr{number}", Element("control", index)) for index, number in enumerate((0, 2, 3, 4))]
    rows.append(row("efer", Field("efer")))
    rows += [row(f"dr{number}", Element("debug", index)) for index, number in enumerate((0, 1, 2, 3, 6, 7))]
    for table in ("gdtr", "idtr"):
        rows += [row(f"{table}_base", TablePart(table, "base")), row(f"{table}_limit", TablePart(table, "limit"), 32)]
    for register in ("ldtr", "tr"):
        rows += [
            row(register, SystemPart(register, "selector"), 32),
            row(f"{register}_base", SystemPart(register, "base")),
            row(f"{register}_limit", SystemPart(register, "limit"), 32),
        ]
    covered = (SegmentRegister.FS, SegmentRegister.GS) if bits == 64 else ()
    rows += [row(f"{r.name.lower()}_base", BaseOf(r)) for r in _SELECTORS if r not in covered]
    return rows


I386: Final = _layout("i386", "i386", 32)
X86_64: Final = _layout("x86-64", "i386:x86-64", 64)
I8086: Final = replace(I386, name="i8086", architecture="i8086")
"""The registers of i386, for a session with 16-bit code: gdb goes by the architecture when it disassembles."""
LAYOUTS: Final = {layout.name: layout for layout in (I386, I8086, X86_64)}


def find_layout(name: str) -> Layout:
    """The layout of this name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in LAYOUTS:
        raise UnknownNameError("register layout", name, LAYOUTS)
    return LAYOUTS[name]
