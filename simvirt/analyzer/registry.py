"""The instruction sets there are to analyze."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.analysis import InstructionSetInfo, Obstacle
from simvirt.analyzer.x86.instruction_sets import VARIANT_INFOS, machine_of
from simvirt.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from simvirt.analyzer.model.analysis import Disagreement
    from simvirt.analyzer.model.classification import Classification
    from simvirt.analyzer.model.machine_model import MachineModel


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """A row of the registry.

    :ivar machine: makes the machine; its modules are imported then and not before.
    :ivar compare: what the literature says otherwise than the experiments, with reasons.
    """

    info: InstructionSetInfo
    machine: Callable[[], MachineModel]
    compare: Callable[[Sequence[Classification]], Iterable[Disagreement]]


def _x86(info: InstructionSetInfo) -> InstructionSet:
    def compare(classifications: Sequence[Classification]) -> Iterable[Disagreement]:
        from simvirt.analyzer.x86 import comparison

        return comparison.disagreements(info.name, classifications)

    return InstructionSet(info, partial(machine_of, info.name), compare)


def _toy(name: str, title: str, summary: str, *, timing_free_vmm: bool | None = None) -> InstructionSet:
    def machine() -> MachineModel:
        from simvirt.analyzer.toys import machines

        return machines.machine(name)

    def compare(classifications: Sequence[Classification]) -> Iterable[Disagreement]:
        from simvirt.analyzer.finite.comparison import disagreements

        return disagreements(classifications)

    return InstructionSet(InstructionSetInfo(name, title, summary, timing_free_vmm=timing_free_vmm), machine, compare)


def _core(name: str, title: str, summary: str, obstacles: tuple[Obstacle, ...] = ()) -> InstructionSet:
    def machine() -> MachineModel:
        from simvirt.analyzer.cores import processors

        return processors.machine(name)

    def compare(classifications: Sequence[Classification]) -> Iterable[Disagreement]:
        from simvirt.analyzer.cores import comparison, description

        return comparison.disagreements(description.load(name), classifications)

    return InstructionSet(InstructionSetInfo(name, title, summary, obstacles), machine, compare)


INSTRUCTION_SETS: Final[tuple[InstructionSet, ...]] = (
    *(_x86(info) for info in VARIANT_INFOS),
    _core(
        "arm",
        "ARMv7-A, ARM state",
        "MSR, CPS and their kin do nothing in User mode, and do not trap: not even a hybrid monitor, strictly",
    ),
    _core(
        "riscv64",
        "RISC-V, RV64GC",
        "nearly everything that is sensitive traps in user mode; the state of the floating-point unit is what is left",
    ),
    _core(
        "m68k",
        "Motorola 68000",
        "MOVE from SR shows the mode and does not trap; the 68010 made it privileged",
        (
            Obstacle(
                "no restart after a bus error",
                "the 68000 does not save enough to resume an instruction whose access failed, so a monitor cannot "
                "supply storage on demand; the 68010 does",
                "M68000 User's Manual §6, M68010 differences",
            ),
        ),
    ),
    _toy(
        "third-generation",
        "Popek and Goldberg's third-generation machine",
        "Popek and Goldberg's machine of 1974: all sensitive instructions are privileged",
        timing_free_vmm=True,
    ),
    _toy(
        "third-generation+jrst1",
        "The third-generation machine with the PDP-10's JRST 1",
        "a return to user mode that does not trap: no VMM by Theorem 1, a hybrid one by Theorem 3",
    ),
    _toy(
        "third-generation+lra",
        "The third-generation machine with an unprivileged LRA",
        "an instruction that shows real addresses: no theorem's hypothesis is met, and some guests run all the same",
    ),
)


def _users(path: Path) -> InstructionSet:
    from simvirt.analyzer.finite.comparison import disagreements
    from simvirt.analyzer.finite.loader import load
    from simvirt.analyzer.finite.machine import FiniteMachine

    description = load(path)
    return InstructionSet(description.info, lambda: FiniteMachine(description), disagreements)


def find(name: str) -> InstructionSet:
    """The instruction set of this name, or the machine of one's own that a TOML file describes.

    :raises UnknownNameError: there is none.
    :raises TomlFileError: the file is not well-formed.
    """
    if name.endswith(".toml"):
        return _users(Path(name))
    for row in INSTRUCTION_SETS:
        if row.info.name == name:
            return row
    raise UnknownNameError("instruction set", name, [row.info.name for row in INSTRUCTION_SETS])
