"""docs/conformance.md: the table of what every check came to, made from a run of all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.conformance import expected
from tests.conformance.suite import SUITE, Guest, Place, results

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE: Final = Path(__file__).parents[2] / "docs" / "conformance.md"
_OURS: Final = (Place.BARE_METAL, Place.VTX, Place.TRAP_AND_EMULATE)
_TITLES: Final = (
    (Place.BARE_METAL, ""),
    (Place.TRAP_AND_EMULATE, "trap-and-emulate: "),
    (Place.QEMU, "QEMU: "),
)
_HEAD: Final = """\
# Conformance

What the simulated PC does where the manual says what a processor does: checks written from the SDM, in assembly, one
guest for each group (`tests/conformance/guests`). Each runs on every strategy that can run it, and under QEMU 7.2,
which tells whether the check itself is right; where QEMU departs from the manual, it says so. This page is made by
`python -m tests.conformance`, and a test compares it with a run.

`pass`: as the manual says. `deviation`: otherwise, for the reason given below the table and in
[Deviations](deviations.md). `-`: the strategy does not run such guests.
"""


def reason(identifier: str, place: Place) -> str | None:
    """Why a check is known to fail there, or None."""
    if place is Place.QEMU:
        return expected.QEMU.get(identifier)
    if place is Place.TRAP_AND_EMULATE and identifier in expected.UNVIRTUALIZED:
        return expected.UNVIRTUALIZED[identifier]
    return expected.DEVIATIONS.get(identifier)


def verdicts(guest: Guest, place: Place, folder: Path) -> dict[str, str]:
    """ "pass", "deviation", or what an unexpected failure looks like, for each check."""
    found = results(guest, place, folder)
    cells = {}
    for check in guest.checks:
        result = found.get(check.identifier, "not reached")
        if result == "pass":
            cells[check.identifier] = "pass"
        else:
            cells[check.identifier] = "deviation" if reason(check.identifier, place) else f"FAILS: {result}"
    return cells


def page(run: Callable[[Guest, Place], dict[str, str]]) -> str:
    """The whole page, from the verdicts that `run` gives for a guest and a place."""
    parts = [_HEAD]
    tables = {guest: {place: run(guest, place) for place in guest.places} for guest in SUITE}
    rows_of_ours = [row for table in tables.values() for place, row in table.items() if place in _OURS]
    cells = [cell for row in rows_of_ours for cell in row.values()]
    passed, deviate = cells.count("pass"), cells.count("deviation")
    checks = sum(len(guest.checks) for guest in SUITE)
    parts.append(
        f"{checks} checks, {len(cells)} runs of one on a strategy: {passed} pass, {deviate} are listed deviations, "
        f"{len(cells) - passed - deviate} fail.\n"
    )
    for guest, table in tables.items():
        parts.append(f"## {guest.name}\n\n{guest.title}\n")
        rows = ["| check | what the manual says | SDM | bare-metal | vtx | trap-and-emulate | QEMU |", "|" + "---|" * 7]
        for check in guest.checks:
            shown = (table[place][check.identifier] if place in table else "-" for place in (*_OURS, Place.QEMU))
            rows.append(f"| `{check.identifier}` | {check.title} | {check.section} | {' | '.join(shown)} |")
        parts.append("\n".join(rows) + "\n")
        parts.append(_reasons(guest))
    return "\n".join(part for part in parts if part)


def _reasons(guest: Guest) -> str:
    lines = []
    for check in guest.checks:
        for place, title in (
            (Place.BARE_METAL, ""),
            (Place.TRAP_AND_EMULATE, "trap-and-emulate: "),
            (Place.QEMU, "QEMU: "),
        ):
            why = reason(check.identifier, place)
            if place not in guest.places or why is None:
                continue
            if place is Place.TRAP_AND_EMULATE and check.identifier not in expected.UNVIRTUALIZED:
                continue
            lines.append(f"* `{check.identifier}`: {title}{why}.")
    return "\n".join(lines) + "\n" if lines else ""
