"""`simvirt build`: from source to an image that runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simvirt.cli.progress import WaitingLine
from simvirt.cli.status import ExitStatus

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt build`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        type=Path,
        nargs="+",
        help=".c and .S files, or a directory, of which all sources are taken",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the image (default: beside the first source, .elf)"
    )
    parser.add_argument(
        "--toolchain",
        choices=("auto", "zig", "gcc"),
        default="auto",
        help="what compiles (default: the ziglang package, else gcc)",
    )
    parser.add_argument(
        "--define",
        metavar="NAME",
        action="append",
        default=[],
        help="a name, or NAME=VALUE, that the preprocessor has defined; may be given more than once",
    )


def execute(arguments: Namespace) -> ExitStatus:
    """Build, and print the image's path."""
    from simvirt.guests.build import Toolchain, build

    toolchain = Toolchain.ZIGLANG if arguments.toolchain == "zig" else Toolchain(arguments.toolchain)
    output = arguments.output or _beside(arguments.source[0])
    with WaitingLine(f"building {output}"):
        image = build(arguments.source, output, toolchain, arguments.define)
    print(image)
    return ExitStatus.OK


def _beside(source: Path) -> Path:
    if source.is_dir():
        return source / f"{source.resolve().name}.elf"
    return source.with_suffix(".elf")
