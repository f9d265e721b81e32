"""From a TOML file and a Python module to a machine, proved well-formed.

Every problem is told with file and line, all at once: unknown or missing fields, names that are not there, a register
in no part of the state, an encoding whose bits do not add up or that another one overlaps, an instruction without a
source or without a function that takes its operands.
"""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from itertools import combinations
from typing import TYPE_CHECKING, Final

from simvirt.analyzer import toml_file
from simvirt.analyzer.finite.description import Description, Field, Instruction, Register, Size, Storage
from simvirt.analyzer.finite.encoding import mask_and_match
from simvirt.analyzer.finite.processor import Processor
from simvirt.analyzer.finite.schema import InstructionTable, MachineFile, RegisterTable, SizeTable, VariantTable, Width
from simvirt.analyzer.model.analysis import InstructionSetInfo, Obstacle
from simvirt.analyzer.model.form import Declared
from simvirt.analyzer.model.properties import Property
from simvirt.analyzer.model.state import Part
from simvirt.analyzer.toml_file import Problem, TomlFile, TomlFileError
from simvirt.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MACHINE_NAME: Final = re.compile(r"[a-z][a-z0-9+.\-]*")
_MNEMONIC: Final = re.compile(r"[A-Z][A-Z0-9_.]*")
_FIELD: Final = re.compile(r"(?P<value>0x[0-9a-fA-F]+|\d+|[A-Za-z]\w*):(?P<width>\d+|[A-Za-z]\w*)")
_PARTS: Final = {part.value: part for part in Part if part is not Part.STORAGE}
_PROPERTIES: Final = {which.value: which for which in Property}
_RESERVED: Final = frozenset({name for name in dir(Processor) if not name.startswith("_")} | {"cpu"})
_WIDEST: Final = 64


def load(path: Path, variant: str = "") -> Description:
    """The machine of a TOML file, or the variant of this name.

    :raises TomlFileError: the file or its module is not well-formed.
    :raises UnknownNameError: it has no such variant.
    """
    file = toml_file.read(path, MachineFile)
    loader = _Loader(file)
    loader.names()
    storage = loader.storage()
    registers = loader.registers()
    loader.special_registers(registers)
    instructions = loader.instructions(loader.module())
    file.check()
    told = file.content.machine
    chosen = loader.variant(variant)
    left_out = {name for one in file.content.variant for name in one.adds} - {*(chosen.adds if chosen else ())}
    named = chosen or told
    obstacles = tuple(Obstacle(one.name, one.text, one.source) for one in file.content.obstacle)
    return Description(
        info=InstructionSetInfo(
            named.name, named.title, named.summary, obstacles, named.timing_free_vmm, remarks=tuple(named.remarks)
        ),
        registers=registers,
        storage=storage,
        instructions=tuple(one for one in instructions if one.mnemonic not in left_out),
        mode=told.mode,
        counter=told.counter,
        privileged=tuple(told.privileged),
        user=told.user,
        vmm_configuration=dict(told.vmm),
        assumptions=tuple(told.assumptions),
        path=path,
    )


class _Loader:
    """One file on its way; each method reads one part of it and complains of what is wrong there."""

    def __init__(self, file: TomlFile[MachineFile]) -> None:
        self.file = file
        self.told = file.content
        self.complain = file.complain

    # ----------------------------------------------------------------------------------------------- small things
    def names(self) -> None:
        """Names that must be names, and be unique."""
        if not _MACHINE_NAME.fullmatch(self.told.machine.name):
            self.complain("name: small letters, digits, and + - . after them", "machine", "name")
        for index, obstacle in enumerate(self.told.obstacle):
            if not obstacle.source.strip():
                self.complain("source: says where this is known from, and is empty", "obstacle", index, "source")
        mnemonics = {one.mnemonic for one in self.told.instruction}
        for index, variant in enumerate(self.told.variant):
            if unknown := [name for name in variant.adds if name not in mnemonics]:
                self.complain(f"adds: there is no [[instruction]] {', '.join(unknown)}", "variant", index, "adds")
        for table, kind, entries in (
            ("variant", "variant", [one.name for one in self.told.variant]),
            ("register", "register", [one.name for one in self.told.register]),
            ("instruction", "instruction", [one.mnemonic for one in self.told.instruction]),
        ):
            for index, name in enumerate(entries):
                if name in entries[:index]:
                    first = self.file.line(table, entries.index(name))
                    self.complain(f"{kind} {name} is there already, in line {first}", table, index)
        if not self.told.instruction:
            self.complain("the machine has no instruction: add [[instruction]] tables")

    def variant(self, name: str) -> VariantTable | None:
        """The variant of this name; None if the machine itself is meant."""
        if name in {"", self.told.machine.name}:
            return None
        for one in self.told.variant:
            if one.name == name:
                return one
        raise UnknownNameError("machine", name, [self.told.machine.name, *(one.name for one in self.told.variant)])

    def size(self, width: Width, *place: str | int, least: int = 1, most: int = _WIDEST) -> Size:
        """A number, or the name of a row of [sizes]."""
        if isinstance(width, str) and width not in self.told.sizes:
            self.complain(f"{place[-1]}: [sizes] has no {width!r}", *place)
            return Size(1, 1)
        table = SizeTable(width, width) if isinstance(width, int) else self.told.sizes[width]
        if not (least <= table.run <= most and least <= table.proof <= table.run):
            self.complain(
                f"{place[-1]}: {table.run} and {table.proof}: expected {least} to {most}, proof ≤ run", *place
            )
        return Size(table.run, table.proof)

    def storage(self) -> Storage:
        """``[storage]``."""
        told = self.told.storage
        return Storage(
            cells=self.size(told.cells, "storage", "cells", most=1 << 20),
            word=self.size(told.word, "storage", "word"),
            relocation=told.relocation,
            bounds=told.bounds,
        )

    # -------------------------------------------------------------------------------------------------- registers
    def registers(self) -> tuple[Register, ...]:
        """``[[register]]``."""
        return tuple(self._register(index, row) for index, row in enumerate(self.told.register))

    def _register(self, index: int, row: RegisterTable) -> Register:
        place = ("register", index)
        if not _NAME.fullmatch(row.name) or row.name in _RESERVED:
            self.complain(f"name: {row.name!r} cannot be used: it is an attribute in Python", *place, "name")
        if row.part not in _PARTS:
            self.complain(f"part: {row.part!r} is none of {', '.join(_PARTS)}", *place, "part")
        if bool(row.values) == bool(row.bits):
            self.complain(f"register {row.name}: either bits or values", *place)
        if len(set(row.values)) != len(row.values) or len(row.values) == 1:
            self.complain("values: at least two, each once", *place, "values")
        size = self.size(row.bits, *place, "bits") if row.bits else Size(1, 1)
        return Register(row.name, _PARTS.get(row.part, Part.GENERAL), size, tuple(row.values), row.title)

    def special_registers(self, registers: tuple[Register, ...]) -> None:
        """The registers that [machine] and [storage] name are there and of the right kind."""
        by_name = {register.name: register for register in registers}
        machine, storage = self.told.machine, self.told.storage
        for name, part, place in (
            (machine.mode, Part.MODE, ("machine", "mode")),
            (machine.counter, Part.PROGRAM_COUNTER, ("machine", "counter")),
            (storage.relocation, Part.RELOCATION, ("storage", "relocation")),
            (storage.bounds, Part.RELOCATION, ("storage", "bounds")),
        ):
            if not name and place[0] == "storage":
                continue
            if name not in by_name:
                self.complain(f"{place[-1]}: there is no [[register]] {name!r}", *place)
            elif by_name[name].part is not part:
                self.complain(
                    f"{place[-1]}: register {name} is of part {by_name[name].part.value}, not {part.value}", *place
                )
            elif bool(by_name[name].values) != (part is Part.MODE):
                wanted = "named values" if part is Part.MODE else "bits"
                self.complain(f"{place[-1]}: register {name} must have {wanted}", *place)
        self._modes(by_name.get(machine.mode))
        for name, value in machine.vmm.items():
            register = by_name.get(name)
            if register is None:
                self.complain(f"vmm: there is no [[register]] {name!r}", "machine", "vmm")
            elif value not in (register.values or range(1 << register.size.proof)):
                self.complain(f"vmm: register {name} cannot hold {value!r}", "machine", "vmm")

    def _modes(self, mode: Register | None) -> None:
        machine = self.told.machine
        if mode is None:
            return
        for name, values in (("privileged", machine.privileged), ("user", [machine.user])):
            if wrong := [value for value in values if value not in mode.values]:
                self.complain(f"{name}: {mode.name} has no value {', '.join(wrong)}", "machine", name)
        if not machine.privileged or machine.user in machine.privileged:
            self.complain("privileged: at least one value of the mode, and not the user's", "machine", "privileged")

    # ------------------------------------------------------------------------------------------------ instructions
    def module(self) -> ModuleType | None:
        """The Python module with the functions; None if it is not there or fails, which is complained of."""
        path = self.file.path.parent / self.told.machine.module
        if not path.is_file():
            self.complain(f"module: there is no file {path}", "machine", "module")
            return None
        name = f"simvirt_machine_{re.sub(r'[^a-zA-Z0-9]', '_', self.told.machine.name)}"
        spec = spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            self.complain(f"module: {path} is no Python file", "machine", "module")
            return None
        module = module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and pickle look their module up
        try:
            spec.loader.exec_module(module)
        except SyntaxError as error:
            raise TomlFileError(path, [Problem(error.lineno or 1, f"not Python: {error.msg}")]) from error
        except Exception as error:
            lines = [
                frame.lineno or 1 for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
            ]
            raise TomlFileError(path, [Problem((lines or [1])[-1], f"{type(error).__name__}: {error}")]) from error
        return module

    def instructions(self, module: ModuleType | None) -> tuple[Instruction, ...]:
        """``[[instruction]]``, each with its function."""
        found = [self._instruction(index, row, module) for index, row in enumerate(self.told.instruction)]
        masks = [mask_and_match(one) for one in found]
        for first, second in combinations(range(len(found)), 2):
            (mask1, match1), (mask2, match2) = masks[first], masks[second]
            if not (match1 ^ match2) & mask1 & mask2:
                line = self.file.line("instruction", first, "encoding")
                text = f"encoding: overlaps {found[first].mnemonic} of line {line}: the same word would be both"
                self.complain(text, "instruction", second, "encoding")
        return tuple(found)

    def _instruction(self, index: int, row: InstructionTable, module: ModuleType | None) -> Instruction:
        place = ("instruction", index)
        if not _MNEMONIC.fullmatch(row.mnemonic):
            self.complain("mnemonic: capital letters and digits", *place, "mnemonic")
        if not row.source.strip():
            self.complain("source: says where this instruction is described, and is empty", *place, "source")
        encoding = self._encoding(index, row)
        operands = [field.name for field in encoding if field.name]
        return Instruction(
            mnemonic=row.mnemonic,
            title=row.title,
            group=row.group,
            encoding=encoding,
            function=self._function(index, row, operands, module),
            declared=self._declared(index, row),
            line=self.file.line(*place),
        )

    def _declared(self, index: int, row: InstructionTable) -> Declared:
        place = ("instruction", index)
        for name in row.properties or []:
            if name not in _PROPERTIES:
                self.complain(f"properties: {name!r} is none of {', '.join(_PROPERTIES)}", *place, "properties")
        mode = next((one for one in self.told.register if one.name == self.told.machine.mode), None)
        for value in row.unpredictable:
            if mode is not None and value not in mode.values:
                self.complain(f"unpredictable: {mode.name} has no value {value!r}", *place, "unpredictable")
        properties = row.properties and frozenset(_PROPERTIES[name] for name in row.properties if name in _PROPERTIES)
        return Declared(
            source=row.source,
            privileged=row.privileged,
            properties=frozenset() if properties == [] else properties,  # type: ignore[arg-type]  # [] is no properties
            unpredictable_modes=frozenset(row.unpredictable),
        )

    def _encoding(self, index: int, row: InstructionTable) -> tuple[Field, ...]:
        place = ("instruction", index, "encoding")
        fields: list[Field] = []
        for text in row.encoding.split():
            match = _FIELD.fullmatch(text)
            if match is None:
                self.complain(f"encoding: {text!r} is neither VALUE:BITS nor OPERAND:BITS", *place)
                return ()
            width = match["width"]
            size = self.size(
                int(width) if width.isdigit() else width, *place, least=0 if match["value"][0].isdigit() else 1
            )
            if not match["value"][0].isdigit():
                if match["value"] in {field.name for field in fields} | _RESERVED:
                    self.complain(f"encoding: operand {match['value']} is there twice, or is a reserved name", *place)
                fields.append(Field(size, name=match["value"]))
                continue
            value = int(match["value"], 0)
            if value >> size.run:
                self.complain(f"encoding: {value} does not fit into {size.run} bits", *place)
            fields.append(Field(size, value=value))
        bits, word = sum(field.size.run for field in fields), self.size(self.told.storage.word, "storage", "word").run
        if bits != word:
            self.complain(f"encoding: accounts for {bits} of the {word} bits of a word", *place)
        return tuple(fields)

    def _function(
        self, index: int, row: InstructionTable, operands: list[str], module: ModuleType | None
    ) -> Callable[..., None]:
        name = row.function or row.mnemonic.lower()
        function = getattr(module, name, None)
        if not inspect.isfunction(function):
            if module is not None:
                wanted = f"{name}({', '.join(['cpu', *operands])})"
                text = f"{row.mnemonic}: {self.told.machine.module} has no function {wanted}"
                self.complain(text, "instruction", index)
            return _nothing
        parameters = list(inspect.signature(function).parameters)
        if parameters[1:] != operands or not parameters:
            wanted = f"({', '.join(['cpu', *operands])})"
            text = (
                f"{row.mnemonic}: the encoding's operands are {', '.join(operands) or 'none'}, so its function is "
                f"{name}{wanted}, not {name}({', '.join(parameters)}) as in line {function.__code__.co_firstlineno} "
                f"of {self.told.machine.module}"
            )
            self.complain(text, "instruction", index, "encoding")
        return function


def _nothing(*_: object) -> None:
    """Stands for a function that is not there, until `check` raises."""
