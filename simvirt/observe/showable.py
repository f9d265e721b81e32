"""Results that show themselves: in a terminal (rich), as plain text, and in Jupyter.

A result is a value and knows nothing of tables. What draws it is registered for its type by the modules named here,
which are loaded, and rich with them, when something is first shown: never with a result.
"""

from __future__ import annotations

import io
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType

_RENDERERS: Final[dict[type, Callable[[Any], RenderableType]]] = {}
_RENDERERS_MODULES: Final = (
    "simvirt.observe.show",
    "simvirt.observe.show_comparison",
    "simvirt.observe.profile.show_profile",
    "simvirt.observe.benchmarks.show",
)
_TEXT_WIDTH: Final = 110

S = TypeVar("S")


def renders(kind: type[S]) -> Callable[[Callable[[S], RenderableType]], Callable[[S], RenderableType]]:
    """Register the decorated function as what draws values of `kind`."""

    def register(function: Callable[[S], RenderableType]) -> Callable[[S], RenderableType]:
        _RENDERERS[kind] = function
        return function

    return register


def _console(*, record: bool) -> Console:
    from rich.console import Console

    # A console that found itself in Jupyter, or told to be a terminal by FORCE_COLOR, would display what it captures.
    return Console(
        file=io.StringIO(),
        width=_TEXT_WIDTH,
        record=record,
        highlight=False,
        legacy_windows=False,
        force_jupyter=False,
        force_terminal=False,
    )


class Showable:
    """A value that prints well wherever it is printed."""

    __slots__ = ()

    def __rich__(self) -> RenderableType:
        for module in _RENDERERS_MODULES:
            import_module(module)
        return _RENDERERS[type(self)](self)

    def __str__(self) -> str:
        console = _console(record=False)
        with console.capture() as capture:
            console.print(self)
        return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").splitlines())

    def _repr_html_(self) -> str:
        console = _console(record=True)
        console.print(self)
        return console.export_html(inline_styles=True, code_format="<pre style='line-height:1.25'>{code}</pre>")
