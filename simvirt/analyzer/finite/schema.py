"""The TOML file of a machine, as it is written."""

from __future__ import annotations

import msgspec

Width = int | str


class _Table(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    pass


class SizeTable(_Table):
    """A width that differs between the machine that runs and the one that things are proved on."""

    run: int
    proof: int


class MachineTable(_Table):
    """``[machine]``."""

    name: str
    title: str
    summary: str
    module: str
    """The Python file with the instructions' functions, beside the TOML file."""
    mode: str
    privileged: list[str]
    user: str
    counter: str
    vmm: dict[str, int | str] = {}
    """C0: what a VMM sets while a guest runs."""
    assumptions: list[str] = []
    remarks: list[str] = []
    timing_free_vmm: bool | None = None


class StorageTable(_Table):
    """``[storage]``."""

    cells: Width
    word: Width
    relocation: str = ""
    bounds: str = ""


class RegisterTable(_Table):
    """``[[register]]``."""

    name: str
    part: str
    title: str
    bits: Width = 0
    values: list[str] = []


class InstructionTable(_Table):
    """``[[instruction]]``."""

    mnemonic: str
    title: str
    encoding: str
    source: str
    function: str = ""
    """The name of its function, where that is not the mnemonic in lower case."""
    group: str = ""
    privileged: bool | None = None
    """What the source declares; the experiments are compared with it."""
    properties: list[str] | None = None
    unpredictable: list[str] = []


class ObstacleTable(_Table):
    """``[[obstacle]]``."""

    name: str
    text: str
    source: str


class VariantTable(_Table):
    """``[[variant]]``: the same machine with more instructions."""

    name: str
    title: str
    summary: str
    adds: list[str]
    """Mnemonics of instructions that the machine itself does not have."""
    timing_free_vmm: bool | None = None
    remarks: list[str] = []


class MachineFile(_Table):
    """The whole file."""

    machine: MachineTable
    storage: StorageTable
    register: list[RegisterTable]
    instruction: list[InstructionTable]
    sizes: dict[str, SizeTable] = {}
    obstacle: list[ObstacleTable] = []
    variant: list[VariantTable] = []
