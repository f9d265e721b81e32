"""What single operations take: the microbenchmark guests, each to its end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Figure, Section, Unit, at_most
from benchmarks.machines import BARE, TAE, VTX, run_to_end
from benchmarks.timing import in_turns, tell
from simvirt.guests import catalogue

if TYPE_CHECKING:
    from benchmarks.figures import Target
    from benchmarks.plan import Plan
    from simvirt.guests.image import GuestImage

TIMES: Final = 100_000
"""How often each of these guests does its operation."""
WANTED: Final = at_most(12)
OPERATIONS: Final[tuple[tuple[str, str, str, Target | None], ...]] = (
    ("bench-int80", "system call (INT 0x80, IRET)", BARE, WANTED),
    ("bench-int80", "system call (INT 0x80, IRET)", VTX, None),
    ("bench-int80", "system call (INT 0x80, IRET)", TAE, None),
    ("bench-syscall", "system call (SYSCALL, SYSRET)", BARE, WANTED),
    ("bench-syscall", "system call (SYSCALL, SYSRET)", VTX, None),
    ("bench-pgfault", "page fault", BARE, WANTED),
    ("bench-pgfault", "page fault", VTX, None),
    ("bench-pgfault", "page fault", TAE, None),
)


def run(plan: Plan) -> Section:
    """Run each guest to its end; the time of its operations is all of it, start and loop included."""
    tell("operations")
    chosen = [row for row in OPERATIONS if row[0] in plan.repeated]
    images = {guest: catalogue.find(guest).image() for guest, *_ in chosen}
    timings = in_turns({row: partial(_seconds, images[row[0]], row[2]) for row in chosen}, plan.rounds)
    each = 1e6 / TIMES
    figures = []
    for row in chosen:
        _, quantity, strategy, target = row
        timing = timings[row]
        figures.append(Figure(strategy, quantity, timing.least * each, Unit.MICROSECONDS, timing.median * each, target))
    notes = (
        f"Guests that do it {TIMES:,} times, with handlers of some twenty instructions; processor time of the run.",
        "`simvirt compare --benchmarks` has the others, and what else is to be said of them.",
    )
    return Section("operations", f"System calls and page faults, {TIMES:,} each", tuple(figures), notes)


def _seconds(image: GuestImage, strategy: str) -> float:
    return run_to_end(image, strategy)[0]
