"""Examining a guest that ended badly.

Its last instructions are not recorded while it runs: the run is repeated up to shortly before its end and stepped from
there, which a deterministic machine makes exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.machine import Outcome
from simvirt.observe.code import place, source_at, symbol_at
from simvirt.observe.fault_names import fault_name, referred_to
from simvirt.observe.postmortem import FaultLink, LastInstruction, PostMortem
from simvirt.x86.addresses import Gva
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.delivery_log import FaultRecord
    from simvirt.observe.trial import Trial

BAD_ENDS: Final = frozenset({Outcome.TRIPLE_FAULT, Outcome.MONITOR_ERROR})
"""Outcomes that nobody wants."""
LAST_INSTRUCTIONS: Final = 20


def examine(trial: Trial, fresh: Callable[[], Trial]) -> PostMortem | None:
    """The post-mortem of a trial that ended badly; None if it did not. `fresh` makes the same trial once more."""
    if trial.outcome not in BAD_ENDS:
        return None
    assert trial.outcome is not None
    chain = [record for record in trial.cpu.fault_chain if record.instruction == trial.count]
    faults = tuple(_fault_link(record, trial) for record in chain)
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
            notes.append(f"It began with {_fault_link(chain[0], trial)}.")
        state = trial.machine.processor.guest_state()
        if state.control[0] & 1 and state.idtr.limit < 8 * Vector.DF:
            notes.append(f"The guest has no interrupt table that could help: IDTR.limit is {state.idtr.limit:#x}.")
    if trial.error:
        notes.append(f"The monitor itself failed with {trial.error.kind}: {trial.error.message}.")
        notes.append("That is a fault of simvirt or of the strategy, not of the guest.")
    return tuple(notes)


def _fault_link(record: FaultRecord, trial: Trial) -> FaultLink:
    """The link for a record of the processor's."""
    address = Gva(record.rip)
    parts = [f"{record.selector:#06x}:{record.rip:#010x}"]
    if symbol := symbol_at(trial.image, address):
        parts.append(f"<{symbol}>")
    if source := source_at(trial.image, address):
        parts.append(f"({source})")
    return FaultLink(
        record.instruction,
        fault_name(record.vector, record.error_code),
        record.cpl,
        record.selector,
        " ".join(parts),
        record.cr2,
        referred_to(record.vector, record.error_code),
    )
