"""`simvirt`: from words to a command, and from whatever happens to an exit status and a message."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING

from simvirt.cli.parser import COMMANDS, build_parser, check_command
from simvirt.cli.status import ExitStatus
from simvirt.errors import MonitorError, SimvirtError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The command `simvirt`; its exit status.

    Args:
        argv: the words after the command's name; by default the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    _accept_every_character()
    try:
        check_command(words)
        arguments = build_parser().parse_args(words)
    except SystemExit as end:  # argparse has printed its help, or what is wrong
        return end.code if isinstance(end.code, int) else ExitStatus.USAGE
    except SimvirtError as error:
        _complain(error)
        return ExitStatus.USAGE
    try:
        return _execute(arguments)
    finally:
        _flush()


def _execute(arguments: Namespace) -> int:
    module = import_module(COMMANDS[arguments.command].module)
    try:
        return int(module.execute(arguments))
    except BrokenPipeError:
        _abandon_output()
        return ExitStatus.OK
    except KeyboardInterrupt:
        print("simvirt: interrupted", file=sys.stderr)
        return ExitStatus.ABANDONED
    except SimvirtError as error:
        _trace(arguments)
        _complain(error)
        return ExitStatus.MONITOR if isinstance(error, MonitorError) else ExitStatus.USAGE
    except Exception as error:  # noqa: BLE001 - the last resort: a person gets a line, and --debug the traceback
        _trace(arguments)
        print(
            f"simvirt: unexpected {type(error).__name__}: {error}\n"
            "This is a fault of simvirt, not of the guest. The same command with --debug shows where it happened; "
            "please report that.",
            file=sys.stderr,
        )
        return ExitStatus.MONITOR


def _trace(arguments: Namespace) -> None:
    if arguments.debug:
        import traceback

        traceback.print_exc()


def _complain(error: SimvirtError) -> None:
    prefix = "simvirt: fault of the monitor: " if isinstance(error, MonitorError) else "simvirt: "
    print(f"{prefix}{error}", file=sys.stderr)


def _accept_every_character() -> None:
    """A guest may print what the terminal's encoding lacks; that is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    """What is still buffered meets a closed pipe here, and not at the interpreter's end, where nobody can catch it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_output()


def _abandon_output() -> None:
    """Whoever read the output has gone: send the rest nowhere."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a real file, as under a test
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
