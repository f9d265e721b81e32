"""Which instructions are sensitive, and which privileged: `isa/x86-sensitive.toml`, read and proved well-formed.

In Popek and Goldberg's words (1974) an instruction is *privileged* if it traps in user mode and does not in
supervisor mode, *sensitive* if it changes the machine's configuration or its result depends on it, *innocuous* if it
is not sensitive. A sensitive instruction that is not privileged is *critical*: it is what makes trap-and-emulate go
wrong. These are the declared facts, each with its source; what the simulated processor really does is for experiments
to say.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from simvirt.data import isa_directory
from simvirt.errors import UsageError
from simvirt.x86.instruction import Instruction, SegmentOperand
from simvirt.x86.operations import Operation
from simvirt.x86.registers import SegmentRegister
from simvirt.x86.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

SENSITIVE_FILE: Final = "x86-sensitive.toml"


class FailureKind(StrEnum):
    """What a de-privileged guest meets when it executes the instruction."""

    SILENT_READ = "silent-read"
    """It reads the machine's state where it expects its own."""
    SILENT_DROP = "silent-drop"
    """What it wants to change stays as it was."""
    WRONG_RESULT = "wrong-result"
    FAULT_OR_WRONG = "fault-or-wrong"
    """It faults where the bare machine would not, or goes wrong where it does not fault."""
    TRAPS = "traps"
    """The monitor gets control: nothing goes wrong."""


class Requirement(StrEnum):
    """A part of Robin and Irvine's third hardware requirement (2000): what must signal the monitor."""

    MODE_OR_STATE = "3A"
    SENSITIVE_REGISTERS = "3B"
    STORAGE_PROTECTION = "3C"
    INPUT_OUTPUT = "3D"


class InPaper(StrEnum):
    """Does Robin and Irvine's paper name it as violating a requirement?"""

    YES = "yes"
    PROSE = "prose"
    """In the text only, without a heading of its own."""
    NO = "no"


class VtxBehaviour(StrEnum):
    """What becomes of it in VMX non-root operation."""

    ALWAYS = "always"
    """It exits."""
    CONTROL = "control"
    """It exits if a control, mask or bitmap says so."""
    SHADOW = "shadow"
    """It completes with what the monitor has set to be seen."""
    OWN_STATE = "own-state"
    """It completes on the guest's own copy of the state."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One row of the file: a group of operations of which all else is alike."""

    operations: tuple[Operation, ...]
    title: str
    paper: InPaper
    requirement: Requirement | None
    failure: FailureKind
    reason: str
    """What a de-privileged guest sees, in a sentence."""
    vtx: VtxBehaviour
    vtx_note: str
    privileged: bool
    source: str
    umip_fixes: bool = False
    trap_controls: tuple[str, ...] = ()
    """Settings of the processor that make it trap outside ring 0, as "CR4.UMIP"."""
    vtx_exit_reasons: tuple[ExitReason, ...] = ()
    privileged_when: str = ""
    """Condition under which a privileged one traps, as "CPL > IOPL"."""
    segment_registers: tuple[SegmentRegister, ...] = ()
    """Only with these is it sensitive; empty where that does not matter."""

    @property
    def is_critical(self) -> bool:
        """Sensitive and not privileged."""
        return not self.privileged


class IsaFileError(UsageError):
    """A file of instruction-set facts that contradicts itself or cannot be read."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        self.path = path
        self.line = line
        self.reason = reason
        super().__init__(f"{path}:{line}: {reason}")


@dataclass(frozen=True, slots=True)
class SensitivityTable:
    """The whole file, in its order."""

    rows: tuple[Sensitivity, ...]
    by_operation: Mapping[Operation, Sensitivity]

    def classify(self, instruction: Instruction) -> Sensitivity | None:
        """The row of `instruction`, None if it is innocuous (or no instruction at all)."""
        row = self.by_operation.get(instruction.operation)
        if row is None or not row.segment_registers:
            return row
        named = (operand.register for operand in instruction.operands if isinstance(operand, SegmentOperand))
        return row if any(register in row.segment_registers for register in named) else None


def classify(instruction: Instruction) -> Sensitivity | None:
    r"""What is known of `instruction`'s sensitivity, None if it is innocuous.

    >>> from simvirt.x86.decode import decode
    >>> row = classify(decode(b"\x9d", 0, 32))
    >>> row.failure, row.is_critical, row.requirement
    (<FailureKind.SILENT_DROP: 'silent-drop'>, True, <Requirement.SENSITIVE_REGISTERS: '3B'>)
    >>> classify(decode(b"\x0f\x06", 0, 32)).privileged, classify(decode(b"\x90", 0, 32)) is None
    (True, True)
    """
    return sensitivity_table().classify(instruction)


@lru_cache(maxsize=1)
def sensitivity_table() -> SensitivityTable:
    """The installed table, read once."""
    return load_sensitivity(isa_directory() / SENSITIVE_FILE)


def load_sensitivity(path: Path) -> SensitivityTable:
    """Read a file of sensitive instructions and check it.

    Raises:
        IsaFileError: it is no TOML, or a row has a field that is unknown, missing or of the wrong kind, or claims
            what another row claims, or contradicts itself.
    """
    text = path.read_text(encoding="utf-8")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise IsaFileError(path, 1, f"not TOML: {error}") from None
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.strip() == "[[instruction]]"]
    tables = data.pop("instruction", [])
    if data or not isinstance(tables, list) or len(tables) != len(lines):
        raise IsaFileError(path, 1, "expected nothing but [[instruction]] tables, each header on a line of its own")
    rows: list[Sensitivity] = []
    by_operation: dict[Operation, Sensitivity] = {}
    claimed: dict[Operation, int] = {}
    for line, table in zip(lines, tables, strict=True):
        try:
            row = _row(table)
            for operation in row.operations:
                _claim(claimed, operation, line)
                by_operation[operation] = row
        except ValueError as error:
            raise IsaFileError(path, line, str(error)) from None
        rows.append(row)
    return SensitivityTable(tuple(rows), by_operation)


def _claim(claimed: dict[Operation, int], operation: Operation, line: int) -> None:
    if operation in claimed:
        raise ValueError(f"operation '{operation}' is in the row of line {claimed[operation]} already")
    claimed[operation] = line


def _row(table: dict[str, Any]) -> Sensitivity:
    fields = dict(table)
    row = Sensitivity(
        operations=_members(fields, "operations", Operation, required=True),
        title=_text(fields, "title"),
        paper=_member(fields, "paper", InPaper),
        requirement=_optional_member(fields, "requirement", Requirement),
        failure=_member(fields, "failure", FailureKind),
        reason=_text(fields, "reason"),
        vtx=_member(fields, "vtx", VtxBehaviour),
        vtx_note=_text(fields, "vtx_note"),
        privileged=_boolean(fields, "privileged"),
        source=_text(fields, "source"),
        umip_fixes=_boolean(fields, "umip_fixes", default=False),
        trap_controls=_strings(fields, "trap_controls"),
        vtx_exit_reasons=tuple(
            _named(name, "vtx_exit_reasons", ExitReason.__members__) for name in _strings(fields, "vtx_exit_reasons")
        ),
        privileged_when=_text(fields, "privileged_when", required=False),
        segment_registers=tuple(
            _named(name, "segment_registers", SegmentRegister.__members__)
            for name in _strings(fields, "segment_registers")
        ),
    )
    if fields:
        raise ValueError(f"unknown field {', '.join(sorted(fields))}")
    _check(row)
    return row


def _check(row: Sensitivity) -> None:
    """The fields of a row agree with each other."""
    if row.privileged != (row.failure is FailureKind.TRAPS):
        raise ValueError(f"privileged = {row.privileged} contradicts failure = '{row.failure}'")
    if row.privileged != bool(row.privileged_when):
        raise ValueError("a privileged row, and no other, says when (privileged_when)")
    if row.umip_fixes != ("CR4.UMIP" in row.trap_controls):
        raise ValueError("umip_fixes contradicts trap_controls")
    if row.vtx is VtxBehaviour.ALWAYS and not row.vtx_exit_reasons:
        raise ValueError("an instruction that always exits has an exit reason")
    if row.paper is not InPaper.NO and row.requirement is None:
        raise ValueError("what the paper names violates a requirement of its")
    if Operation.OTHER in row.operations or Operation.INVALID in row.operations:
        raise ValueError("'other' and 'invalid' are no operations to classify")


_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")


def _take(fields: dict[str, Any], name: str, kind: type, default: object) -> Any:
    value = fields.pop(name, default)
    if value is None:
        raise ValueError(f"field '{name}' is missing")
    if not isinstance(value, kind):
        raise ValueError(f"field '{name}' is {value!r}, expected {kind.__name__}")  # noqa: TRY004 - the loader wraps it
    return value


def _text(fields: dict[str, Any], name: str, *, required: bool = True) -> str:
    value: str = _take(fields, name, str, None if required else "")
    if required and not value.strip():
        raise ValueError(f"field '{name}' is empty")
    return value


def _boolean(fields: dict[str, Any], name: str, *, default: bool | None = None) -> bool:
    value: bool = _take(fields, name, bool, default)
    return value


def _strings(fields: dict[str, Any], name: str, *, required: bool = False) -> tuple[str, ...]:
    values: list[str] = _take(fields, name, list, None if required else [])
    if not all(isinstance(value, str) for value in values) or (required and not values):
        raise ValueError(f"field '{name}' is {values!r}, expected a list of strings")
    if len(set(values)) != len(values):
        raise ValueError(f"field '{name}' names something twice")
    return tuple(values)


def _member(fields: dict[str, Any], name: str, kind: type[_E]) -> _E:
    return _value(_text(fields, name), name, kind)


def _optional_member(fields: dict[str, Any], name: str, kind: type[_E]) -> _E | None:
    value = _text(fields, name, required=False)
    return _value(value, name, kind) if value else None


def _members(fields: dict[str, Any], name: str, kind: type[_E], *, required: bool) -> tuple[_E, ...]:
    return tuple(_value(value, name, kind) for value in _strings(fields, name, required=required))


def _value(value: str, name: str, kind: Callable[[str], _E]) -> _E:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"field '{name}' is '{value}', which is none of its values") from None


def _named(value: str, name: str, members: Mapping[str, _T]) -> _T:
    if value not in members:
        raise ValueError(f"field '{name}' names '{value}', which does not exist")
    return members[value]
