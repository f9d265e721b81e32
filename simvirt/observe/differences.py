"""Do two trials stand at the same point of the same run? What is compared, and what differs.

Compared are the processor's state as the guest's machine has it, guest-physical memory, the console, the state of
every device, and how the run ended. Memory is compared where it was written since it was last known to be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.msrs import STORED
from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE, Gpa
from simvirt.x86.msrs import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from simvirt.machine.machine import Machine
    from simvirt.observe.trial import Trial

_WORD: Final = 4
_BLOCK: Final = 256
"""Pages that are compared at once where all of memory is."""
_GOING_ON: Final = "running"
_ORDER: Final = (
    "outcome", "EIP", "RIP", "CS", "debug-exit port", "console", "EAX", "RAX", "ECX", "RCX", "EDX", "RDX", "EBX", "RBX",
    "EBP", "RBP", "ESI", "RSI", "EDI", "RDI", "EFLAGS", "memory",
)  # fmt: skip
"""What tells most comes first: where control went, then what a program would look at."""


@dataclass(frozen=True, slots=True)
class Parting:
    """One component in which a trial differs from the reference.

    Attributes:
        component: a register by the manual's name, ``memory at 0x…`` (guest-physical, four bytes), console, outcome …
    """

    component: str
    reference_value: int | str
    value: int | str


def differ(reference: Trial, trial: Trial, pages: Iterable[int]) -> bool:
    """Do they differ anywhere? `pages` are the guest-physical pages that may."""
    return next(_partings(reference, trial, pages), None) is not None


def partings(reference: Trial, trial: Trial, pages: Iterable[int]) -> list[Parting]:
    """Everything in which they differ."""
    return list(_partings(reference, trial, pages))


def all_pages(trial: Trial) -> range:
    """Every page of the guest's memory, by number; comparing them all is for the beginning and the end of a run."""
    return range(max((region.end for region in trial.machine.space.ram), default=0) >> PAGE_SHIFT)


def _partings(reference: Trial, trial: Trial, pages: Iterable[int]) -> Iterator[Parting]:
    ended, end = _ending(reference), _ending(trial)
    if ended != end:
        yield Parting("outcome", ended, end)
    if reference.count != trial.count:
        yield Parting("instructions retired", reference.count, trial.count)
    mine, theirs = reference.machine.processor.guest_state(), trial.machine.processor.guest_state()
    for difference in mine.differences(theirs):
        yield Parting(difference.component, difference.reference, difference.value)
    for register, number, other_number in zip(STORED, msr_values(reference), msr_values(trial), strict=True):
        if number != other_number:
            yield Parting(name_of(register), number, other_number)
    for gpa in _memory_differences(reference.machine, trial.machine, pages):
        yield Parting(
            f"memory at {gpa:#x}",
            int.from_bytes(reference.machine.read_physical(gpa, _WORD), "little"),
            int.from_bytes(trial.machine.read_physical(gpa, _WORD), "little"),
        )
    yield from _board_differences(reference.machine, trial.machine)


def msr_values(trial: Trial) -> list[int]:
    """The model-specific registers that are plain storage, in the order of the machine's table."""
    state = trial.cpu.state
    return [
        state.word(storage.offset) if storage.size == 8 else state.doubleword(storage.offset)
        for storage in STORED.values()
    ]


def copy_msrs(source: Trial, target: Trial) -> None:
    """Give the target's machine the MSRs of the source's."""
    state = target.cpu.state
    for storage, value in zip(STORED.values(), msr_values(source), strict=True):
        if storage.size == 8:
            state.set_word(storage.offset, value)
        else:
            state.set_doubleword(storage.offset, value)


def rank(parting: Parting) -> int:
    """Place in the order of what tells most; a stable sort keeps the order of the rest."""
    kind = parting.component.split(" at ")[0]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _ending(trial: Trial) -> str:
    if trial.error:
        return f"{trial.error.kind}: {trial.error.message}"
    return trial.outcome.value if trial.outcome else _GOING_ON


def _memory_differences(reference: Machine, other: Machine, pages: Iterable[int]) -> Iterator[Gpa]:
    """The first word that differs of every page that does."""
    for page in _worth_a_look(reference, other, pages) if isinstance(pages, range) else pages:
        gpa = Gpa(page << PAGE_SHIFT)
        mine, theirs = reference.space.host(gpa), other.space.host(gpa)
        if mine is None or theirs is None:
            if mine is not theirs:
                yield gpa
            continue
        a, b = reference.memory.view[mine : mine + PAGE_SIZE], other.memory.view[theirs : theirs + PAGE_SIZE]
        data, other_data = bytes(a), bytes(b)
        if data != other_data:
            at = next(i for i, (x, y) in enumerate(zip(data, other_data, strict=True)) if x != y)
            yield Gpa(gpa + (at & -_WORD))


def _worth_a_look(reference: Machine, other: Machine, pages: range) -> Iterator[int]:
    """Of many pages in a row those in blocks that differ; whole blocks are compared quickly."""
    for start in range(pages.start, pages.stop, _BLOCK):
        block = range(start, min(start + _BLOCK, pages.stop))
        mine, theirs = _block(reference, block), _block(other, block)
        if mine is None or theirs is None or (mine != theirs).any():
            yield from block


def _block(machine: Machine, pages: range) -> NDArray[np.uint64] | None:
    """The memory of some pages as words, if it lies in one piece."""
    first, last = Gpa(pages.start << PAGE_SHIFT), Gpa((pages.stop << PAGE_SHIFT) - 1)
    start, end = machine.space.host(first), machine.space.host(last)
    if (
        start is None
        or end is None
        or end - start != last - first
        or machine.space.region(first) != machine.space.region(last)
    ):
        return None
    return machine.memory.array[start : end + 1].view("u8")


def _board_differences(reference: Machine, other: Machine) -> Iterator[Parting]:
    mine, theirs = reference.board, other.board
    if mine.console != theirs.console:
        at = next((i for i, (x, y) in enumerate(zip(mine.console, theirs.console, strict=False)) if x != y), None)
        at = min(len(mine.console), len(theirs.console)) if at is None else at
        yield Parting(f"console at character {at}", _excerpt(mine.console, at), _excerpt(theirs.console, at))
    if mine.exit_status != theirs.exit_status:
        yield Parting("debug-exit port", str(mine.exit_status), str(theirs.exit_status))
    for name, device in mine.devices.items():
        state, other_state = device.save(), theirs.devices[name].save()
        if state != other_state:
            yield Parting(f"device {name}", str(state), str(other_state))


def _excerpt(console: bytearray, at: int) -> str:
    return bytes(console[at : at + 40]).decode("utf-8", "backslashreplace")
