"""A post-mortem, as a value: what led a guest to a bad end.

The chain of exceptions that the processor tried to deliver, and the last instructions with the registers before each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.observe.numbers import counted
from simvirt.observe.showable import Showable

if TYPE_CHECKING:
    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.machine import Outcome
    from simvirt.observe.place import Place


@dataclass(frozen=True, slots=True)
class FaultLink:
    """One link of the chain of faults.

    Attributes:
        instruction: guest instructions retired before it.
        name: the exception by the manual's name, with its error code.
        cr2: the address of a page fault.
        place: address, symbol and source line that it struck at.
        refers_to: the descriptor that its error code names, as "IDT entry 6".
    """

    instruction: int
    name: str
    cpl: int
    selector: int
    place: str
    cr2: int | None = None
    refers_to: str = ""

    def __str__(self) -> str:
        named = f" for {self.refers_to}" if self.refers_to else ""
        address = "" if self.cr2 is None else f", CR2 {self.cr2:#x}"
        after = counted(self.instruction, "instruction")
        return f"{self.name}{named} at {self.place}, CPL {self.cpl}{address}, after {after}"


@dataclass(frozen=True, slots=True)
class LastInstruction:
    """One of the last instructions, and the state in front of it.

    Attributes:
        instruction: its number, from 1.
        retired: False for the one that the guest never completed.
    """

    instruction: int
    place: Place
    state: ArchitecturalState
    retired: bool = True


@dataclass(frozen=True, slots=True)
class PostMortem(Showable):
    """Why and where a guest ended badly.

    Attributes:
        faults: the exceptions delivered last, the newest at the end; without those of an ordinary life before it.
        last: the last instructions, the newest at the end.
        notes: what is to be said about them, in sentences.
    """

    outcome: Outcome
    faults: tuple[FaultLink, ...]
    last: tuple[LastInstruction, ...]
    notes: tuple[str, ...]
