"""The two runs of a witness side by side, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.cli.table import Style, paint, table

if TYPE_CHECKING:
    from simvirt.analyzer.model.experiment import Witness
    from simvirt.analyzer.model.state import Architecture


def print_runs(witness: Witness, architecture: Architecture) -> None:
    """Both runs: what they came to, and each component that differs, changed, or shows it."""
    from simvirt.analyzer.report.runs import outcome_text, rows
    from simvirt.analyzer.report.tally import shows

    parts = {component.name: component.part.value for component in architecture.components}
    first, second = witness.observation.outcomes
    print(paint(f"{witness.shows.value}: {shows(witness)}", Style.STRONG))
    print(f"witness {witness.identifier}")
    cells = [
        (row.component, row.part, *(value or "same" for value in row.values), row.mark) for row in rows(witness, parts)
    ]
    outcomes = ("", "", "", outcome_text(first), "", outcome_text(second), "")
    print(table(("component", "part", "run 1: start", "end", "run 2: start", "end", ""), [outcomes, *cells]))
