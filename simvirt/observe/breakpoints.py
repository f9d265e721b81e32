"""When does a guest first reach each of some addresses?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.breakpoints import Breakpoint
from simvirt.machine.machine import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from simvirt.observe.trial import Trial
    from simvirt.x86.addresses import Gva


def first_reached(trial: Trial, places: Iterable[Gva], limit: int) -> Mapping[Gva, int]:
    """Instructions that a fresh trial retires before each place that it reaches within `limit`."""
    breakpoints = trial.machine.processor.breakpoints
    reached: dict[Gva, int] = {}
    waiting = set(places)
    for place in sorted(waiting):
        breakpoints.insert(Breakpoint(place))
    while waiting and trial.advance(limit) is Outcome.BREAKPOINT:
        for point in breakpoints.hit:
            reached[point.address] = trial.count
            waiting.discard(point.address)
            breakpoints.remove(point)
        trial.machine.resume()
    return reached
