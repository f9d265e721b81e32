"""How a comparison looks: the verdicts, what made the difference, the sites, and what was not compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.observe.comparison import Comparison, Equivalence
from simvirt.observe.layout import indented, labelled, table
from simvirt.observe.numbers import share, shown
from simvirt.observe.show import attempts_text, outcome_text
from simvirt.observe.showable import renders
from simvirt.observe.site_table import SiteTable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType
    from rich.table import Table

    from simvirt.observe.comparison import Verdict
    from simvirt.observe.results import Run

_NOTHING: Final = "–"
_MARKS: Final[Mapping[Equivalence, str]] = {
    Equivalence.EQUIVALENT: "green",
    Equivalence.DIVERGED: "red",
    Equivalence.UNDETERMINED: "yellow",
    Equivalence.NOT_APPLICABLE: "dim",
}
_LINE_SHOWN: Final = 60


@renders(Comparison)
def show_comparison(comparison: Comparison) -> RenderableType:
    """One row a strategy, then what made the difference."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_verdict_table(comparison), _number_table(comparison)]
    if not comparison.verdicts:
        parts.append(Text(f"Nothing was compared: {comparison.reference} is the reference itself."))
    for name, verdict in comparison.verdicts.items():
        if verdict.obstacle:
            parts += [Text(), Text(f"{name} cannot run this guest: {verdict.obstacle}")]
        if verdict.first_divergence:
            parts += [Text(), *_divergence(comparison, name, verdict)]
        parts += _properties(name, verdict)
    if comparison.sites:
        parts += [Text(), comparison.sites]
    if comparison.verdicts:
        parts += [Text(), labelled((label, Text(text, style="dim")) for label, text in _left_out(comparison))]
    return Group(*parts)


def _verdict_table(comparison: Comparison) -> Table:
    from rich.text import Text

    grid = table(title=f"{comparison.guest}: the three properties")
    for heading in ("strategy", "outcome", "equivalence"):
        grid.add_column(heading, no_wrap=True)
    for heading in ("direct", "innocuous exits", "violations"):
        grid.add_column(heading, justify="right", no_wrap=True)
    outcomes = {run.strategy: outcome_text(run) for run in comparison.runs}
    if comparison.reference in outcomes:
        grid.add_row(comparison.reference, outcomes[comparison.reference], Text("the reference", style="dim"))
    for name, verdict in comparison.verdicts.items():
        found = verdict.efficiency
        grid.add_row(
            name,
            outcomes.get(name, _NOTHING),
            Text(verdict.equivalence.value, style=_MARKS[verdict.equivalence]),
            _NOTHING if found.direct_fraction is None else share(found.direct_fraction),
            _NOTHING if found.innocuous_interventions is None else f"{found.innocuous_interventions:,}",
            f"{len(verdict.resource_control.violations):,}",
        )
    return grid


def _number_table(comparison: Comparison) -> Table:
    grid = table()
    grid.add_column("strategy", no_wrap=True)
    for heading in ("counted: instructions", "exits", "modelled: cycles", "measured: seconds*"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for run in comparison.runs:
        grid.add_row(
            run.strategy,
            f"{run.counted.instructions:,}",
            f"{run.counted.interventions:,}",
            f"{run.modelled.cycles:,}",
            f"{run.measured.host_seconds:.3f}",
        )
    grid.caption = "* with the stops at the checkpoints; `run` measures without them"
    grid.caption_justify = "left"
    return grid


def _divergence(comparison: Comparison, name: str, verdict: Verdict) -> list[RenderableType]:
    from rich.text import Text

    found = verdict.first_divergence
    assert found is not None
    reference = comparison.reference
    facts = [
        Text(f"{found.place}:  {found.mnemonic}"),
        Text(f"{found.component}: {shown(found.reference_value)} on {reference}, {shown(found.value)} on {name}"),
        Text(found.explanation),
    ]
    consoles = _consoles(comparison.run(reference), comparison.run(name))
    if consoles:
        facts.append(Text(consoles))
    return [
        Text(f"{name} parts from {reference} at instruction {found.instruction:,}", style="bold"),
        indented(*facts),
    ]


def _consoles(reference: Run, run: Run) -> str:
    """The first line in which the consoles differ; empty where none does."""
    mine, theirs = reference.console.splitlines(), run.console.splitlines()
    for number in range(max(len(mine), len(theirs))):
        pair = [lines[number] if number < len(lines) else None for lines in (mine, theirs)]
        if pair[0] != pair[1]:
            texts = [_NOTHING if line is None else repr(line[:_LINE_SHOWN]) for line in pair]
            return f"console, line {number + 1}: {texts[0]} on {reference.strategy}, {texts[1]} on {run.strategy}"
    return ""


def _properties(name: str, verdict: Verdict) -> list[RenderableType]:
    """What lies behind the numbers of efficiency and resource control."""
    from rich.text import Text

    parts: list[RenderableType] = []
    reasons = verdict.efficiency.innocuous_by_reason
    if reasons:
        listed = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
        parts += [Text(), Text(f"{name}, exits on innocuous instructions: {listed}")]
    control = verdict.resource_control
    if control.attempts:
        parts += [Text(), Text(f"{name}, attempts to reach what was not given: {attempts_text(control)}")]
    if control.violations:
        parts += [Text(), Text(f"{name} violates resource control:", style="red"), *map(Text, control.violations)]
    return parts


def _left_out(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """What was not compared, and what only through the VM map, in as few words as will do."""
    how_often = next((verdict.checkpoints for verdict in comparison.verdicts.values() if verdict.checkpoints), "")
    yield (
        "not compared",
        "timing; how much of the machine the VMM takes; what comes and goes between two checkpoints"
        + (f" ({how_often})" if how_often else ""),
    )
    for name, verdict in comparison.verdicts.items():
        if verdict.vm_map:
            rules = "; ".join(f"{rule.component}: {rule.mapping}" for rule in verdict.vm_map)
            yield "compared through the map", f"{name}: {rules}"


@renders(SiteTable)
def show_sites(sites: SiteTable) -> RenderableType:
    """Site against strategy."""
    from rich.console import Group
    from rich.text import Text

    grid = table(title="each site by itself, from the reference's state")
    grid.add_column("site")
    grid.add_column("instruction")
    grid.add_column(sites.reference)
    for strategy in sites.strategies:
        grid.add_column(strategy)
    for row in sites.rows:
        reference = row.reference or "nothing visible"
        cells: list[RenderableType] = [row.name, row.mnemonic, f"{reference} (1)" if row.idle else reference]
        for strategy in sites.strategies:
            effect = row.effects.get(strategy)
            if effect is None:
                cells.append(Text(_NOTHING, style="dim"))
            elif effect.same:
                cells.append(Text("same (1)" if row.idle else "same", style="dim" if row.idle else "green"))
            else:
                cells.append(Text(effect.shown, style="red"))
        grid.add_row(*cells)
    if not any(row.idle for row in sites.rows):
        return grid
    note = "(1) changes nothing from here, the stack pointer and by POPF flags of arithmetic apart: 'same' says little"
    return Group(grid, Text(note, style="dim"))
