"""Checkpoints of a machine under way: states to go back to, of which the past keeps fewer the farther away it is.

A checkpoint holds what `Machine.save` holds, but of memory only the pages that have changed since the checkpoint before
it: those in the engine's dirty log, and those outside the guest's memory that differ, because a VMM's own stores pass
the log by. So hundreds of checkpoints of a guest with 64 MiB take a few megabytes. A state of memory is put together
from the last copy of each page at or before it.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from simvirt.machine.delivery_log import FaultRecord
    from simvirt.machine.machine import MachineState
    from simvirt.observe.trial import Trial
    from simvirt.vmm.exit_log import ExitLogState, ExitRecord

MOST_CHECKPOINTS: Final = 256
DEFAULT_BUDGET: Final = 256 << 20
"""Bytes of pages that all checkpoints hold together, beyond the first one's."""
_NO_PAGE: Final = bytes(PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A machine at one instruction.

    Attributes:
        machine: the machine, and the host pages that have changed since the checkpoint before.
        pinned: something came from outside here, so that nothing before it leads to what is after it.
        log: what the VMM had done by then.
        last_exit: the last exit to the VMM before it, if somebody kept it.
        fault_chain: the exceptions delivered last.
    """

    machine: MachineState
    pinned: bool
    log: ExitLogState
    last_exit: ExitRecord | None
    fault_chain: tuple[FaultRecord, ...]

    @property
    def count(self) -> int:
        """Instructions retired."""
        return self.machine.count

    @property
    def pages(self) -> dict[int, bytes]:
        """Host pages, by number, that have changed since the checkpoint before."""
        return self.machine.pages


class Checkpoints:
    """The checkpoints of one trial, in order, and which of them the present came from."""

    def __init__(self, trial: Trial, budget: int = DEFAULT_BUDGET) -> None:
        self._trial = trial
        self._budget = budget
        self._since: set[int] = set()
        self._outside = _pages_outside(trial)
        self._view = trial.machine.memory.array.reshape(-1, PAGE_SIZE)
        self._outside_before = self._view[self._outside].copy()
        self._at = 0
        trial.take_dirty_host_pages()
        import numpy as np

        used = np.flatnonzero(self._view.any(axis=1))
        self._kept = [self._checkpoint({int(page) for page in used}, None, pinned=True)]

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def counts(self) -> list[int]:
        """At how many instructions there are checkpoints."""
        return [checkpoint.count for checkpoint in self._kept]

    @property
    def size(self) -> int:
        """Bytes of pages, the first checkpoint's not counted."""
        return PAGE_SIZE * sum(len(checkpoint.pages) for checkpoint in self._kept[1:])

    def index_at(self, count: int) -> int:
        """The last checkpoint that is not behind `count`; the first one if all are."""
        return max(0, bisect_right(self._kept, count, key=lambda checkpoint: checkpoint.count) - 1)

    def take(self, last_exit: ExitRecord | None, *, pinned: bool = False) -> None:
        """Keep the present, unless that is known territory; a pinned one is kept in any case, and ends the future."""
        if pinned:
            del self._kept[self._at + 1 :]
        elif self._at + 1 < len(self._kept) or self._trial.count <= self._kept[self._at].count:
            return
        self._note_changes()
        self._kept.append(self._checkpoint(self._since, last_exit, pinned=pinned))
        self._since.clear()
        self._at = len(self._kept) - 1
        self._thin()

    def restore(self, index: int) -> ExitRecord | None:
        """Make the machine what it was at a checkpoint; the last exit to the VMM before it."""
        self._note_changes()
        changed = set(self._since)
        for checkpoint in self._kept[min(index, self._at) + 1 : max(index, self._at) + 1]:
            changed.update(checkpoint.pages)
        checkpoint, cpu = self._kept[index], self._trial.cpu
        self._trial.machine.restore_with_pages(checkpoint.machine, {page: self._page(page, index) for page in changed})
        self._trial.error = None
        self._trial.log.restore(checkpoint.log)
        cpu.fault_chain.clear()
        cpu.fault_chain.extend(checkpoint.fault_chain)
        self._trial.take_dirty_host_pages()
        self._since.clear()
        self._outside_before[:] = self._view[self._outside]
        self._at = index
        return checkpoint.last_exit

    @property
    def next_count(self) -> int | None:
        """Where the next checkpoint of the known future is."""
        return self._kept[self._at + 1].count if self._at + 1 < len(self._kept) else None

    def pass_next(self) -> ExitRecord | None:
        """The machine has come to the next checkpoint on the known way, or to what came from outside there."""
        if self._kept[self._at + 1].pinned:
            return self.restore(self._at + 1)
        self._note_changes()
        self._since.clear()
        self._at += 1
        return None

    def count_of(self, index: int) -> int:
        """Instructions retired at a checkpoint."""
        return self._kept[index].count

    # ------------------------------------------------------------------------------------------------------------ pages

    def _note_changes(self) -> None:
        """Add what has changed since the last look to what differs from the checkpoint the present came from."""
        self._since |= self._trial.take_dirty_host_pages()
        now = self._view[self._outside]
        different = (now != self._outside_before).any(axis=1)
        if different.any():
            self._since.update(int(page) for page in self._outside[different])
            self._outside_before[different] = now[different]

    def _page(self, page: int, index: int) -> bytes:
        """What a page held at a checkpoint."""
        for checkpoint in reversed(self._kept[: index + 1]):
            if page in checkpoint.pages:
                return checkpoint.pages[page]
        return _NO_PAGE

    def _checkpoint(self, pages: set[int], last_exit: ExitRecord | None, *, pinned: bool) -> Checkpoint:
        trial = self._trial
        return Checkpoint(
            machine=trial.machine.save_with_pages(pages),
            pinned=pinned,
            log=trial.log.save(),
            last_exit=last_exit,
            fault_chain=tuple(trial.cpu.fault_chain),
        )

    # --------------------------------------------------------------------------------------------------------- thinning

    def _thin(self) -> None:
        """Give up checkpoints until the rest fit: those whose gap would be smallest for how long ago they are."""
        while len(self._kept) > MOST_CHECKPOINTS or self.size > self._budget:
            candidates = [index for index in range(1, len(self._kept) - 1) if not self._kept[index].pinned]
            if not candidates:
                return
            now = self._kept[-1].count
            self._drop(min(candidates, key=lambda index: self._gap(index) / (now - self._kept[index].count + 1)))

    def _gap(self, index: int) -> int:
        return self._kept[index + 1].count - self._kept[index - 1].count

    def _drop(self, index: int) -> None:
        """The pages of a checkpoint that is given up belong to the next one, unless that has its own."""
        given_up = self._kept.pop(index)
        for page, data in given_up.pages.items():
            self._kept[index].pages.setdefault(page, data)
        if self._at > index:
            self._at -= 1


def _pages_outside(trial: Trial) -> Any:
    """Numbers of the host pages that are not the guest's RAM."""
    import numpy as np

    outside = np.ones(trial.machine.memory.pages, dtype=bool)
    for region in trial.machine.space.ram:
        first = region.host >> PAGE_SHIFT
        outside[first : first + (region.size >> PAGE_SHIFT)] = False
    return np.flatnonzero(outside)
