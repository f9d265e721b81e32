"""`simvirt pages`: how an address of a guest is translated at a moment of its run, and what is mapped where."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from simvirt.cli.options import add_boot_options, add_machine_options, boot_image, run_config
from simvirt.cli.output import print_json
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
        "--address", metavar="PLACE", help="a linear address, in hexadecimal, or a symbol: print its walk"
    )
    parser.add_argument("--plot", metavar="FILE", help="write the address spaces as a picture: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_machine_options(parser)


def execute(arguments: Namespace) -> ExitStatus:
    """Run the guest to the moment, and show the walk and the address spaces."""
    from simvirt.observe.address_spaces import address_spaces
    from simvirt.observe.dimensions import translate
    from simvirt.observe.interruption import StopOnInterrupt
    from simvirt.observe.names import address_named
    from simvirt.observe.numbers import counted
    from simvirt.observe.picture import check_format
    from simvirt.observe.show_walk import show_shadow_paging, show_spaces, show_translation
    from simvirt.observe.trial import Trial
    from simvirt.strategies.registry import find

    image = boot_image(arguments)
    if arguments.plot:
        check_format(arguments.plot)
    place = None if arguments.address is None else address_named(image, arguments.address)
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
    spaces = address_spaces(trial)
    translation = None if place is None else translate(trial, place)
    if arguments.plot:
        from simvirt.observe.plot_address_spaces import plot_address_spaces

        plot_address_spaces(spaces, arguments.plot)
    if arguments.json:
        print_json(
            {
                "schema": "simvirt.pages/1",
                "guest": image.name,
                "strategy": trial.strategy.info.name,
                "instruction": trial.count,
                "address_spaces": spaces.to_dict(),
                "translation": None if translation is None else translation.to_dict(),
                "shadow_paging": asdict(trial.log.shadow_paging),
            }
        )
        return ExitStatus.OK
    print(spaces.title)
    lines = show_spaces(spaces) if translation is None else show_translation(translation)
    print("\n".join([*lines, *show_shadow_paging(trial.log.shadow_paging)]))
    return ExitStatus.OK
