"""A post-mortem: what led a guest to a bad end.

The chain of exceptions that the processor tried to deliver, and the last instructions with the registers before each.
The instructions are not recorded while the guest runs: the run is repeated up to shortly before its end and stepped
from there, which a deterministic machine makes exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.machine import Outcome
from simvirt.observe.code import place, source_at, symbol_at
from simvirt.x86.addresses import Gva
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.faults import FaultRecord
    from simvirt.observe.code import Place
    from simvirt.observe.trial import Trial

BAD_ENDS: Final = frozenset({Outcome.TRIPLE_FAULT, Outcome.MONITOR_ERROR})
"""Outcomes that nobody wants."""
LAST_INSTRUCTIONS: Final = 20


@dataclass(frozen=True, slots=True)
class FaultLink:
    """One link of the chain of faults.

    Attributes:
        instruction: guest instructions retired before it.
        name: the exception by the manual's name, with its error code.
        cr2: the address of a page fault.
        place: address, symbol and source line that it struck at.
    """

    instruction: int
    name: str
    cpl: int
    selector: int
    place: str
    cr2: int | None = None

    @classmethod
    def of(cls, record: FaultRecord, trial: Trial) -> FaultLink:
        """The link for a record of the processor's."""
        try:
            name = Vector(record.vector).mnemonic
        except ValueError:
            name = f"vector {record.vector:#x}"
        if record.error_code is not None:
            name += f"({record.error_code:#x})"
        address = Gva(record.rip)
        parts = [f"{record.selector:#06x}:{record.rip:#010x}"]
        if symbol := symbol_at(trial.image, address):
            parts.append(f"<{symbol}>")
        if source := source_at(trial.image, address):
            parts.append(f"({source})")
        return cls(record.instruction, name, record.cpl, record.selector, " ".join(parts), record.cr2)

    def __str__(self) -> str:
        address = "" if self.cr2 is None else f", CR2 {self.cr2:#x}"
        return f"{self.name} at {self.place}, CPL {self.cpl}{address}, after {self.instruction:,} instructions"


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
class PostMortem:
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

    def __rich__(self) -> RenderableType:
        from simvirt.observe.show import show_post_mortem

        return show_post_mortem(self)

    def __str__(self) -> str:
        from simvirt.observe.show import as_text

        return as_text(self)


def examine(trial: Trial, fresh: Callable[[], Trial]) -> PostMortem | None:
    """The post-mortem of a trial that ended badly; None if it did not. `fresh` makes the same trial once more."""
    if trial.outcome not in BAD_ENDS:
        return None
    assert trial.outcome is not None
    chain = [record for record in trial.cpu.fault_chain if record.instruction == trial.count]
    faults = tuple(FaultLink.of(record, trial) for record in chain)
    return PostMortem(trial.outcome, faults, _last_instructions(trial.count, fresh()), _notes(trial, chain))


def _last_instructions(count: int, trial: Trial) -> tuple[LastInstruction, ...]:
    found = []
    trial.advance(max(count - LAST_INSTRUCTIONS + 1, 0))
    while trial.outcome is None:
        state = trial.machine.processor.guest_state()
        where, number = place(trial, state), trial.count + 1
        ended = trial.advance(number) is not None
        found.append(LastInstruction(number, where, state, retired=trial.count == number))
        if ended and trial.count == number:  # it completed, and already the fetch of the next one did not
            state = trial.machine.processor.guest_state()
            found.append(LastInstruction(number + 1, place(trial, state), state, retired=False))
    return tuple(found[-LAST_INSTRUCTIONS:])


def _notes(trial: Trial, chain: list[FaultRecord]) -> tuple[str, ...]:
    notes = []
    if trial.outcome is Outcome.TRIPLE_FAULT:
        notes.append(
            "While it delivered a double fault the processor met another exception: it shuts down, and a PC resets "
            "(SDM Vol. 3A §6.15, interrupt 8)."
        )
        if chain:
            notes.append(f"It began with {FaultLink.of(chain[0], trial)}.")
        state = trial.machine.processor.guest_state()
        if state.control[0] & 1 and state.idtr.limit < 8 * Vector.DF:
            notes.append(f"The guest has no interrupt table that could help: IDTR.limit is {state.idtr.limit:#x}.")
    if trial.error:
        notes.append(f"The monitor itself failed with {trial.error.kind}: {trial.error.message}.")
        notes.append("That is a fault of simvirt or of the strategy, not of the guest.")
    return tuple(notes)
