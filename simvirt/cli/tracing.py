"""`--trace`: every exit of a run, with its cause, written to a file while the run goes on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from simvirt.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterator

    from simvirt.guests.image import GuestImage
    from simvirt.vmm.exit_log import ExitRecord

FORMATS: Final = ("kvm", "jsonl", "chrome")


def add_trace_options(parser: ArgumentParser) -> None:
    """`--trace` and `--trace-format`."""
    trace = parser.add_argument_group("trace")
    trace.add_argument("--trace", metavar="FILE", help="write every exit to the VMM into this file")
    trace.add_argument(
        "--trace-format",
        choices=FORMATS,
        help="lines as the kernel's kvm_exit events, JSON lines, or Chrome trace events for Perfetto (default: kvm)",
    )


@contextmanager
def open_trace(arguments: Namespace, image: GuestImage) -> Iterator[Callable[[ExitRecord], None] | None]:
    """What takes the exits of a run, None without `--trace`. The file is opened before anything runs.

    Raises:
        UsageError: the file cannot be written, or there is a format without a file.
    """
    if arguments.trace is None:
        if arguments.trace_format is not None:
            raise UsageError("--trace-format says how to write a trace, and --trace FILE is missing: give both or none")
        yield None
        return
    raise NotImplementedError(image)
