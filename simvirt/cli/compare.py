"""`simvirt compare`: one guest, several strategies, and a verdict on each; or single operations, and what they cost."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from simvirt.cli.benchmarks import add_benchmark_options, print_benchmarks, wants_benchmarks
from simvirt.cli.options import GUEST_HELP, add_loader_options, add_shared_options, boot_image, shared_arguments
from simvirt.cli.output import print_json, print_result
from simvirt.cli.progress import ProgressLine
from simvirt.cli.run import report_faults
from simvirt.cli.tracing import add_trace_options, open_trace
from simvirt.cli.values import positive_count
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.cli.status import ExitStatus
    from simvirt.cli.tracing import Listener
    from simvirt.guests.image import GuestImage
    from simvirt.observe.comparison import Comparison


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt compare`."""
    parser.add_argument("guest", metavar="GUEST", nargs="?", help=GUEST_HELP)
    add_loader_options(parser)
    parser.add_argument(
        "--strategy",
        metavar="STRATEGY,...",
        default="all",
        help="the strategies, with commas between, or all (default: all); bare metal is the reference and always runs",
    )
    parser.add_argument(
        "--interval",
        metavar="N",
        type=positive_count,
        help="instructions between two checkpoints (default: 10,000 and growing)",
    )
    add_shared_options(parser)
    add_trace_options(parser)
    add_benchmark_options(parser)


def execute(arguments: Namespace) -> ExitStatus:
    """Compare, and print what was found.

    Raises:
        UsageError: neither a guest nor benchmarks, or both.
    """
    if wants_benchmarks(arguments):
        return print_benchmarks(arguments)
    if arguments.guest is None:
        raise UsageError("name a guest to compare, see `simvirt list guests`, or say --benchmarks")
    from simvirt.observe.session import ALL, compare

    image = boot_image(arguments)
    names = [name.strip() for name in arguments.strategy.split(",") if name.strip()]
    strategies = ALL if not names or ALL in names else names
    with ExitStack() as stack:
        listeners = _open_traces(stack, arguments, image, names if strategies is not ALL else None)
        progress = stack.enter_context(ProgressLine(f"comparing {image.name}", quiet=arguments.quiet))
        comparison = compare(
            image, strategies, interval=arguments.interval, progress=progress.report, **shared_arguments(arguments)
        )
        _write_traces(listeners, comparison, arguments, image)
    if not comparison.verdicts:
        print(
            f"simvirt: nothing to compare: {comparison.reference} is the reference that strategies are compared with; "
            f"name another with --strategy, or leave that out for all",
            file=sys.stderr,
        )
    if arguments.json:
        print_json(comparison.to_dict())
    elif arguments.quiet:
        for name, verdict in comparison.verdicts.items():
            print(f"{name}: {verdict.equivalence.value}")
    else:
        print_result(comparison)
    return report_faults(*comparison.runs, traceback=arguments.debug)


def _open_traces(
    stack: ExitStack, arguments: Namespace, image: GuestImage, names: list[str] | None
) -> dict[str, Listener]:
    """A file for each strategy's trace, open before anything runs; bare metal has no exits."""
    if arguments.trace is None:
        stack.enter_context(open_trace(arguments, image))
        return {}
    from simvirt.strategies.registry import REFERENCE, STRATEGIES, find

    chosen = STRATEGIES if names is None else [find(name) for name in names]
    traced = [strategy.info.name for strategy in chosen if strategy is not REFERENCE]
    opened = {
        name: stack.enter_context(open_trace(arguments, image, name if len(traced) > 1 else None)) for name in traced
    }
    return {name: listener for name, listener in opened.items() if listener is not None}


def _write_traces(
    listeners: dict[str, Listener], comparison: Comparison, arguments: Namespace, image: GuestImage
) -> None:
    """Run each strategy once more for its trace: the same guest under the same strategy takes the same exits again."""
    from simvirt.machine.machine import Outcome
    from simvirt.observe.session import run

    for ran in comparison.runs:
        listener = listeners.get(ran.strategy)
        if listener is not None and ran.outcome is not Outcome.INTERRUPTED:
            run(image, ran.strategy, trace=listener, **shared_arguments(arguments))
