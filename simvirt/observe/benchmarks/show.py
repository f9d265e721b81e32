"""How the table of benchmarks looks: a table for each kind of number, and what makes them differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.observe.benchmarks.expense import sorted_exits
from simvirt.observe.benchmarks.remarks import remarks
from simvirt.observe.benchmarks.results import BenchmarkTable
from simvirt.observe.layout import labelled, table
from simvirt.observe.showable import renders
from simvirt.strategies.strategy import Means

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from simvirt.observe.benchmarks.expense import Expense
    from simvirt.observe.benchmarks.results import BenchmarkRow
    from simvirt.observe.costs import CostPreset
    from simvirt.strategies.strategy import StrategyInfo

_NOTHING: Final = "–"
_NOT_APPLICABLE: Final = "n/a"
_REASONS_SHOWN: Final = 3
_SHOWN_AS_NONE: Final = 0.005


@renders(BenchmarkTable)
def show_benchmarks(shown: BenchmarkTable) -> RenderableType:
    """Counted; the paper beside its processor's preset; every preset; measured; and why they differ."""
    from rich.console import Group
    from rich.text import Text

    virtual = [info for info in shown.strategies if info.means is not Means.NONE]
    parts: list[RenderableType] = [_counted(shown, virtual)]
    if any(row.benchmark.published for row in shown.rows):
        parts.append(_beside_the_paper(shown))
    parts += [_modelled(shown, info) for info in virtual]
    parts += [_measured(shown), Text("Where they differ, and why", style="bold")]
    parts.append(labelled((label, Text(text)) for label, text in remarks(shown)))
    return Group(*parts)


def _counted(shown: BenchmarkTable, virtual: list[StrategyInfo]) -> Table:
    grid = table(title="counted: one operation")
    grid.add_column("benchmark", no_wrap=True)
    grid.add_column("what is done once")
    grid.add_column("instructions", justify="right", no_wrap=True)
    for info in virtual:
        grid.add_column(f"exits under {info.name}", overflow="fold")
    for row in shown.rows:
        instructions = next((p.instructions for i in shown.strategies if (p := row.expense(i.name))), None)
        grid.add_row(
            row.benchmark.name,
            row.benchmark.operation,
            _NOTHING if instructions is None else _number(instructions),
            *(_exits(row, info) for info in virtual),
        )
    return grid


def _exits(row: BenchmarkRow, info: StrategyInfo) -> str:
    expense = row.expense(info.name)
    if expense is None:
        return _NOT_APPLICABLE
    told = [(reason, number) for reason, number in sorted_exits(expense.exits) if number >= _SHOWN_AS_NONE]
    if not told:
        return "0"
    most = ", ".join(f"{_number(number)} {reason.name}" for reason, number in told[:_REASONS_SHOWN])
    more = len(told) - _REASONS_SHOWN
    if len(told) == 1:
        return most
    return f"{_number(expense.interventions)}: {most}{f', and {more} more' if more > 0 else ''}"


def _beside_the_paper(shown: BenchmarkTable) -> Table:
    """Cycles of the paper's processor: its own numbers, and those that the preset makes of the counts here."""
    preset = shown.paper_preset
    grid = _narrow(f"published, and modelled by {preset.name}: cycles of one operation")
    grid.add_column("benchmark", no_wrap=True)
    for heading in ("native", "software VMM", "hardware VMM"):
        grid.add_column(f"{heading}:\npaper", justify="right", no_wrap=True)
    for info in shown.strategies:
        grid.add_column(f"{info.name}:\nmodelled{_memory(info, preset)}", justify="right", no_wrap=True)
    for row in shown.rows:
        published = row.benchmark.published
        if published:
            mark = "*" if published.derived else ""
            paper = [f"{number:,}{mark}" for number in (published.native, published.software, published.hardware)]
            grid.add_row(row.benchmark.name, *paper, *(_cycles(row, preset, info) for info in shown.strategies))
    by_name = {row.benchmark.name: row.benchmark.published for row in shown.rows}
    derived = [f"* {name}: {numbers.derived}" for name, numbers in by_name.items() if numbers and numbers.derived]
    grid.caption = "; ".join([shown.paper, *derived])
    grid.caption_justify = "left"
    return grid


def _memory(info: StrategyInfo, preset: CostPreset) -> str:
    return ", without EPT" if info.means is Means.NON_ROOT_MODE and not preset.ept else ""


def _modelled(shown: BenchmarkTable, info: StrategyInfo) -> Table:
    """A column for each preset, but one for all where they do not differ."""
    grid = _narrow(f"modelled: cycles of one operation under {info.name}")
    grid.add_column("benchmark", no_wrap=True)
    rows = [row for row in shown.rows if row.expense(info.name) is not None]
    alike = all(len({_cycles(row, preset, info) for preset in shown.presets}) == 1 for row in rows)
    presets = shown.presets[:1] if alike else shown.presets
    for preset in presets:
        name = preset.name.removesuffix(f"-{preset.year}").replace("-", "\n")
        grid.add_column("by every preset" if alike else f"{name}\n{preset.year}", justify="right", no_wrap=True)
    for row in rows:
        grid.add_row(row.benchmark.name, *(_cycles(row, preset, info) for preset in presets))
    return grid


def _narrow(title: str) -> Table:
    """A table of many columns."""
    grid = table(title)
    grid.padding = (0, 1, 0, 0)
    return grid


def _cycles(row: BenchmarkRow, preset: CostPreset, info: StrategyInfo) -> str:
    found = row.modelled[preset.name].get(info.name)
    return _NOT_APPLICABLE if found is None else f"{found:,.0f}"


def _measured(shown: BenchmarkTable) -> Table:
    grid = table(title="measured: µs of this host's processor for one operation")
    grid.add_column("benchmark", no_wrap=True)
    for info in shown.strategies:
        grid.add_column(info.name, justify="right")
    for row in shown.rows:
        grid.add_row(row.benchmark.name, *(_microseconds(row.expense(info.name)) for info in shown.strategies))
    grid.caption = (
        f"the quickest of five slices of {shown.rounds // 5:,} rounds after a hundred for warm-up, less the same of an "
        "empty loop; tutor's by the marks on its console, less what the marks take"
    )
    grid.caption_justify = "left"
    return grid


def _microseconds(expense: Expense | None) -> str:
    return _NOT_APPLICABLE if expense is None else f"{max(0.0, 1e6 * expense.seconds):,.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value - round(value)) < _SHOWN_AS_NONE else f"{value:,.2f}"
