"""`simvirt new`: the source of a guest of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simvirt.cli.status import ExitStatus

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt new`."""
    parser.add_argument("name", metavar="NAME", help="the guest's name: letters, digits, '-' and '_'")
    parser.add_argument("--language", choices=("c", "assembly"), default="c", help="what to write it in (default: c)")
    parser.add_argument("--directory", metavar="DIRECTORY", type=Path, default=Path(), help="where its folder goes")


def execute(arguments: Namespace) -> ExitStatus:
    """Write the files, and say what to do with them."""
    from simvirt.guests.template import Language, new

    language = Language.ASSEMBLY if arguments.language == "assembly" else Language.C
    files = new(arguments.name, arguments.directory, language)
    for file in files:
        print(file)
    folder = files[0].parent
    image = folder / f"{arguments.name}.elf"
    print(f"\nnext:\n  simvirt build {folder}\n  simvirt run {image}\n  simvirt compare {image}")
    return ExitStatus.OK
