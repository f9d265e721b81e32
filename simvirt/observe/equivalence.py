"""Equivalence: the guest under a strategy does what it does on the bare machine, checked in step.

The reference and every strategy run to the same exact instruction counts, and at each of these checkpoints everything
that a guest can observe is compared, under the strategy's VM map. A strategy that has parted from the reference is
not compared any more; where exactly it parted is searched afterwards (`observe.divergence`).

The checkpoints begin close together, because most strategies that go wrong go wrong early, and move apart so that
they cost little in a long run. A difference that comes and goes between two of them is missed: so the interval is an
option, and every report says which it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.machine import Outcome
from simvirt.observe.differences import all_pages, differ
from simvirt.observe.divergence import Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simvirt.observe.trial import Trial
    from simvirt.strategies.strategy import StrategyInfo

FIRST_INTERVAL: Final = 250
LARGEST_INTERVAL: Final = 1 << 22
_GROWTH: Final = 16
"""The interval is this part of what has been run: some two hundred checkpoints up to where it grows no more."""
ENDS: Final = frozenset(
    {Outcome.FINISHED, Outcome.HALTED, Outcome.WAITING_FOR_INPUT, Outcome.RESET, Outcome.TRIPLE_FAULT}
)
"""Outcomes after which a guest does nothing more: what equivalence is judged on."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where runs are compared: every `interval` instructions, or with an interval that doubles when None."""

    interval: int | None = None

    def after(self, instruction: int) -> int:
        """The next checkpoint.

        >>> growing = Checkpoints()
        >>> growing.after(0), growing.after(250), growing.after(160_000)
        (250, 500, 170000)
        >>> Checkpoints(500).after(1_000)
        1500
        """
        if self.interval is not None:
            return instruction + self.interval
        return instruction + min(max(FIRST_INTERVAL, instruction // _GROWTH), LARGEST_INTERVAL)

    def __str__(self) -> str:
        if self.interval is not None:
            return f"every {self.interval:,} instructions"
        return f"every {FIRST_INTERVAL:,} to {LARGEST_INTERVAL:,} instructions, ever less often"


def exemptions(info: StrategyInfo, checkpoints: Checkpoints) -> tuple[str, ...]:
    """What a comparison under this strategy leaves out, and what it compares through the VM map."""
    return (
        "timing: what a run would take on a real machine (virtual time counts the guest's own instructions)",
        "resources: how much of the machine the VMM takes for itself",
        *(f"{rule.component}: compared through the VM map, {rule.mapping}" for rule in info.vm_map),
        f"a difference that comes and goes between two checkpoints ({checkpoints})",
    )


def run_in_step(
    reference: Trial,
    trials: Sequence[Trial],
    checkpoints: Checkpoints,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, Interval]:
    """Run all to their end or limit, compared with the reference at every checkpoint.

    Returns:
        For each strategy that parted the interval in which it did. Its trial stands at the end of that interval.
    """
    limit = reference.config.max_instructions
    equal = list(trials)
    parted: dict[str, Interval] = {}

    def compare(equal_at: int, target: int, pages: set[int] | range) -> None:
        for trial in list(equal):
            own = trial.take_dirty_pages()
            if differ(reference, trial, pages if isinstance(pages, range) else pages | own):
                equal.remove(trial)
                parted[trial.strategy.info.name] = Interval(equal_at, target)

    compare(0, 0, reference.loaded_pages.union(*(trial.loaded_pages for trial in trials)))
    at = 0
    while reference.machine.outcome is None and at < limit:
        target = min(limit, checkpoints.after(at))
        for trial in (reference, *equal):
            if trial.advance(target) is Outcome.INTERRUPTED:
                return parted
        over = reference.outcome is not None or target == limit
        pages = reference.take_dirty_pages()
        compare(at, target, all_pages(reference) if over else pages)
        at = target
        if progress is not None:
            progress(reference.count, sum(trial.host_seconds for trial in (reference, *trials)))
    return parted
