"""Assembly language for a described machine.

::

    name = 3 * other            ; a constant
    start:  LOAD table, x       ; a one-bit operand is written by its name, and is 0 if it is not written
            ADD =name + 1       ; a literal: a word with this value, placed at the end
            JUMP start
    table:  .word 1, 2, start   ; words

Expressions have + - * // % << >> & | ~ and parentheses. Everything stands at consecutive addresses from the origin on.
"""

from __future__ import annotations

import ast
import operator
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.finite.encoding import encode
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from simvirt.analyzer.finite.description import Description, Instruction

_LINE: Final = re.compile(r"\s*(?:(?P<label>[A-Za-z_]\w*):)?\s*(?P<rest>[^;]*)")
_CONSTANT: Final = re.compile(r"(?P<name>[A-Za-z_]\w*)\s*=(?P<value>.*)")
_BINARY: Final[Mapping[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
}


class AssemblyError(UsageError):
    """A line that cannot be assembled."""

    def __init__(self, name: str, line: int, reason: str) -> None:
        self.line = line
        super().__init__(f"{name}:{line}: {reason}")


@dataclass(frozen=True, slots=True)
class Program:
    """What a text was assembled to.

    :ivar words: from the origin on.
    """

    words: tuple[int, ...]
    symbols: Mapping[str, int]


@dataclass(slots=True)
class _Item:
    """Something that takes one word."""

    line: int
    instruction: Instruction | None
    operands: list[str]


@dataclass(slots=True)
class _Text:
    """The text, cut up."""

    items: list[_Item] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    constants: dict[str, tuple[int, str]] = field(default_factory=dict)
    literals: dict[str, int] = field(default_factory=dict)


def assemble(
    description: Description,
    text: str,
    *,
    origin: int = 0,
    symbols: Mapping[str, int] | None = None,
    name: str = "text",
) -> Program:
    """The words of an assembly text.

    :param symbols: constants that the text uses and does not define.
    :raises AssemblyError: a line has a mnemonic, operand or name that is not there, or a value that does not fit.
    """
    cut = _cut(description, text, name)
    known = dict(symbols or {})
    known |= {label: origin + place for label, place in cut.labels.items()}
    first_literal = origin + len(cut.items)
    for constant, (line, value) in cut.constants.items():
        known[constant] = _evaluate(value, known, name, line)
    places = {literal: first_literal + index for index, literal in enumerate(cut.literals)}
    words = [_word(item, known, places, name) for item in cut.items]
    words += [_evaluate(literal, known, name, line) for literal, line in cut.literals.items()]
    mask = (1 << description.storage.word.run) - 1
    return Program(tuple(word & mask for word in words), known)


def _cut(description: Description, text: str, name: str) -> _Text:
    cut = _Text()
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.match(line)
        assert match is not None
        label, rest = match["label"], match["rest"].strip()
        constant = _CONSTANT.fullmatch(rest)
        if label is None and constant and constant["name"] not in description.by_mnemonic:
            cut.constants[constant["name"]] = (number, constant["value"])
            continue
        if label is not None:
            if label in cut.labels:
                raise AssemblyError(name, number, f"label {label} is there already")
            cut.labels[label] = len(cut.items)
        if not rest:
            continue
        mnemonic, _, after = rest.partition(" ")
        operands = [one.strip() for one in after.split(",")] if after.strip() else []
        if mnemonic == ".word":
            cut.items += [_Item(number, None, [one]) for one in operands]
            continue
        if mnemonic not in description.by_mnemonic:
            raise AssemblyError(name, number, f"{mnemonic} is no instruction of {description.info.name}")
        cut.items.append(_Item(number, description.by_mnemonic[mnemonic], operands))
        for one in operands:
            if one.startswith("="):
                cut.literals.setdefault(one[1:].strip(), number)
    return cut


def _word(item: _Item, known: Mapping[str, int], literals: Mapping[str, int], name: str) -> int:
    def value(text: str) -> int:
        return literals[text[1:].strip()] if text.startswith("=") else _evaluate(text, known, name, item.line)

    if item.instruction is None:
        return value(item.operands[0])
    given = list(item.operands)
    operands = {}
    for one in item.instruction.operands:
        if one.size.run == 1:
            operands[one.name] = int(one.name in given)
            given = [text for text in given if text != one.name]
    wanted = [one for one in item.instruction.operands if one.name not in operands]
    if len(given) != len(wanted):
        names = ", ".join(one.name for one in wanted) or "none"
        reason = f"{item.instruction.mnemonic} has operands {names}, not {', '.join(given) or 'none'}"
        raise AssemblyError(name, item.line, reason)
    operands |= {one.name: value(text) for one, text in zip(wanted, given, strict=True)}
    try:
        return encode(item.instruction, operands)
    except UsageError as error:
        raise AssemblyError(name, item.line, str(error)) from None


def _evaluate(text: str, known: Mapping[str, int], name: str, line: int) -> int:
    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.Name(id=symbol) if symbol in known:
                return known[symbol]
            case ast.Name(id=symbol):
                raise AssemblyError(name, line, f"{symbol} is not known here")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return ~value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return _BINARY[type(op)](value(left), value(right))
        raise AssemblyError(name, line, f"cannot make sense of {text.strip()!r}")

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ArithmeticError, ValueError) as error:
        raise AssemblyError(name, line, f"cannot make sense of {text.strip()!r}: {error}") from None
