"""`--trace`: every exit of a run, with its cause, written to a file while the run goes on."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterator
    from typing import TextIO

    from simvirt.guests.image import GuestImage
    from simvirt.vmm.exit_log import ExitRecord

    Listener = Callable[[ExitRecord], None]

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
def open_trace(arguments: Namespace, image: GuestImage, strategy: str | None = None) -> Iterator[Listener | None]:
    """What takes the exits of a run, None without `--trace`. The file is opened before anything runs.

    Args:
        arguments: of the command.
        image: the guest, which has the names of places.
        strategy: put into the file's name, where one command writes several traces.

    Raises:
        UsageError: the file cannot be written, or there is a format without a file.
    """
    if arguments.trace is None:
        if arguments.trace_format is not None:
            raise UsageError("--trace-format tells how to write a trace, but not where: add --trace FILE")
        yield None
        return
    from simvirt.observe.trace import trace_writer

    path = Path(arguments.trace)
    if strategy is not None:
        path = path.with_name(f"{path.stem}.{strategy}{path.suffix}")
    with _writing(path):
        stream = path.open("w", encoding="utf-8")
    try:
        with _writing(path):
            writer = trace_writer(arguments.trace_format or FORMATS[0], stream, image)

        def listen(record: ExitRecord) -> None:
            with _writing(path):
                writer(record)

        yield listen
        with _writing(path):
            writer.close()
            stream.flush()
    finally:
        _close(stream)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """A file that cannot be written is the user's to put right, and no fault of the strategy that is traced."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot write the trace to {path}: {reason}; name another file") from None


def _close(stream: TextIO) -> None:
    """What did not fit on the device cannot be flushed by closing either; that has been reported."""
    with suppress(OSError):
        stream.close()
