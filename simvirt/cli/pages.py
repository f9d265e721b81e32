"""`simvirt pages`: how an address of a guest is translated at a moment of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.cli.options import add_boot_options, add_machine_options, boot_image, run_config
from simvirt.cli.status import ExitStatus
from simvirt.cli.values import instruction_count
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt pages`."""
    add_boot_options(parser)
    parser.add_argument(
        "--strategy", metavar="STRATEGY", default="bare-metal", help="how to run it (default: bare-metal)"
    )
    parser.add_argument(
        "--at-instruction",
        metavar="N",
        type=instruction_count,
        required=True,
        help="the moment: when N instructions are retired",
    )
    parser.add_argument(
        "--address", metavar="PLACE", required=True, help="the linear address, in hexadecimal, or a symbol"
    )
    add_machine_options(parser)


def execute(arguments: Namespace) -> ExitStatus:
    """Run the guest to the moment, and print the walk."""
    from simvirt.observe.dimensions import translate
    from simvirt.observe.interruption import StopOnInterrupt
    from simvirt.observe.names import address_named
    from simvirt.observe.numbers import counted
    from simvirt.observe.show_walk import show_translation
    from simvirt.observe.trial import Trial
    from simvirt.strategies.registry import find

    image = boot_image(arguments)
    place = address_named(image, arguments.address)
    trial = Trial(image, find(arguments.strategy), run_config(arguments))
    with StopOnInterrupt() as stop:
        stop.watch(trial.machine)
        outcome = trial.advance(arguments.at_instruction)
    if trial.count < arguments.at_instruction:
        why = "" if outcome is None else f": {outcome.value}"
        raise UsageError(
            f"{image.name} under {trial.strategy.info.name} retires only {counted(trial.count, 'instruction')}{why}; "
            f"give --at-instruction {trial.count:,} or less"
        )
    print(f"{image.name} under {trial.strategy.info.name}, after {counted(trial.count, 'instruction')}")
    print("\n".join(show_translation(translate(trial, place))))
    return ExitStatus.OK
