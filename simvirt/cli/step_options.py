"""The options of `simvirt run --step`, apart from what does it: every command builds the parser, few do this."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_step_options(parser: ArgumentParser) -> None:
    """Options for looking at a run while it goes on."""
    stepping = parser.add_argument_group("stepping")
    stepping.add_argument(
        "--step",
        action="store_true",
        help="stop before the first instruction and read what to do from standard input; h lists the commands",
    )
    stepping.add_argument(
        "--break-at",
        metavar="PLACE",
        action="append",
        default=[],
        help="stop, as by --step, before the instruction at an address or symbol; more than once for more",
    )
    stepping.add_argument(
        "--break-on",
        metavar="EVENT",
        action="append",
        default=[],
        help="stop, as by --step, at exits of this reason, or when this vector is delivered: HLT, #PF, 0x20",
    )


def wants_stepping(arguments: Namespace) -> bool:
    """Do the options ask for a run that a person looks at?"""
    return bool(arguments.step or arguments.break_at or arguments.break_on)
