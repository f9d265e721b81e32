"""How a run and its post-mortem look to a person: in a terminal (rich), as plain text, and in Jupyter.

The same tables everywhere. rich is imported when something is first shown, never with a result.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from simvirt.observe.counts import ExitCounts
from simvirt.observe.layout import labelled, table
from simvirt.observe.numbers import counted, share
from simvirt.observe.postmortem import PostMortem
from simvirt.observe.resource_control import ResourceControl
from simvirt.observe.results import Run
from simvirt.observe.showable import renders
from simvirt.vmm.exit_log import ATTEMPTS_KEPT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType
    from rich.table import Table

    from simvirt.machine.architectural_state import ArchitecturalState

_ATTEMPTS_SHOWN: Final = 4


@renders(Run)
def show_run(run: Run) -> RenderableType:
    """A run: console, outcome, counts."""
    from rich.console import Group
    from rich.text import Text

    return Group(Text(run.console.rstrip("\n")), Text(), show_figures(run)) if run.console else show_figures(run)


def show_figures(run: Run) -> RenderableType:
    """A run without its console, which a person has seen already."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(f"{run.guest} under {run.strategy}: {outcome_text(run)}", style="bold")]
    if run.error:
        parts.append(Text(f"{run.error.kind}: {run.error.message}", style="red"))
    numbers = run.counted
    rows: list[tuple[str, RenderableType]] = [
        (
            "counted",
            Text(
                f"{counted(numbers.instructions, 'instruction')}, {counted(numbers.interventions, 'exit')}, "
                f"{share(numbers.direct_fraction, 4)} executed directly"
            ),
        ),
        *_shadow_paging(numbers.shadow_paging),
        ("modelled", Text(f"{run.modelled.cycles:,} cycles on {run.modelled.preset}")),
        ("", Text(run.modelled.source, style="dim")),
        ("measured", Text(f"{run.measured.host_seconds:.3f} s on this host")),
    ]
    control = ResourceControl.of(run.attempts, run.pages_outside)
    if control.attempts:
        rows.append(("attempts", Text(f"to reach what was not given: {attempts_text(control)}")))
    parts.append(labelled(rows))
    if numbers.vm_exits:
        parts += [Text(), show_counts(ExitCounts.of(run))]
    if run.post_mortem:
        parts += [Text(), run.post_mortem]
    return Group(*parts)


def _shadow_paging(numbers: Mapping[str, int]) -> list[tuple[str, RenderableType]]:
    """Shadow page tables in one line, where there were any."""
    if not numbers:
        return []
    hidden, true, traced = (numbers[name] for name in ("hidden_faults", "true_faults", "traced_writes"))
    from rich.text import Text

    line = f"{counted(hidden, 'hidden fault')}, {counted(true, 'true fault')}, {counted(traced, 'traced write')}"
    return [("shadow paging", Text(line))]


def outcome_text(run: Run) -> str:
    """How a run ended, with the guest's status where it gave one."""
    return run.outcome.value + ("" if run.guest_status is None else f", guest status {run.guest_status}")


def attempts_text(control: ResourceControl) -> str:
    """Attempts by resource and by what became of them: the most frequent, and how many more there were."""
    total = sum(control.attempts.values())
    most = sorted(control.attempts.items(), key=lambda item: -item[1])
    texts = [
        f"{resource}, {disposition.name.lower()}" + (f" ({number:,} times)" if number > 1 else "")
        for (resource, disposition), number in islice(most, _ATTEMPTS_SHOWN)
    ]
    rest = sum(number for _, number in most[_ATTEMPTS_SHOWN:])
    kept = f"the first {total:,}" if total >= ATTEMPTS_KEPT else f"{total:,}"
    return f"{kept}: {'; '.join(texts)}" + (f"; and {rest:,} more" if rest else "")


@renders(ExitCounts)
def show_counts(counts: ExitCounts) -> Table:
    """Exit reasons with their share of exits and of modelled time."""
    grid = table()
    grid.add_column("exit reason", no_wrap=True)
    for heading in ("exits", "exits %", f"cycles ({counts.preset})", "cycles %", "average"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for row in counts.rows:
        grid.add_row(
            row.reason,
            f"{row.samples:,}",
            share(row.samples_share),
            f"{row.cycles:,}",
            share(row.cycles_share),
            f"{row.average_cycles:,.0f}",
        )
    return grid


@renders(PostMortem)
def show_post_mortem(found: PostMortem) -> RenderableType:
    """The chain of faults, and the last instructions with their registers."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text("Post-mortem", style="bold"), *map(Text, found.notes)]
    if found.faults:
        parts.append(Text("The chain of faults:"))
        parts.append(labelled((f"  {number}.", Text(str(fault))) for number, fault in enumerate(found.faults, 1)))
    if found.last:
        parts += [Text("The last instructions, and the registers before each:"), _instruction_table(found)]
    return Group(*parts)


def _instruction_table(found: PostMortem) -> Table:
    from rich.text import Text

    grid = table()
    grid.add_column("number", justify="right")
    grid.add_column("instruction")
    grid.add_column("registers")
    for step in found.last:
        number = Text(f"{step.instruction:,}", style="" if step.retired else "red")
        where = " ".join(part for part in (step.place.symbol, step.place.source) if part)
        instruction = Text(f"{step.place.address:08x}  {step.place.text}" + (f"\n{where}" if where else ""))
        grid.add_row(number, instruction, Text(_registers(step.state)))
    return grid


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
