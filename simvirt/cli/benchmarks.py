"""`simvirt compare --benchmarks`: what single operations cost under every strategy."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from simvirt.cli.output import print_json, print_result
from simvirt.cli.progress import ProgressLine
from simvirt.cli.status import ExitStatus
from simvirt.cli.values import positive_count
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.observe.benchmarks.results import BenchmarkTable

_ALL: Final = "all"
_OF_ONE_GUEST: Final = (
    *("append", "initrd", "boot", "interval", "trace"),
    *("memory", "seed", "start_time", "max_instructions", "costs", "disk", "input", "keys"),
)
"""Options that mean nothing here: the benchmarks bring their guests and what those are given, and use every preset."""


def add_benchmark_options(parser: ArgumentParser) -> None:
    """The options of the benchmarks."""
    group = parser.add_argument_group("benchmarks")
    group.add_argument(
        "--benchmarks",
        metavar="NAME,...",
        nargs="?",
        const=_ALL,
        help="instead of a guest: single operations, published, counted, modelled by every cost preset, and measured",
    )
    group.add_argument(
        "--rounds", metavar="N", type=positive_count, help="how many rounds of each are looked at (default: 5,000)"
    )
    group.add_argument("--plot", metavar="FILE", help="write the benchmarks as a picture too: .png, .svg or .pdf")


def wants_benchmarks(arguments: Namespace) -> bool:
    """Are benchmarks asked for?

    Raises:
        UsageError: together with what they cannot have, or not, and their options are there.
    """
    if arguments.benchmarks is None:
        for name in ("rounds", "plot"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name} is for --benchmarks: add that, or leave it out")
        return False
    if arguments.guest is not None:
        raise UsageError(
            f"--benchmarks has guests of its own: leave {arguments.guest} out, or choose benchmarks by their names, as "
            "--benchmarks in,pgfault"
        )
    for name in _OF_ONE_GUEST:
        if getattr(arguments, name):
            raise UsageError(f"--{name.replace('_', '-')} is for one guest, not for --benchmarks: leave it out")
    return True


def print_benchmarks(arguments: Namespace) -> ExitStatus:
    """Measure, and print the table."""
    from simvirt.observe.benchmarks.session import DEFAULT_ROUNDS, compare_benchmarks
    from simvirt.observe.picture import new_picture

    if arguments.plot is not None:
        new_picture(arguments.plot, 1, 1)  # what cannot be written is refused before anything is measured
    chosen = "" if arguments.benchmarks == _ALL else arguments.benchmarks
    with ProgressLine("benchmarks", quiet=arguments.quiet) as line:
        table = compare_benchmarks(
            _names(chosen),
            _names(arguments.strategy),
            rounds=arguments.rounds or DEFAULT_ROUNDS,
            cpu=arguments.cpu,
            progress=_Progress(line).report,
        )
    if arguments.plot is not None:
        from simvirt.observe.benchmarks.plot import plot

        plot(table, arguments.plot)
    if arguments.json:
        print_json(table.to_dict())
    elif arguments.quiet:
        _print_lines(table)
    else:
        print_result(table)
    return ExitStatus.OK


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


class _Progress:
    """Which one it is at, on a terminal."""

    def __init__(self, line: ProgressLine) -> None:
        self._line = line
        self._began = time.monotonic()

    def report(self, what: str) -> None:
        """The next is `what`."""
        if self._line.report is not None:
            self._line.write(f"benchmarks: {what}, after {time.monotonic() - self._began:.0f} s")


def _print_lines(table: BenchmarkTable) -> None:
    """A line for each benchmark: its exits under each strategy."""
    for row in table.rows:
        counts = [
            f"{info.name} {'n/a' if (expense := row.expense(info.name)) is None else f'{expense.interventions:.2f}'}"
            for info in table.strategies
        ]
        sys.stdout.write(f"{row.benchmark.name}: exits {', '.join(counts)}\n")
