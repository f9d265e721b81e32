"""`simvirt gdb`: a guest that waits for the debugger gdb."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from simvirt.cli.options import add_boot_options, add_shared_options, boot_image, run_config
from simvirt.cli.run import print_run, report_faults
from simvirt.cli.status import ExitStatus

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.gdb.registers import Layout
    from simvirt.gdb.session import End
    from simvirt.gdb.target import Target
    from simvirt.guests.image import GuestImage
    from simvirt.observe.trial import Trial

_DEFAULT_ADDRESS: Final = "127.0.0.1:1234"
_ELF_CLASS_AT, _ELF_64 = 4, 2


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt gdb`."""
    add_boot_options(parser)
    parser.add_argument(
        "--strategy", metavar="STRATEGY", default="bare-metal", help="how to run it (default: bare-metal)"
    )
    line = parser.add_argument_group("line to gdb").add_mutually_exclusive_group()
    line.add_argument(
        "--listen",
        metavar="ADDRESS",
        default=_DEFAULT_ADDRESS,
        help=f"wait at HOST:PORT, where port 0 is any that is free, or at a Unix socket (default: {_DEFAULT_ADDRESS})",
    )
    line.add_argument(
        "--stdio", action="store_true", help="standard input and output, for gdb's `target remote | simvirt gdb ...`"
    )
    parser.add_argument(
        "--registers",
        choices=("i386", "i8086", "x86-64"),
        help="the registers that gdb sees for the whole session (default: x86-64 for a 64-bit image, else i386)",
    )
    add_shared_options(parser)


def execute(arguments: Namespace) -> ExitStatus:
    """Serve gdb, one after the other, until one lets the guest go or ends it; then tell what the run was."""
    from simvirt.gdb.target import Target
    from simvirt.observe.costs import DEFAULT_COSTS, find_costs
    from simvirt.observe.timeline import Timeline
    from simvirt.observe.trial import Trial
    from simvirt.strategies.registry import find

    image = boot_image(arguments)
    costs = find_costs(arguments.costs or DEFAULT_COSTS)
    layout = _layout(image, arguments.registers)
    trial = Trial(image, find(arguments.strategy), run_config(arguments))
    target = Target(Timeline(trial), layout)
    if arguments.stdio:
        _serve_standard_streams(target)
        return ExitStatus.OK
    end = _serve_socket(target, arguments)
    result = _let_go(target, end).finish(costs)
    print_run(result, arguments, console_shown=False)
    return report_faults(result, traceback=arguments.debug)


def _layout(image: GuestImage, name: str | None) -> Layout:
    from simvirt.gdb.registers import I386, X86_64, find_layout

    if name is not None:
        return find_layout(name)
    if image.path is None:
        return I386
    with image.path.open("rb") as file:
        head = file.read(_ELF_CLASS_AT + 1)
    return X86_64 if head[:4] == b"\x7fELF" and head[_ELF_CLASS_AT:] == bytes((_ELF_64,)) else I386


def _serve_standard_streams(target: Target) -> None:
    """One gdb at the other end of a pipe; its end is the run's."""
    from simvirt.gdb.connection import Connection
    from simvirt.gdb.session import Session

    Session(Connection(sys.stdin.fileno(), sys.stdout.fileno()), target).serve()


def _serve_socket(target: Target, arguments: Namespace) -> End:
    """Whoever comes, until one lets the guest go or ends it; one that vanishes leaves it as it is for the next."""
    from simvirt.gdb.connection import Listener
    from simvirt.gdb.session import End, Session

    with Listener(arguments.listen) as listener:
        print(f"simvirt: waiting for gdb: target remote {listener.name}", file=sys.stderr, flush=True)
        while True:
            end = Session(listener.accept(), target).serve()
            if end is not End.GONE:
                print(f"simvirt: {end.value}", file=sys.stderr)
                return end
            target.clear()
            print(
                f"simvirt: {end.value}; the guest stays where it is. Waiting for the next: target remote "
                f"{listener.name}",
                file=sys.stderr,
                flush=True,
            )


def _let_go(target: Target, end: End) -> Trial:
    """The trial at its end: to which it runs when gdb has detached."""
    from simvirt.gdb.session import End
    from simvirt.observe.interruption import StopOnInterrupt

    trial = target.timeline.trial
    if end is End.DETACHED:
        with StopOnInterrupt() as stop:
            stop.watch(trial.machine)
            trial.advance(trial.config.max_instructions)
    elif trial.outcome is None:
        trial.machine.request_stop()
        trial.advance(trial.count + 1)
    return trial
