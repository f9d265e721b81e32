"""`simvirt run`: a guest, or several that share the PC, and one strategy."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from simvirt.cli.console import LiveConsole, LiveConsoles
from simvirt.cli.options import add_boot_options, add_shared_options, boot_image, shared_arguments
from simvirt.cli.output import print_figures, print_json, print_result, print_screen
from simvirt.cli.progress import ProgressLine
from simvirt.cli.status import ExitStatus
from simvirt.cli.step_options import add_step_options, wants_stepping
from simvirt.cli.tracing import add_trace_options, open_trace
from simvirt.cli.values import positive_count
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.guests.image import GuestImage
    from simvirt.observe.results import Run


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt run`."""
    add_boot_options(parser)
    parser.add_argument(
        "others", metavar="GUEST", nargs="*", help="more guests: each gets a VM of its own, and they share the PC"
    )
    parser.add_argument(
        "--strategy",
        metavar="STRATEGY",
        default="bare-metal",
        help="how to run it (default: bare-metal)",
    )
    parser.add_argument(
        "--slice",
        metavar="N",
        type=positive_count,
        help="guest instructions of a turn, where several guests share the PC (default: 1e6)",
    )
    add_step_options(parser)
    parser.add_argument(
        "--interactive",
        action="store_true",
        help="this terminal is the guest's console; Ctrl-A X ends the run",
    )
    parser.add_argument("--screen", action="store_true", help="print what the display adapter shows at the end")
    add_shared_options(parser)
    add_trace_options(parser)


def execute(arguments: Namespace) -> ExitStatus:
    """Run the guest, and print what its run was."""
    if arguments.others:
        return _run_together(arguments)
    if arguments.slice is not None:
        raise UsageError("--slice is for several guests that share the PC: name another guest, or leave it out")
    image = boot_image(arguments)
    if arguments.interactive:
        result, console_shown = _run_interactively(image, arguments), True
    elif wants_stepping(arguments):
        from simvirt.cli.step import step_through

        result, console_shown = step_through(image, arguments), False
    else:
        from simvirt.observe.session import run

        with (
            open_trace(arguments, image) as listener,
            ProgressLine(f"{image.name} under {arguments.strategy}", quiet=arguments.quiet) as progress,
        ):
            console = LiveConsole(progress, wanted=not arguments.json)
            result = run(
                image,
                arguments.strategy,
                trace=listener,
                progress=progress.report,
                console=console.put,
                **shared_arguments(arguments),
            )
        console_shown = console.put is not None
    print_run(result, arguments, console_shown=console_shown)
    if arguments.screen and not arguments.json:
        print_screen(result)
    return report_faults(result, traceback=arguments.debug)


def _run_together(arguments: Namespace) -> ExitStatus:
    """Several guests, each in a VM of its own.

    Raises:
        UsageError: an option that makes sense with one guest only.
    """
    from simvirt.guests.resolve import resolve
    from simvirt.observe.session import run_together
    from simvirt.observe.sharing import Watcher

    for name in ("interactive", "step", "break_at", "break_on", "append", "initrd", "boot", "symbols"):
        if getattr(arguments, name):
            raise UsageError(f"--{name.replace('_', '-')} is for one guest, and several were named: leave one out")
    slices = {} if arguments.slice is None else {"slice_instructions": arguments.slice}
    images = [resolve(name) for name in (arguments.guest, *arguments.others)]
    consoles = LiveConsoles(wanted=not arguments.json)
    with ExitStack() as traces:
        watchers = [
            Watcher(traces.enter_context(open_trace(arguments, image, str(number))), consoles.of(number))
            for number, image in enumerate(images, 1)
        ]
        together = run_together(images, arguments.strategy, watchers=watchers, **slices, **shared_arguments(arguments))
    consoles.finish()
    if arguments.json:
        print_json(together.to_dict())
    else:
        for number, result in enumerate(together.runs, 1):
            print(f"{'' if number == 1 else chr(10)}--- VM {number}: {result.guest}")
            print_run(result, arguments, console_shown=consoles.shown)
            if arguments.screen:
                print_screen(result)
        if not arguments.quiet:
            print(
                f"\n{together.slices:,} slices of {together.slice_instructions:,} instructions at most, "
                f"{together.world_switches:,} world switches"
            )
    return report_faults(*together.runs, traceback=arguments.debug)


def _run_interactively(image: GuestImage, arguments: Namespace) -> Run:
    """With the terminal as the guest's console.

    Raises:
        UsageError: there is no terminal, or an option that makes no sense with one.
    """
    from simvirt.cli.interactive import Terminal
    from simvirt.observe.session import run

    for name in ("json", "step", "break_at", "break_on"):
        if getattr(arguments, name):
            raise UsageError(
                f"--interactive talks to a person, --{name.replace('_', '-')} does not go with it: leave one out"
            )
    terminal = Terminal()
    with open_trace(arguments, image) as listener, terminal:
        console = LiveConsole(ProgressLine("", quiet=True), wanted=True)
        return run(
            image,
            arguments.strategy,
            trace=listener,
            console=console.put,
            live=terminal,
            **shared_arguments(arguments),
        )


def print_run(result: Run, arguments: Namespace, *, console_shown: bool) -> None:
    """As JSON, as the guest's console alone, or as console and tables; without the console if that was shown live."""
    if arguments.json:
        print_json(result.to_dict())
    elif console_shown:
        if result.console and not arguments.quiet:
            print("" if result.console.endswith("\n") else "\n")
        if not arguments.quiet:
            print_figures(result)
    elif arguments.quiet:
        sys.stdout.write(result.console)
    else:
        print_result(result)


def report_faults(*results: Run, traceback: bool = False) -> ExitStatus:
    """Whether the monitor itself has failed in one of the runs, and how; what the guest did is no failure."""
    faults = [(result.strategy, result.error) for result in results if result.error]
    for strategy, fault in faults:
        if traceback:
            sys.stderr.write(fault.traceback)
        print(f"simvirt: fault of the monitor under {strategy}: {fault.kind}: {fault.message}", file=sys.stderr)
    return ExitStatus.MONITOR if faults else ExitStatus.OK
