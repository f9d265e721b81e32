"""`compare_benchmarks`: what single operations cost under every strategy, as a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import UsageError
from simvirt.guests.resolve import resolve
from simvirt.observe.benchmarks.benchmark import Combination, GuestRounds, SystemRounds, benchmarks
from simvirt.observe.benchmarks.expense import NOTHING
from simvirt.observe.benchmarks.measurement import NotApplicable, expense_of_rounds, expenses_of_system, window_of
from simvirt.observe.benchmarks.results import BenchmarkRow, BenchmarkTable
from simvirt.observe.costs import cost_presets
from simvirt.observe.results import RunConfig
from simvirt.observe.session import ALL, DEFAULT_MEMORY
from simvirt.strategies.registry import STRATEGIES, find
from simvirt.x86.cpuid import DEFAULT_CPU_MODEL, find_cpu_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simvirt.observe.benchmarks.benchmark import Benchmark, BenchmarkSet
    from simvirt.observe.benchmarks.expense import Expense
    from simvirt.strategies.strategy import Strategy

    Found = Expense | NotApplicable

DEFAULT_ROUNDS: Final = 5_000
MOST_ROUNDS: Final = 90_000
"""The guests have a hundred thousand, of which the first are warm-up."""
_FEWEST_ROUNDS: Final = 5


def compare_benchmarks(
    names: Sequence[str] = (),
    strategies: str | Sequence[str | Strategy] = ALL,
    *,
    rounds: int = DEFAULT_ROUNDS,
    cpu: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> BenchmarkTable:
    """Take each benchmark's rounds under each strategy, and price them by each cost preset.

    Args:
        names: benchmarks, or the guests that they are; all when empty.
        strategies: names or strategies, or "all".
        rounds: of each guest, how many are looked at; the operating system's benchmarks have their own number.
        cpu: name of a CPU model; the default model when None.
        progress: called with the name of what is about to be measured.

    Raises:
        UsageError: no such benchmark, strategy or CPU model, or too few or too many rounds.
        EngineError: this host has no verified engine.
    """
    if not _FEWEST_ROUNDS <= rounds <= MOST_ROUNDS:
        raise UsageError(f"{rounds} rounds: {_FEWEST_ROUNDS} to {MOST_ROUNDS:,} can be looked at")
    known = benchmarks()
    wanted = [known.find(name) for name in names] or list(known.benchmarks)
    chosen = _strategies(strategies)
    model = find_cpu_model(DEFAULT_CPU_MODEL if cpu is None else cpu)
    config = RunConfig(model.name, DEFAULT_MEMORY, seed=0, max_instructions=10**10)
    session = _Session(known, chosen, config, rounds, progress or (lambda _name: None))
    found = session.expenses(wanted)
    infos, presets = tuple(strategy.info for strategy in chosen), cost_presets()
    rows = tuple(BenchmarkRow.of(benchmark, found[benchmark.name], infos, presets) for benchmark in wanted)
    return BenchmarkTable(rows, infos, presets, known.paper, rounds)


def _strategies(names: str | Sequence[str | Strategy]) -> list[Strategy]:
    given: Sequence[str | Strategy] = [names] if isinstance(names, str) else names
    if not given or ALL in given:
        return list(STRATEGIES)
    found = [find(one) if isinstance(one, str) else one for one in given]
    return list({strategy.info.name: strategy for strategy in found}.values())


class _Session:
    """One call of `compare_benchmarks`: what is measured once and used for several rows."""

    def __init__(
        self,
        known: BenchmarkSet,
        strategies: Sequence[Strategy],
        config: RunConfig,
        rounds: int,
        progress: Callable[[str], None],
    ) -> None:
        self._known = known
        self._strategies = strategies
        self._config = config
        self._rounds = rounds
        self._progress = progress
        self._found: dict[str, dict[str, Found]] = {}

    def expenses(self, wanted: Sequence[Benchmark]) -> dict[str, dict[str, Found]]:
        """By the benchmark's name and the strategy's; those that a combination needs are there too."""
        parts = [
            self._known.find(name) for one in wanted if isinstance(one.rounds, Combination) for name in one.rounds.parts
        ]
        needed = {one.name: one for one in (*wanted, *parts)}.values()
        if any(isinstance(one.rounds, GuestRounds) for one in needed):
            empty = self._guest(self._known.empty)
            for one in needed:
                if isinstance(one.rounds, GuestRounds):
                    measured = self._guest(one.rounds.guest)
                    self._found[one.name] = {name: _less(measured[name], empty[name]) for name in measured}
        self._measure_system([one for one in needed if isinstance(one.rounds, SystemRounds)])
        for one in needed:
            if isinstance(one.rounds, Combination):
                self._found[one.name] = self._combine(one.rounds)
        return self._found

    def _guest(self, name: str) -> dict[str, Found]:
        self._progress(name)
        image = resolve(name)
        window = window_of(image, self._config)
        if isinstance(window, NotApplicable):
            return {strategy.info.name: window for strategy in self._strategies}
        return {
            strategy.info.name: expense_of_rounds(image, strategy, self._config, window, self._rounds)
            for strategy in self._strategies
        }

    def _measure_system(self, wanted: Sequence[Benchmark]) -> None:
        rounds = [one.rounds for one in wanted if isinstance(one.rounds, SystemRounds)]
        if not rounds:
            return
        image = resolve(self._known.system)
        for strategy in self._strategies:
            self._progress(f"{self._known.system} under {strategy.info.name}")
            for one, expense in zip(wanted, expenses_of_system(image, strategy, self._config, rounds), strict=True):
                self._found.setdefault(one.name, {})[strategy.info.name] = expense

    def _combine(self, rounds: Combination) -> dict[str, Found]:
        return {strategy.info.name: self._combined(rounds, strategy.info.name) for strategy in self._strategies}

    def _combined(self, rounds: Combination, strategy: str) -> Found:
        total = NOTHING
        for name, factor in rounds.parts.items():
            part = self._found[name][strategy]
            if isinstance(part, NotApplicable):
                return part
            total = total.plus(part, factor)
        return total


def _less(measured: Found, empty: Found) -> Found:
    """A round without its loop."""
    if isinstance(measured, NotApplicable):
        return measured
    return measured if isinstance(empty, NotApplicable) else measured.plus(empty, -1)
