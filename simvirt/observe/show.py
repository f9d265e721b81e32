"""How results look to a person: in a terminal (rich), as plain text, and in Jupyter. The same tables everywhere.

rich is imported when something is first shown, never with a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.observe.comparison import Comparison, Equivalence
from simvirt.observe.counts import ExitCounts
from simvirt.observe.numbers import shown
from simvirt.observe.postmortem import PostMortem
from simvirt.observe.results import Run
from simvirt.observe.showable import renders
from simvirt.observe.site_table import SiteTable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType
    from rich.table import Table

    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.observe.comparison import Verdict

_NOTHING: Final = "–"
_MARKS: Final[Mapping[Equivalence, str]] = {
    Equivalence.EQUIVALENT: "green",
    Equivalence.DIVERGED: "red",
    Equivalence.UNDETERMINED: "yellow",
    Equivalence.NOT_APPLICABLE: "dim",
}


@renders(Run)
def show_run(run: Run) -> RenderableType:
    """A run: console, outcome, counts."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    if run.console:
        parts += [Text(run.console.rstrip("\n")), Text()]
    status = "" if run.guest_status is None else f", guest status {run.guest_status}"
    parts.append(Text(f"{run.guest} under {run.strategy}: {run.outcome.value}{status}", style="bold"))
    if run.error:
        parts.append(Text(f"{run.error.kind}: {run.error.message}", style="red"))
    counted, modelled = run.counted, run.modelled
    parts.append(
        Text(
            f"counted   {counted.instructions:,} instructions, {counted.interventions:,} interventions, "
            f"{counted.direct_fraction:.4%} executed directly"
        )
    )
    parts.append(Text(f"modelled  {modelled.cycles:,} cycles on {modelled.preset}"))
    parts.append(Text(f"          {modelled.source}", style="dim"))
    parts.append(Text(f"measured  {run.measured.host_seconds:.3f} s on this host"))
    if counted.vm_exits:
        parts += [Text(), show_counts(ExitCounts.of(run))]
    if run.post_mortem:
        parts += [Text(), run.post_mortem]
    return Group(*parts)


@renders(ExitCounts)
def show_counts(counts: ExitCounts) -> Table:
    """Exit reasons with their share of exits and of modelled time."""
    table = _table()
    table.add_column("exit reason", no_wrap=True)
    for heading in ("samples", "samples %", f"cycles ({counts.preset})", "cycles %", "average"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in counts.rows:
        table.add_row(
            row.reason,
            f"{row.samples:,}",
            f"{row.samples_share:.2%}",
            f"{row.cycles:,}",
            f"{row.cycles_share:.2%}",
            f"{row.average_cycles:,.0f}",
        )
    return table


@renders(Comparison)
def show_comparison(comparison: Comparison) -> RenderableType:
    """A comparison: one row a strategy, then what made the difference."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_verdict_table(comparison), _number_table(comparison)]
    for name, verdict in comparison.verdicts.items():
        if verdict.obstacle:
            parts += [Text(), Text(f"{name} cannot run this guest: {verdict.obstacle}")]
        if verdict.first_divergence:
            parts += [Text(), *_divergence(name, comparison.reference, verdict)]
        violations = verdict.resource_control.violations
        if violations:
            parts += [Text(), Text(f"{name} violates resource control:", style="red"), *map(Text, violations)]
    if comparison.sites:
        parts += [Text(), comparison.sites]
    exemptions = dict.fromkeys(text for verdict in comparison.verdicts.values() for text in verdict.exemptions)
    if exemptions:
        parts += [Text(), Text("Not compared:", style="dim"), *(Text(f"  {text}", style="dim") for text in exemptions)]
    return Group(*parts)


def _verdict_table(comparison: Comparison) -> Table:
    from rich.text import Text

    table = _table(title=f"{comparison.guest}: the three properties")
    for heading in ("strategy", "outcome", "equivalence"):
        table.add_column(heading, no_wrap=True)
    for heading in ("direct", "innocuous exits", "violations"):
        table.add_column(heading, justify="right")
    for run in comparison.runs:
        if run.strategy == comparison.reference:
            table.add_row(run.strategy, run.outcome.value, Text("the reference", style="dim"))
    outcomes = {run.strategy: run.outcome.value for run in comparison.runs}
    for name, verdict in comparison.verdicts.items():
        found = verdict.efficiency
        table.add_row(
            name,
            outcomes.get(name, _NOTHING),
            Text(verdict.equivalence.value, style=_MARKS[verdict.equivalence]),
            _NOTHING if found.direct_fraction is None else f"{found.direct_fraction:.2%}",
            _NOTHING if found.innocuous_interventions is None else f"{found.innocuous_interventions:,}",
            f"{len(verdict.resource_control.violations):,}",
        )
    return table


def _number_table(comparison: Comparison) -> Table:
    table = _table()
    table.add_column("strategy", no_wrap=True)
    for heading in ("counted: instructions", "exits", "modelled: cycles", "measured: seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in comparison.runs:
        table.add_row(
            run.strategy,
            f"{run.counted.instructions:,}",
            f"{run.counted.interventions:,}",
            f"{run.modelled.cycles:,}",
            f"{run.measured.host_seconds:.3f}",
        )
    return table


def _divergence(name: str, reference: str, verdict: Verdict) -> list[RenderableType]:
    from rich.text import Text

    found = verdict.first_divergence
    assert found is not None
    return [
        Text(f"{name} parts from {reference} at instruction {found.instruction:,}", style="bold"),
        Text(f"  {found.place}:  {found.mnemonic}"),
        Text(f"  {found.component}: {shown(found.reference_value)} on {reference}, {shown(found.value)} on {name}"),
        Text(f"  {found.explanation}"),
    ]


@renders(PostMortem)
def show_post_mortem(found: PostMortem) -> RenderableType:
    """The chain of faults, and the last instructions with their registers."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text("Post-mortem", style="bold"), *map(Text, found.notes)]
    if found.faults:
        parts.append(Text("The chain of faults:"))
        parts += [Text(f"  {number}. {fault}") for number, fault in enumerate(found.faults, 1)]
    if found.last:
        parts += [Text("The last instructions, and the registers before each:"), _instruction_table(found)]
    return Group(*parts)


def _instruction_table(found: PostMortem) -> Table:
    from rich.text import Text

    table = _table()
    table.add_column("number", justify="right")
    table.add_column("instruction")
    table.add_column("registers")
    for step in found.last:
        number = Text(f"{step.instruction:,}", style="" if step.retired else "red")
        where = " ".join(part for part in (step.place.symbol, step.place.source) if part)
        instruction = Text(f"{step.place.address:08x}  {step.place.text}" + (f"\n{where}" if where else ""))
        table.add_row(number, instruction, Text(_registers(step.state)))
    return table


def _registers(state: ArchitecturalState) -> str:
    """General registers, flags and code segment in three lines."""
    components = list(state.components())
    wide = bool(components[8:16]) and any(value for _, value in components[8:16])
    general = components[: 16 if wide else 8]
    digits = 16 if wide else 8
    cells = [f"{name.lower()} {value:0{digits}x}" for name, value in general]
    rest = f"eflags {state.eflags:08x}  cs {state.segments[1].selector:04x}  ss {state.segments[2].selector:04x}"
    lines = [" ".join(cells[at : at + 4]) for at in range(0, len(cells), 4)]
    return "\n".join([*lines, rest])


@renders(SiteTable)
def show_sites(table: SiteTable) -> RenderableType:
    """Site against strategy."""
    from rich.text import Text

    grid = _table(title="each site by itself, from the reference's state")
    grid.add_column("site")
    grid.add_column("instruction")
    grid.add_column(table.reference)
    for strategy in table.strategies:
        grid.add_column(strategy)
    for row in table.rows:
        cells: list[RenderableType] = [row.name, row.mnemonic, row.reference or "nothing visible"]
        for strategy in table.strategies:
            effect = row.effects.get(strategy)
            if effect is None:
                cells.append(Text(_NOTHING, style="dim"))
            elif effect.same:
                cells.append(Text("same", style="green"))
            else:
                cells.append(Text(effect.shown, style="red"))
        grid.add_row(*cells)
    return grid


def _table(title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
