"""The report as tables: in Markdown, which reads well in a terminal too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.figures import Figure, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.figures import Report, Section


def report(found: Report) -> str:
    """Everything: the machine, a table for each section, and what missed its target."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in found.host.items())]
    parts += [section_text(section) for section in found.sections]
    missed = [
        f"- {figure.subject}: {figure.quantity}: {cell(figure)}, wanted {figure.target}" for _, figure in found.missed
    ]
    parts.append("## Targets missed\n\n" + ("\n".join(missed) or "None."))
    return "\n\n".join(parts) + "\n"


def section_text(section: Section) -> str:
    """One section: a row for each quantity, a column for each subject."""
    subjects = list(dict.fromkeys(figure.subject for figure in section.figures))
    quantities = list(dict.fromkeys(figure.quantity for figure in section.figures))
    by_place = {(figure.quantity, figure.subject): figure for figure in section.figures}
    rows = [["", *subjects, "unit", "target", "met"]]
    for quantity in quantities:
        row = [by_place[quantity, subject] for subject in subjects if (quantity, subject) in by_place]
        cells = [cell(by_place[quantity, subject]) if (quantity, subject) in by_place else "" for subject in subjects]
        rows.append([quantity, *cells, _unit(row[0]), _target(row), _verdict(row)])
    notes = "\n".join(section.notes)
    return f"## {section.title}\n\n{table(rows)}\n\n{notes}".rstrip()


def cell(figure: Figure) -> str:
    """A value, with the median in brackets where it was taken."""
    if figure.unit is Unit.YES_OR_NO:
        return "yes" if figure.value else "no"
    value = number(figure.value)
    return value if figure.median is None else f"{value} ({number(figure.median)})"


def number(value: float) -> str:
    """Three digits that mean something, and no more.

    >>> number(0.03456), number(3.456), number(345.6), number(123456.0)
    ('0.035', '3.46', '346', '123,456')
    """
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def table(rows: list[list[str]]) -> str:
    """Aligned Markdown.

    >>> print(table([["", "a"], ["row", "1.5"]]))
    |     | a   |
    | --- | --- |
    | row | 1.5 |
    """
    widths = [max(3, *(len(text) for text in column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def _unit(figure: Figure) -> str:
    return "" if figure.unit is Unit.YES_OR_NO else figure.unit.value


def _target(row: Iterable[Figure]) -> str:
    texts = {"yes" if figure.unit is Unit.YES_OR_NO else str(figure.target) for figure in row if figure.target}
    return ", ".join(sorted(texts))


def _verdict(row: Iterable[Figure]) -> str:
    judged = [figure for figure in row if figure.met is not None]
    missed = [figure.subject for figure in judged if not figure.met]
    if not judged:
        return ""
    return f"not met: {', '.join(missed)}" if missed else "met"
