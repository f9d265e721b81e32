"""The table of benchmarks: published, counted, modelled and measured numbers, each kind by itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simvirt.observe.benchmarks.expense import Expense
from simvirt.observe.benchmarks.measurement import NotApplicable
from simvirt.observe.benchmarks.model import cycles
from simvirt.observe.showable import Showable
from simvirt.strategies.strategy import Means

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from simvirt.observe.benchmarks.benchmark import Benchmark
    from simvirt.observe.costs import CostPreset
    from simvirt.strategies.strategy import StrategyInfo

SCHEMA: Final = "simvirt.benchmarks/1"
PAPER_PRESET: Final = "pentium4-672-2005"
"""The preset of the processor that the paper measured."""
_PAPER_COLUMNS: Final = {Means.NONE: "native", Means.NON_ROOT_MODE: "hardware"}
"""Which of the paper's columns is about what a strategy does."""


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """One operation under every strategy.

    Attributes:
        expenses: by the strategy's name.
        modelled: cycles, by the preset's name and the strategy's; nothing where the strategy is not applicable.
    """

    benchmark: Benchmark
    expenses: Mapping[str, Expense | NotApplicable]
    modelled: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(
        cls,
        benchmark: Benchmark,
        expenses: Mapping[str, Expense | NotApplicable],
        strategies: Sequence[StrategyInfo],
        presets: Sequence[CostPreset],
    ) -> BenchmarkRow:
        """Price the expenses by every preset."""
        found = {info: expense for info in strategies if isinstance(expense := expenses[info.name], Expense)}
        shadowed = next((expense for info, expense in found.items() if info.means is Means.TRAPS), None)
        modelled = {
            preset.name: {
                info.name: cycles(preset, info, expense, benchmark, shadowed) for info, expense in found.items()
            }
            for preset in presets
        }
        return cls(benchmark, expenses, modelled)

    def expense(self, strategy: str) -> Expense | None:
        """What was counted and measured under a strategy, if it is applicable."""
        found = self.expenses[strategy]
        return found if isinstance(found, Expense) else None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        published = self.benchmark.published
        applicable = {name: expense for name, expense in self.expenses.items() if isinstance(expense, Expense)}
        return {
            "name": self.benchmark.name,
            "operation": self.benchmark.operation,
            "published": {"native": published.native, "software": published.software, "hardware": published.hardware}
            if published
            else None,
            "differs": self.benchmark.differs or None,
            "counted": {name: expense.counted() for name, expense in applicable.items()},
            "modelled": {
                preset: {name: round(number, 1) for name, number in by_strategy.items()}
                for preset, by_strategy in self.modelled.items()
            },
            "measured": {name: {"host_seconds": expense.seconds} for name, expense in applicable.items()},
            "not_applicable": {
                name: found.reason for name, found in self.expenses.items() if isinstance(found, NotApplicable)
            },
        }


@dataclass(frozen=True, slots=True)
class BenchmarkTable(Showable):
    """All of them.

    Attributes:
        strategies: in the order of the columns.
        presets: oldest processor first.
        paper: where the published cycles stand.
        rounds: of each guest that were looked at.
    """

    rows: tuple[BenchmarkRow, ...]
    strategies: tuple[StrategyInfo, ...]
    presets: tuple[CostPreset, ...]
    paper: str
    rounds: int

    def __repr__(self) -> str:
        names = ", ".join(info.name for info in self.strategies)
        return f"<BenchmarkTable of {len(self.rows)} operations under {names}>"

    def row(self, name: str) -> BenchmarkRow:
        """The row of one benchmark.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if row.benchmark.name == name:
                return row
        raise KeyError(name)

    @property
    def paper_preset(self) -> CostPreset:
        """That of the processor that the paper measured."""
        return next(preset for preset in self.presets if preset.name == PAPER_PRESET)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that scripts rely on."""
        return {
            "schema": SCHEMA,
            "strategies": [info.name for info in self.strategies],
            "rounds": self.rounds,
            "paper": self.paper,
            "benchmarks": [row.to_dict() for row in self.rows],
        }

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=indent)


def orders(table: BenchmarkTable) -> dict[str, bool]:
    """Does the preset of the paper's processor rank the operations as the paper's columns, native and hardware, do?

    By the strategy that is a column's. Those of the operations count that the paper prints as they stand.
    """
    found = {}
    for info in table.strategies:
        column = _PAPER_COLUMNS.get(info.means)
        pairs = [
            (getattr(published, column), row.modelled[PAPER_PRESET][info.name])
            for row in table.rows
            if column and (published := row.benchmark.published) and not published.derived and row.expense(info.name)
        ]
        if len(pairs) > 1:
            found[info.name] = in_order(pairs)
    return found


def in_order(numbers: Iterable[tuple[float, float]]) -> bool:
    """Do two columns rank their rows alike? Rows that are equal in the first may stand in any order.

    >>> in_order([(1, 10), (2, 30), (2, 20)]), in_order([(1, 10), (2, 5)])
    (True, False)
    """
    pairs = list(numbers)
    return all(mine <= theirs for one, mine in pairs for other, theirs in pairs if one < other)
