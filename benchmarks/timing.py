"""Taking times so that they can be compared: in turns, because a busy machine's speed changes from minute to minute."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

from benchmarks.figures import Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

K = TypeVar("K")


def in_turns(contestants: Mapping[K, Callable[[], float]], rounds: int) -> dict[K, Timing]:
    """Time all contestants once a round, every other round in the opposite order.

    A contestant does its work and says how many seconds of it count, so that preparing costs nothing.

    >>> in_turns({"a": lambda: 1.0, "b": lambda: 2.0}, rounds=2)["b"]
    Timing(seconds=(2.0, 2.0))
    """
    seconds: dict[K, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        names = list(contestants)
        for name in reversed(names) if number % 2 else names:
            seconds[name].append(contestants[name]())
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Processor time that `work` takes in this process, the kernel's included.

    On an idle machine it is what the clock says; on a busy one it leaves out the waiting for a processor.
    """
    begin = time.process_time()
    work()
    return time.process_time() - begin


def wall_seconds(work: Callable[[], object]) -> float:
    """What the clock says."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def tell(text: str) -> None:
    """A line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)
