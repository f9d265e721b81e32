"""What goes to standard output: JSON objects, and results that know how they look."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simvirt.observe.results import Run
    from simvirt.observe.showable import Showable


def print_json(value: Mapping[str, object]) -> None:
    """Exactly one object, indented, in ASCII: a guest may print bytes that no terminal should see."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_figures(result: Run) -> None:
    """A run without its console, to a terminal, which has seen that while the guest ran."""
    from rich.console import Console

    from simvirt.cli.table import coloured
    from simvirt.observe.show import show_figures

    plain = not coloured(sys.stdout)
    Console(highlight=False, legacy_windows=False, color_system=None if plain else "auto").print(show_figures(result))


def print_screen(result: Run) -> None:
    """The text of the guest's screen, in a frame."""
    if result.screen is None:
        print("the display is in a graphics mode, which is not drawn", file=sys.stderr)
        return
    edge = "+" + "-" * result.screen.columns + "+"
    print(edge)
    for line in result.screen.lines:
        print(f"|{line:<{result.screen.columns}}|")
    print(edge)


def print_result(result: Showable) -> None:
    """A result in colour where colours belong, and as plain text elsewhere, the same on every machine."""
    from simvirt.cli.table import coloured

    if not coloured(sys.stdout):
        print(result)
        return
    from rich.console import Console

    Console(highlight=False, legacy_windows=False).print(result)
