"""An analysis as a page of HTML, which is also what Jupyter shows of it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.coping import coping_rows
from simvirt.analyzer.report.critical import COLUMNS, critical_lines
from simvirt.analyzer.report.tally import Answer, by_group, totals

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simvirt.analyzer.model.analysis import Analysis

_STYLE: Final = """
.simvirt table { border-collapse: collapse; margin: 0.7em 0 }
.simvirt th, .simvirt td { border: 1px solid #bbb; padding: 0.15em 0.6em; text-align: left; vertical-align: top }
.simvirt td.n { text-align: right }
.simvirt .critical { background: #f8d0c8 }
.simvirt code { white-space: nowrap }
"""


def fragment(analysis: Analysis, *, only_critical: bool = False) -> str:
    """The analysis without the frame of a page."""
    info = analysis.info
    parts = [f"<style>{_STYLE}</style><div class='simvirt'><h2>{escape(info.title)}</h2>"]
    parts.append(f"<p>{escape(info.summary)}. {escape(analysis.engine)}. {escape(_counts(analysis))}.</p>")
    if not only_critical:
        header = ("group", "forms", *(one.value for one in Answer))
        groups = [
            (escape(tally.group), str(tally.total), *(str(tally.counts[one]) for one in Answer))
            for tally in by_group(analysis)
        ]
        parts.append(_table(header, groups, numbers=range(1, len(header))))
    parts.append("<h3>Critical: sensitive, and they do not trap</h3>")
    lines = [
        (
            escape(line.title),
            str(len(line.forms)),
            escape(", ".join(which.value for which in COLUMNS if line.has(which))),
            escape(line.seen),
            f"<code>{escape(line.witness.identifier)}</code>" if line.witness else "",
        )
        for line in critical_lines(analysis)
    ]
    parts.append(_table(("instruction", "forms", "properties", "seen", "witness"), lines, numbers=(1,)))
    parts.append("<h3>Theorems</h3>")
    verdicts = [
        (
            escape(verdict.theorem.value),
            verdict.hypothesis.value,
            str(len(verdict.critical)),
            escape(verdict.conclusion),
        )
        for verdict in analysis.theorems().values()
    ]
    parts.append(_table(("theorem", "hypothesis", "critical forms", "what follows"), verdicts, numbers=(2,)))
    if rows := coping_rows(analysis):
        names = [one.strategy for one in rows[0].copings]
        parts.append("<h3>What each strategy does about them</h3>")
        cells = [(escape(row.title), *(escape(one.text) for one in row.copings)) for row in rows]
        parts.append(_table(("instruction", *names), cells))
    parts.append("</div>")
    return "".join(parts)


def page(analysis: Analysis, *, only_critical: bool = False) -> str:
    """A page of its own."""
    title = escape(f"{analysis.info.name}: {analysis.info.title}")
    body = fragment(analysis, only_critical=only_critical)
    head = f"<head><meta charset='utf-8'><title>{title}</title></head>"
    return f"<!doctype html>\n<html lang='en'>{head}<body>{body}</body></html>\n"


def _counts(analysis: Analysis) -> str:
    counts = totals(analysis)
    return ", ".join(f"{count} {one.value}" for one, count in counts.items() if count)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    right = frozenset(numbers)
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    body = "".join(
        "<tr>" + "".join(f"<td{' class=n' if i in right else ''}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
