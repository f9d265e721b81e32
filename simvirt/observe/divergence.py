"""The first divergence: the earliest instruction after which two runs part.

Two checkpoints are known: at the one the runs were equal, at the next they were not. The way back is to run again
from the beginning, which a deterministic machine makes exact, costs nothing while the runs are equal, and needs
nothing of a strategy but that it runs. From the equal checkpoint the pair goes on in finer steps, and in the first
fine step that differs, instruction by instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any, Final, cast

from simvirt.errors import MonitorError
from simvirt.machine.machine import Outcome
from simvirt.observe.code import place
from simvirt.observe.comparison import FirstDivergence
from simvirt.observe.differences import Parting, all_pages, differ, partings, rank
from simvirt.observe.explanation import Witnessed, explain

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.machine import Processor
    from simvirt.observe.trial import Trial
    from simvirt.vmm.exit_log import ExitRecord

_STEPPED: Final = 2048
"""An interval of this many instructions is stepped through; a longer one is divided first."""
_SLICE: Final = 1 << 22
"""Instructions between two reports of how far the search has come."""


_BEFORE_ALL: Final = (
    "The machines differ before the first instruction: the strategy does not set the guest up as the PC does."
)


@dataclass(frozen=True, slots=True)
class Interval:
    """The runs are equal at `equal` and not at `parted`."""

    equal: int
    parted: int


class Abandoned(Exception):  # noqa: N818 - no error: the user has had enough
    """The search was interrupted."""


class Pair:
    """Reference and trial side by side, from the same beginning."""

    def __init__(self, reference: Trial, trial: Trial, progress: Callable[[int], None] | None = None) -> None:
        self.reference = reference
        self.trial = trial
        self._progress = progress
        self._pages: set[int] = set()

    def advance(self, instruction: int) -> None:
        """Run both to exactly `instruction`.

        Raises:
            Abandoned: a run was interrupted.
        """
        for target in (*range(self.reference.count + _SLICE, instruction, _SLICE), instruction):
            for trial in (self.reference, self.trial):
                if trial.advance(target) is Outcome.INTERRUPTED:
                    raise Abandoned
                self._pages |= trial.take_dirty_pages()
            if self._progress is not None:
                self._progress(self.reference.count)

    def take_pages(self) -> set[int]:
        """Pages that either has written since the last call."""
        pages, self._pages = self._pages, set()
        return pages


def find_first_divergence(fresh: Callable[[], Pair], interval: Interval) -> FirstDivergence:
    """Search `interval`; `fresh` makes a pair at the beginning of the run.

    Raises:
        Abandoned: the search was interrupted.
        MonitorError: there is no difference this time, so a run is not deterministic.
    """
    if interval.parted > interval.equal:
        while interval.parted - interval.equal > _STEPPED:
            interval = _narrow(fresh(), interval, isqrt(interval.parted - interval.equal))
        interval = _narrow(fresh(), interval, 1)
    return _report(fresh(), interval)


def _narrow(pair: Pair, interval: Interval, stride: int) -> Interval:
    """The part of `interval`, `stride` instructions long or less, in which the runs part."""
    pair.advance(interval.equal)
    pair.take_pages()
    equal = interval.equal
    while equal < interval.parted:
        target = min(equal + stride, interval.parted)
        pair.advance(target)
        # What differs without anybody having logged a write is found at the latest where it was seen.
        pages = all_pages(pair.reference) if target == interval.parted else pair.take_pages()
        if differ(pair.reference, pair.trial, pages):
            return Interval(equal, target)
        equal = target
    raise MonitorError(
        f"two runs of '{pair.trial.image.name}' under {pair.trial.strategy.info.name} differ between instructions "
        f"{interval.equal} and {interval.parted}, and running again does not show it: the strategy is not deterministic"
    )


def _report(pair: Pair, interval: Interval) -> FirstDivergence:
    """Execute the one instruction again, and look closely."""
    pair.advance(interval.equal)
    pair.take_pages()
    reference, trial = pair.reference, pair.trial
    before: ArchitecturalState = reference.machine.processor.guest_state()
    where = place(reference, before)
    exits: list[ExitRecord] = []
    trial.log.listener = exits.append
    watched, other_watched = InterruptWatch.on(reference), InterruptWatch.on(trial)
    pair.advance(interval.parted)
    found = sorted(partings(reference, trial, all_pages(reference)), key=rank)
    faults = tuple(record for record in reference.cpu.fault_chain if record.instruction == interval.equal)
    vectors, other_vectors = tuple(watched.vectors), tuple(other_watched.vectors)
    seen = Witnessed(where, tuple(found), vectors, other_vectors, faults, tuple(exits), before)
    first = found[0] if found else Parting("nothing", "", "")
    return FirstDivergence(
        instruction=interval.parted,
        address=where.address,
        mnemonic=where.text,
        component=first.component,
        reference_value=first.reference_value,
        value=first.value,
        explanation=explain(seen, trial.strategy.info) if interval.parted else _BEFORE_ALL,
        symbol=where.symbol,
        source=where.source,
        components=tuple(parting.component for parting in found),
    )


class InterruptWatch:
    """A processor that notes the interrupts it is given; in everything else the one it stands before."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor
        self.vectors: list[int] = []

    @classmethod
    def on(cls, trial: Trial) -> InterruptWatch:
        """Watch a trial's processor from now on."""
        watch = cls(trial.machine.processor)
        trial.machine.processor = cast("Processor", watch)
        return watch

    def inject_interrupt(self, vector: int) -> None:
        """Note it and pass it on."""
        self.vectors.append(vector)
        self._processor.inject_interrupt(vector)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)
