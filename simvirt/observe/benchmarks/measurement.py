"""Running the benchmarks.

A guest's rounds are looked at from outside: where its loop begins and how long a round is, the bare machine tells, and
since time is instructions retired, the same window lies at the same instructions under every strategy. The guest prints
nothing and reads no clock, and a few thousand of its rounds are enough: in each the same things happen. The operating
system's program `measure` marks what it does on its console instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError, UsageError
from simvirt.machine.breakpoints import Breakpoint
from simvirt.machine.machine import Outcome
from simvirt.observe.benchmarks.expense import Expense, Moment
from simvirt.observe.sites import site_addresses
from simvirt.observe.trial import Trial
from simvirt.strategies.bare_metal import BareMetal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simvirt.guests.image import GuestImage
    from simvirt.observe.benchmarks.benchmark import SystemRounds
    from simvirt.observe.results import RunConfig
    from simvirt.strategies.strategy import Strategy
    from simvirt.x86.addresses import Gva

WARM_UP: Final = 100
"""Rounds before the window: translated code, the TLB and shadow page tables are then as they stay."""
SLICES: Final = 5
"""The window is timed in so many parts, and the quickest counts: other work of the host can only add to it."""
_LOOKED_AT: Final = 3
_ENOUGH: Final = 10**9
_BEGIN, _END = b"[]"
_WINDOWS: Final = 3
"""Of each of the operating system's: none, to know what the marks themselves take; and the rounds twice."""


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """A strategy cannot do it, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Window:
    """Where a guest's rounds are.

    Attributes:
        site: the address of a round's first instruction.
        first: instructions before the first round.
        length: instructions of a round.
    """

    site: Gva
    first: int
    length: int


def window_of(image: GuestImage, config: RunConfig) -> Window | NotApplicable:
    """Find the rounds of a guest on the bare machine, unless it ends before: for want of what this processor has not.

    Raises:
        UsageError: it has no rounds of one length at one symbol `site_*`.
    """
    sites = site_addresses(image)
    if len(sites) != 1:
        raise UsageError(f"{image.name} is no benchmark: its loop has to begin at its one symbol site_*")
    (site,) = sites.values()
    trial = Trial(image, BareMetal(), config)
    trial.machine.processor.breakpoints.insert(Breakpoint(site))
    reached: list[int] = []
    while len(reached) < _LOOKED_AT and trial.advance(_ENOUGH) is Outcome.BREAKPOINT:
        reached.append(trial.count)
        trial.machine.resume()
    if len(reached) < _LOOKED_AT and trial.outcome is Outcome.FINISHED:
        told = bytes(trial.machine.board.console).decode("ascii", "backslashreplace").strip()
        return NotApplicable(f"on the CPU model {config.cpu} {image.name} says: {told}")
    lengths = {after - before for before, after in pairwise(reached)}
    if len(reached) < _LOOKED_AT or len(lengths) != 1:
        raise UsageError(f"{image.name} is no benchmark: its rounds are not all of one length")
    return Window(site, reached[0], lengths.pop())


def expense_of_rounds(
    image: GuestImage, strategy: Strategy, config: RunConfig, window: Window, rounds: int
) -> Expense | NotApplicable:
    """One round of a guest's under a strategy: the mean of what is counted, the least of what is measured."""
    if (obstacle := strategy.obstacle(image)) is not None:
        return NotApplicable(obstacle)
    trial = Trial(image, strategy, config)
    part = max(1, rounds // SLICES)
    at = window.first + WARM_UP * window.length
    trial.advance(at)
    moments = [Moment.of(trial)]
    for _ in range(SLICES):
        at += part * window.length
        trial.advance(at)
        moments.append(Moment.of(trial))
    if trial.error is not None:
        return NotApplicable(trial.error.message)
    if trial.count != at or trial.machine.processor.guest_state().rip != window.site:
        raise MonitorError(f"{image.name} is not where it is on the bare machine after {at:,} instructions")
    quickest = min(after.seconds - before.seconds for before, after in pairwise(moments))
    whole = Expense.between(moments[0], moments[-1]).times(1 / (part * SLICES))
    return replace(whole, seconds=quickest / part)


def expenses_of_system(
    image: GuestImage, strategy: Strategy, config: RunConfig, wanted: Sequence[SystemRounds]
) -> list[Expense | NotApplicable]:
    """One of each operation that the program `measure` repeats, under a strategy."""
    if (obstacle := strategy.obstacle(image)) is not None:
        return [NotApplicable(obstacle)] * len(wanted)
    typed = "".join(f"measure {one.word} {times}\n" for one in wanted for times in (0, one.rounds, one.rounds))
    trial = Trial(image, strategy, replace(config, input=f"{typed}exit\n".encode()))
    marks: list[Moment] = []

    def look(character: int) -> None:
        if character in {_BEGIN, _END}:
            marks.append(Moment.of(trial))

    trial.machine.board.on_console = look
    trial.advance(_ENOUGH)
    if trial.error is not None:
        return [NotApplicable(trial.error.message)] * len(wanted)
    if len(marks) != 2 * _WINDOWS * len(wanted):
        raise MonitorError(
            f"{image.name} did not do what was asked of it: {bytes(trial.machine.board.console)[-80:]!r}"
        )
    windows = [Expense.between(marks[i], marks[i + 1]) for i in range(0, len(marks), 2)]
    return [_one_of(windows[_WINDOWS * i : _WINDOWS * (i + 1)], one.rounds) for i, one in enumerate(wanted)]


def _one_of(windows: Sequence[Expense], rounds: int) -> Expense:
    """From a window without rounds, and two with them."""
    marks, first, second = windows
    whole = first.plus(second).plus(marks, -2).times(1 / (2 * rounds))
    quickest = min(first.seconds, second.seconds) - marks.seconds
    return replace(whole, seconds=max(0.0, quickest) / rounds)
