"""From an instruction with its operands to a word of storage, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from simvirt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simvirt.analyzer.finite.description import Description, Instruction


def encode(instruction: Instruction, operands: Mapping[str, int]) -> int:
    """The word of an instruction.

    :raises UsageError: an operand does not fit.
    """
    word = 0
    for field in instruction.encoding:
        value = operands[field.name] if field.name else field.value
        if not 0 <= value < 1 << field.size.run:
            raise UsageError(
                f"{instruction.mnemonic}: {field.name} is {value}, which takes more than {field.size.run} bits"
            )
        word = word << field.size.run | value
    return word


@dataclass(frozen=True)
class Decoder:
    """Tells instructions by their constant bits."""

    description: Description

    def decode(self, word: int) -> tuple[Instruction, dict[str, int]] | None:
        """The instruction of a word with its operands; None if it is none."""
        for mask, match, instruction in self._rows:
            if word & mask == match:
                return instruction, _operands(instruction, word)
        return None

    @cached_property
    def _rows(self) -> list[tuple[int, int, Instruction]]:
        return [(*mask_and_match(one), one) for one in self.description.instructions]


def mask_and_match(instruction: Instruction) -> tuple[int, int]:
    """Which bits of the encoding are constant, and what they are."""
    mask = match = 0
    for field in instruction.encoding:
        bits = (1 << field.size.run) - 1
        mask = mask << field.size.run | (0 if field.name else bits)
        match = match << field.size.run | (0 if field.name else field.value)
    return mask, match


def _operands(instruction: Instruction, word: int) -> dict[str, int]:
    found = {}
    for field in reversed(instruction.encoding):
        if field.name:
            found[field.name] = word & ((1 << field.size.run) - 1)
        word >>= field.size.run
    return found
