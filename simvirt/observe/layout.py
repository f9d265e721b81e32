"""The forms that results are shown in: tables, and paragraphs with a label in front."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType
    from rich.table import Table


def table(title: str | None = None) -> Table:
    """A table with a line under its headings."""
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def labelled(rows: Iterable[tuple[str, RenderableType]]) -> Table:
    """Labels, and beside each a text that is wrapped under itself."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for label, text in rows:
        grid.add_row(label, text)
    return grid


def indented(*parts: RenderableType) -> RenderableType:
    """Parts that are wrapped two columns to the right."""
    from rich.console import Group
    from rich.padding import Padding

    return Padding(Group(*parts), (0, 0, 0, 2))
