"""Tables and colours in plain text: columns that fit the terminal, and a pipe gets the same without colour."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from enum import Enum
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

_GAP: Final = 2
_NARROWEST: Final = 24
"""The last column is wrapped, but never to less than this."""
_PIPE_WIDTH: Final = 120


class Style(Enum):
    """A colour by its meaning; the value is the SGR parameter of ECMA-48."""

    GOOD = "32"
    BAD = "31"
    DOUBT = "33"
    STRONG = "1"
    FAINT = "2"


def coloured(stream: TextIO) -> bool:
    """Whether colours belong on a stream: a terminal, unless NO_COLOR is set (https://no-color.org) or it cannot."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: Style, stream: TextIO | None = None) -> str:
    """The text in a style, or as it is where colours do not belong."""
    return f"\x1b[{style.value}m{text}\x1b[0m" if coloured(stream or sys.stdout) else text


def width(stream: TextIO | None = None) -> int:
    """Columns there are: the terminal's, or a fixed number, so that what goes into a file is the same everywhere."""
    return shutil.get_terminal_size((_PIPE_WIDTH, 24)).columns if (stream or sys.stdout).isatty() else _PIPE_WIDTH


def wrapped(text: str, indent: str = "", stream: TextIO | None = None) -> str:
    """A paragraph that fits."""
    return textwrap.fill(text, max(width(stream), _NARROWEST), initial_indent=indent, subsequent_indent=indent)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Rows under a header, columns aligned; the last column is wrapped.

    >>> print(table(("guest", "does"), [("hello", "prints a line and exits")]))
    guest  does
    hello  prints a line and exits

    Args:
        header: the columns' titles.
        rows: the cells, as many in each row as there are titles.
        right: the numbers of the columns that hold numbers and are set flush right.
    """
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    before_last = sum(widths[:-1]) + _GAP * (len(widths) - 1)
    widths[-1] = min(widths[-1], max(width() - before_last, _NARROWEST))
    lines: list[str] = []
    for number, row in enumerate((header, *rows)):
        last = textwrap.wrap(row[-1], widths[-1]) or [""]
        cells = [
            cell.rjust(size) if index in right else cell.ljust(size)
            for index, (cell, size) in enumerate(zip((*row[:-1], last[0]), widths, strict=True))
        ]
        line = (" " * _GAP).join(cells).rstrip()
        lines.append(paint(line, Style.STRONG) if number == 0 else line)
        lines += [" " * before_last + more for more in last[1:]]
    return "\n".join(lines)
