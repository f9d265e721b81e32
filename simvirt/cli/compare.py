"""`simvirt compare`: one guest, several strategies, and a verdict on each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.cli.options import add_shared_options, shared_arguments
from simvirt.cli.output import print_json, print_result
from simvirt.cli.progress import ProgressLine
from simvirt.cli.run import run_status
from simvirt.cli.values import positive_count

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.cli.status import ExitStatus


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt compare`."""
    parser.add_argument(
        "guest", metavar="GUEST", help="a guest's name, see `simvirt list guests`, or the path of an image"
    )
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


def execute(arguments: Namespace) -> ExitStatus:
    """Compare, and print what was found."""
    from simvirt.observe.session import ALL, compare

    names = [name.strip() for name in arguments.strategy.split(",") if name.strip()]
    strategies = ALL if not names or ALL in names else names
    with ProgressLine(f"comparing {arguments.guest}", quiet=arguments.quiet) as progress:
        comparison = compare(
            arguments.guest,
            strategies,
            interval=arguments.interval,
            progress=progress.report,
            **shared_arguments(arguments),
        )
    if arguments.json:
        print_json(comparison.to_dict())
    elif arguments.quiet:
        for name, verdict in comparison.verdicts.items():
            print(f"{name}: {verdict.equivalence.value}")
    else:
        print_result(comparison)
    return run_status(*comparison.runs)
