"""A contest: one guest on the bare machine and under strategies, and the verdicts on the three properties."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from simvirt.guests.linux_real_mode import entered_on
from simvirt.machine.machine import Outcome
from simvirt.observe.comparison import Comparison, Equivalence, Verdict
from simvirt.observe.divergence import Abandoned, Pair, find_first_divergence
from simvirt.observe.efficiency import NOTHING_RAN, Efficiency
from simvirt.observe.equivalence import ENDS, Checkpoints, exemptions, run_in_step
from simvirt.observe.interruption import StopOnInterrupt
from simvirt.observe.resource_control import ResourceControl
from simvirt.observe.sites import compare_sites, site_addresses
from simvirt.observe.trial import Trial
from simvirt.strategies.bare_metal import BareMetal
from simvirt.x86.cpuid import find_cpu_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simvirt.guests.image import GuestImage
    from simvirt.observe.comparison import FirstDivergence
    from simvirt.observe.costs import CostPreset
    from simvirt.observe.divergence import Interval
    from simvirt.observe.results import Run, RunConfig
    from simvirt.observe.site_table import SiteTable
    from simvirt.strategies.strategy import Strategy

_REPORT_SECONDS: Final = 0.2
GRACE: Final = 1_000_000
"""A guest that has gone astray gets twice the reference's instructions and this many more to come to an end."""


class Contest:
    """Runs a guest under strategies and judges them.

    Args:
        progress: called at every checkpoint, and during the search for a divergence, with the instructions of the
            reference and the host seconds so far.
    """

    def __init__(
        self,
        image: GuestImage,
        config: RunConfig,
        strategies: Sequence[Strategy],
        *,
        checkpoints: Checkpoints,
        costs: CostPreset,
        progress: Callable[[int, float], None] | None = None,
    ) -> None:
        self.image = image = entered_on(image, find_cpu_model(config.cpu))
        self.config = config
        self.checkpoints = checkpoints
        self.costs = costs
        self.progress = progress
        self.reference: Strategy = BareMetal()
        self.obstacles = {strategy.info.name: strategy.obstacle(image) for strategy in strategies}
        self.strategies = list(strategies)
        self._stop = StopOnInterrupt()
        self._began = self._reported = time.perf_counter()

    def run(self) -> Comparison:
        """All of it; Ctrl-C ends it with what is known so far."""
        with self._stop:
            able = [strategy for strategy in self.strategies if self.obstacles[strategy.info.name] is None]
            runs, parted = self._run_in_step(able)
            reference = runs[self.reference.info.name]
            verdicts = {
                strategy.info.name: self._verdict(strategy, reference, runs, parted) for strategy in self.strategies
            }
            sites = self._sites(able, reference.counted.instructions) if site_addresses(self.image) else None
        return Comparison(
            guest=self.image.name,
            reference=self.reference.info.name,
            runs=tuple(runs.values()),
            verdicts=verdicts,
            sites=sites,
        )

    def _run_in_step(self, strategies: Sequence[Strategy]) -> tuple[dict[str, Run], dict[str, Interval]]:
        """The runs, the reference's first, and where they parted. The machines are gone when this returns."""
        reference = self._watched(self.reference)
        trials = {strategy.info.name: self._watched(strategy) for strategy in strategies}
        parted = run_in_step(reference, list(trials.values()), self.checkpoints, self.progress)
        for name in parted:
            self._let_finish(trials[name], reference)
        self._stop.watch()
        return {trial.strategy.info.name: self._finish(trial) for trial in (reference, *trials.values())}, parted

    def _sites(self, strategies: Sequence[Strategy], limit: int) -> SiteTable | None:
        if self._stop.requested or not strategies:
            return None
        self._stop.watch()
        makers = {strategy.info.name: partial(self._watched, strategy) for strategy in strategies}
        return compare_sites(self.image, partial(self._watched, self.reference), makers, limit)

    def _watched(self, strategy: Strategy) -> Trial:
        """A trial that Ctrl-C stops too."""
        trial = self._trial(strategy)
        self._stop.watch_too(trial.machine)
        return trial

    def _trial(self, strategy: Strategy) -> Trial:
        return Trial(self.image, strategy, self.config)

    def _let_finish(self, trial: Trial, reference: Trial) -> None:
        """What a guest does after it went astray is of interest, but it may never end."""
        limit = min(self.config.max_instructions, max(2 * reference.count + GRACE, trial.count))
        trial.config = replace(self.config, max_instructions=limit)
        if not self._stop.requested:
            trial.advance(limit)

    def _finish(self, trial: Trial) -> Run:
        return trial.finish(self.costs, stopped=Outcome.INTERRUPTED if self._stop.requested else Outcome.LIMIT)

    def _verdict(
        self, strategy: Strategy, reference: Run, runs: dict[str, Run], parted: dict[str, Interval]
    ) -> Verdict:
        name = strategy.info.name
        left_out = exemptions(strategy.info, self.checkpoints)
        obstacle = self.obstacles[name]
        if obstacle is not None:
            return Verdict(Equivalence.NOT_APPLICABLE, left_out, None, NOTHING_RAN, ResourceControl.of(()), obstacle)
        if name in parted:
            equivalence, divergence = Equivalence.DIVERGED, self._first_divergence(strategy, parted[name])
        else:
            ended = reference.outcome in ENDS and runs[name].outcome in ENDS
            equivalence, divergence = (Equivalence.EQUIVALENT if ended else Equivalence.UNDETERMINED), None
        run = runs[name]
        return Verdict(
            equivalence,
            left_out,
            divergence,
            Efficiency.of(run.counted),
            ResourceControl.of(run.attempts, run.pages_outside),
            vm_map=strategy.info.vm_map,
            checkpoints=str(self.checkpoints),
        )

    def _first_divergence(self, strategy: Strategy, interval: Interval) -> FirstDivergence | None:
        """Searched on machines of its own, so that the runs' counts stay what they are."""
        if self._stop.requested:
            return None
        try:
            return find_first_divergence(lambda: self._pair(strategy), interval)
        except Abandoned:
            return None

    def _pair(self, strategy: Strategy) -> Pair:
        self._stop.watch()
        return Pair(self._watched(self.reference), self._watched(strategy), self._report_search)

    def _report_search(self, instruction: int) -> None:
        """Progress of the search for a first divergence, which runs the guest up to it again."""
        now = time.perf_counter()
        if self.progress is not None and now - self._reported > _REPORT_SECONDS:
            self._reported = now
            self.progress(instruction, now - self._began)
