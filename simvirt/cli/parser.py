"""The tree of commands and options: one table, from which the parser, the help and the completion scripts are made."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

import simvirt
from simvirt.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Command:
    """One command: where it is defined, and what it does in a line.

    The module has `add_arguments(parser)` and `execute(arguments) -> ExitStatus`.
    """

    name: str
    module: str
    summary: str


COMMANDS: Final[dict[str, Command]] = {
    command.name: command
    for command in (
        Command(
            "list",
            "simvirt.cli.listing",
            "show the guests, strategies, CPU models, cost presets or instruction sets there are",
        ),
        Command("run", "simvirt.cli.run", "run a guest by one strategy, and tell what it did and what it took"),
        Command(
            "compare", "simvirt.cli.compare", "run a guest by several strategies, and judge each; or single operations"
        ),
        Command("pages", "simvirt.cli.pages", "translate an address of a guest at a moment of its run, entry by entry"),
        Command(
            "profile", "simvirt.cli.profile", "run a guest by one strategy, and tell where its time and the VMM's went"
        ),
        Command("gdb", "simvirt.cli.gdb", "run a guest by one strategy under the debugger gdb, forward and back"),
        Command(
            "analyze", "simvirt.cli.analyze", "classify an instruction set against Popek and Goldberg, by experiment"
        ),
        Command("explain", "simvirt.cli.explain", "explain an instruction or a VM exit, with evidence"),
        Command("witness", "simvirt.cli.witness", "run the evidence for a claim about an instruction again"),
        Command("new", "simvirt.cli.new", "write the source of a guest of your own to start from"),
        Command("build", "simvirt.cli.build", "build a guest's image from C or assembly"),
        Command("doctor", "simvirt.cli.doctor", "check what works on this machine, and what is missing"),
        Command("completion", "simvirt.cli.completion", "print a script that completes simvirt's words in a shell"),
    )
}

_EPILOG: Final = """\
start here:
  simvirt run hello                 a guest on the bare PC
  simvirt compare popf-mask         why the x86 was hard to virtualize
  simvirt explain popf              the evidence for it, in two runs

exit status: 0 it ran, whatever the guest did; 2 wrong usage or unreadable guest; 3 fault of simvirt itself
"""


def build_parser() -> ArgumentParser:
    """The parser of the whole command line."""
    parser = ArgumentParser(
        prog="simvirt",
        description="Runs one guest by several virtualization strategies, and says from evidence what each does to it.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"simvirt {simvirt.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for command in COMMANDS.values():
        subparser = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary[0].upper() + command.summary[1:] + ".",
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        import_module(command.module).add_arguments(subparser)
        subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def check_command(words: Sequence[str]) -> None:
    """A misspelt command, before argparse lists all of them.

    Raises:
        UnknownNameError: there is no such command; the message names the nearest.
    """
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise UnknownNameError("command", words[0], COMMANDS)
