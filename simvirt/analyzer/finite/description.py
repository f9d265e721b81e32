"""What a machine of finitely many states consists of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from simvirt.analyzer.model.analysis import InstructionSetInfo
    from simvirt.analyzer.model.form import Declared
    from simvirt.analyzer.model.state import Part, Value


@dataclass(frozen=True, slots=True)
class Size:
    """A width in bits: of the machine that runs programs, and of the smaller one that things are proved on."""

    run: int
    proof: int

    def at(self, *, proof: bool) -> int:
        """The width in one of the two machines."""
        return self.proof if proof else self.run


@dataclass(frozen=True, slots=True)
class Register:
    """A register, flag or field.

    :ivar values: what it can hold, where these have names: ``("s", "u")``; else it holds numbers of `size` bits.
    """

    name: str
    part: Part
    size: Size
    values: tuple[str, ...] = ()
    title: str = ""


@dataclass(frozen=True, slots=True)
class Storage:
    """The machine's storage E.

    :ivar cells: how many words.
    :ivar relocation: the register l that is added to every address, "" if there is none.
    :ivar bounds: the register b that every address must be below, "" if there is none.
    """

    cells: Size
    word: Size
    relocation: str = ""
    bounds: str = ""


@dataclass(frozen=True, slots=True)
class Field:
    """Some bits of an instruction's encoding: a constant, or an operand.

    :ivar name: the operand's; "" for a constant.
    """

    size: Size
    name: str = ""
    value: int = 0


@dataclass(frozen=True, slots=True)
class Instruction:
    """One row of the description.

    :ivar encoding: its fields, from the most significant bit on.
    :ivar function: what it does: takes a `Processor` and the operands by name.
    :ivar line: where it stands in the file.
    """

    mnemonic: str
    title: str
    group: str
    encoding: tuple[Field, ...]
    function: Callable[..., None]
    declared: Declared
    line: int

    @property
    def operands(self) -> tuple[Field, ...]:
        """The fields that are operands, in their order."""
        return tuple(field for field in self.encoding if field.name)


@dataclass(frozen=True)
class Description:
    """A machine, read from its file.

    :ivar mode: the register that holds the mode.
    :ivar counter: the program counter; it moves on by one unless an instruction sets it.
    :ivar privileged: the privileged values of `mode`.
    :ivar user: the value that plays u.
    :ivar vmm_configuration: C0.
    :ivar path: the file, for messages.
    """

    info: InstructionSetInfo
    registers: tuple[Register, ...]
    storage: Storage
    instructions: tuple[Instruction, ...]
    mode: str
    counter: str
    privileged: tuple[Value, ...]
    user: Value
    vmm_configuration: Mapping[str, Value]
    assumptions: tuple[str, ...]
    path: Path

    @cached_property
    def by_name(self) -> dict[str, Register]:
        """The registers by their names."""
        return {register.name: register for register in self.registers}

    @cached_property
    def by_mnemonic(self) -> dict[str, Instruction]:
        """The instructions by their mnemonics."""
        return {instruction.mnemonic: instruction for instruction in self.instructions}
