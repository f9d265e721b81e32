"""The table of benchmarks as a picture: a panel for each kind of number, for they cannot be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.observe.benchmarks.results import PAPER_PRESET
from simvirt.observe.picture import new_picture, save_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from simvirt.observe.benchmarks.results import BenchmarkRow, BenchmarkTable

_COLOURS: Final = ("#7f8c8d", "#c0392b", "#2874a6", "#d68910", "#7d3c98")
_PAPER_MARKS: Final = {"native": "o", "software": "s", "hardware": "D"}
_NO_TIME: Final = 1e-3
"""Microseconds below which the axis does not go."""


def plot(table: BenchmarkTable, file: str | Path) -> None:
    """Write the picture.

    Raises:
        UsageError: the file's name has another suffix than .png, .svg or .pdf, or it cannot be written.
        UnsupportedError: matplotlib is not installed.
    """
    rows = table.rows[::-1]  # an axis counts from below
    newest = table.presets[-1].name
    figure = new_picture(file, 20, 1.8 + 0.42 * len(rows))
    counted, oldest, latest, measured = figure.subplots(1, 4, sharey=True)
    _bars(counted, table, rows, _exits)
    _panel(counted, "counted: exits", "exits for one operation", "symlog")
    _bars(oldest, table, rows, lambda row, name: row.modelled[PAPER_PRESET].get(name))
    _paper(oldest, rows)
    _panel(oldest, f"modelled: {PAPER_PRESET}\nmarks: published (Adams & Agesen 2006)", "cycles", "log")
    _bars(latest, table, rows, lambda row, name: row.modelled[newest].get(name))
    _panel(latest, f"modelled: {newest}", "cycles", "log")
    _bars(measured, table, rows, _microseconds)
    _panel(measured, "measured: this host", "µs of processor time", "log")
    counted.set_yticks(range(len(rows)), [row.benchmark.name for row in rows], fontsize=12)
    handles, labels = oldest.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=12)
    save_picture(figure, file)


def _exits(row: BenchmarkRow, strategy: str) -> float | None:
    expense = row.expense(strategy)
    return None if expense is None else expense.interventions


def _microseconds(row: BenchmarkRow, strategy: str) -> float | None:
    expense = row.expense(strategy)
    return None if expense is None else max(_NO_TIME, 1e6 * expense.seconds)


def _bars(
    axes: Axes,
    table: BenchmarkTable,
    rows: Sequence[BenchmarkRow],
    value: Callable[[BenchmarkRow, str], float | None],
) -> None:
    """A bar for each strategy beside each benchmark, where the strategy is applicable."""
    height = 0.8 / len(table.strategies)
    for number, info in enumerate(table.strategies):
        found = [(at, length) for at, row in enumerate(rows) if (length := value(row, info.name)) is not None]
        places = [at + 0.4 - height * (number + 0.5) for at, _ in found]
        lengths = [length for _, length in found]
        axes.barh(places, lengths, height=height, color=_COLOURS[number % len(_COLOURS)], label=info.name)


def _paper(axes: Axes, rows: Sequence[BenchmarkRow]) -> None:
    published = [(at, row.benchmark.published) for at, row in enumerate(rows) if row.benchmark.published]
    for column, mark in _PAPER_MARKS.items():
        lengths = [getattr(numbers, column) for _, numbers in published]
        if lengths:
            places = [at for at, _ in published]
            axes.plot(lengths, places, mark, color="black", markerfacecolor="none", label=f"paper: {column}")


def _panel(axes: Axes, title: str, unit: str, scale: str) -> None:
    axes.set_xscale(scale)
    axes.set_title(title, fontsize=13, loc="left")
    axes.set_xlabel(unit, fontsize=12)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
