"""`simvirt completion`: a script that completes commands, options, guests and strategies in a shell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from simvirt.cli.status import ExitStatus

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_SHELLS: Final = ("bash", "zsh", "fish")


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt completion`."""
    parser.add_argument("shell", choices=_SHELLS, help="the shell that the script is for")
    parser.epilog = "for bash, put this into ~/.bashrc:\n  source <(simvirt completion bash)"


def execute(arguments: Namespace) -> ExitStatus:
    """Print the script."""
    from simvirt.cli import shell_scripts
    from simvirt.cli.words import command_line

    writers = {"bash": shell_scripts.bash_script, "zsh": shell_scripts.zsh_script, "fish": shell_scripts.fish_script}
    sys.stdout.write(writers[arguments.shell](command_line()))
    return ExitStatus.OK
