"""The instruction sets there are to analyze."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from simvirt.analyzer.model.analysis import Disagreement, InstructionSetInfo
    from simvirt.analyzer.model.classification import Classification
    from simvirt.analyzer.model.machine_model import MachineModel


def _nothing_declared(classifications: Sequence[Classification]) -> Iterable[Disagreement]:
    """The instruction set has no literature to be compared with."""
    del classifications
    return ()


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """A row of the registry.

    :ivar machine: makes the machine; its modules are imported then and not before.
    :ivar compare: what the literature says otherwise than the experiments, with reasons.
    """

    info: InstructionSetInfo
    machine: Callable[[], MachineModel]
    compare: Callable[[Sequence[Classification]], Iterable[Disagreement]] = _nothing_declared


INSTRUCTION_SETS: Final[tuple[InstructionSet, ...]] = ()


def find(name: str) -> InstructionSet:
    """The instruction set of this name.

    :raises UnknownNameError: there is none.
    """
    for row in INSTRUCTION_SETS:
        if row.info.name == name:
            return row
    raise UnknownNameError("instruction set", name, [row.info.name for row in INSTRUCTION_SETS])
