"""Counts per exit reason, as ``perf kvm stat report`` lays them out: samples, time, their shares, and the average time.

The time is modelled, in cycles of a cost preset; perf measures it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.observe.showable import Showable

if TYPE_CHECKING:
    from simvirt.observe.results import Run


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """One line of the table.

    Attributes:
        samples_share: of all exits.
        cycles: modelled cost of all exits of this reason.
        cycles_share: of the modelled cost of all exits.
    """

    reason: str
    samples: int
    samples_share: float
    cycles: int
    cycles_share: float

    @property
    def average_cycles(self) -> float:
        """Modelled cost of one."""
        return self.cycles / self.samples


@dataclass(frozen=True, slots=True)
class ExitCounts(Showable):
    """The table: most frequent reason first."""

    rows: tuple[ReasonCount, ...]
    preset: str

    @classmethod
    def of(cls, run: Run) -> ExitCounts:
        """The exits of a run."""
        samples, cycles = run.counted.vm_exits, run.modelled.exit_cycles
        all_samples, all_cycles = sum(samples.values()), sum(cycles.values())
        rows = [
            ReasonCount(
                reason=reason,
                samples=number,
                samples_share=number / all_samples,
                cycles=cycles.get(reason, 0),
                cycles_share=cycles.get(reason, 0) / all_cycles if all_cycles else 0.0,
            )
            for reason, number in samples.items()
            if number
        ]
        return cls(tuple(sorted(rows, key=lambda row: (-row.samples, row.reason))), run.modelled.preset)
