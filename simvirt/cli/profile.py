"""`simvirt profile`: where the time of a guest and of its VMM goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simvirt.cli.options import add_boot_options, add_shared_options, boot_image, shared_arguments
from simvirt.cli.output import print_json, print_result
from simvirt.cli.progress import ProgressLine
from simvirt.cli.run import report_faults
from simvirt.cli.values import positive_count
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.cli.status import ExitStatus


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt profile`."""
    add_boot_options(parser)
    parser.add_argument(
        "--strategy", metavar="STRATEGY", default="bare-metal", help="how to run it (default: bare-metal)"
    )
    parser.add_argument(
        "--every",
        metavar="N",
        type=positive_count,
        help="instructions between two samples (default: 101, and more as the run goes on)",
    )
    parser.add_argument(
        "--flame-graph", metavar="FILE", help="write the call stacks as a picture (SVG), which a browser shows"
    )
    parser.add_argument("--folded", metavar="FILE", help="write the call stacks as text, for flame-graph programs")
    add_shared_options(parser)


def execute(arguments: Namespace) -> ExitStatus:
    """Run the guest, and print what its time went to."""
    from simvirt.observe.profile.flame_graph import flame_graph
    from simvirt.observe.session import profile

    image = boot_image(arguments)
    with ProgressLine(f"{image.name} under {arguments.strategy}", quiet=arguments.quiet) as progress:
        result = profile(
            image, arguments.strategy, every=arguments.every, progress=progress.report, **shared_arguments(arguments)
        )
    if arguments.flame_graph:
        _write(arguments.flame_graph, flame_graph(result))
    if arguments.folded:
        _write(arguments.folded, result.folded())
    if arguments.json:
        print_json(result.to_dict())
    elif not arguments.quiet:
        print_result(result)
    return report_faults(result.run, traceback=arguments.debug)


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from None
