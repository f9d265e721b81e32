"""Hostile guests in processes of their own, watched by the wall clock: what dies or hangs is named by its seed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from tests.hostile.arena import Arena, Report
from tests.hostile.guests import hostile_guest

PATIENCE: Final = 60.0
"""Seconds of wall-clock time for one guest of 100,000 instructions. The slowest take two."""


@dataclass(frozen=True, slots=True)
class Death:
    """A worker did not survive a guest: the signal that ended it, or None when it hung."""

    seed: int
    signal: int | None

    def __str__(self) -> str:
        return f"seed {self.seed}: " + ("hangs" if self.signal is None else f"the process died of signal {self.signal}")


def _work(strategy: str, seeds: list[int], instructions: int, pipe: Connection, current: Any) -> None:
    arena = Arena(strategy)
    for seed in seeds:
        current.value = seed
        pipe.send(arena.run(hostile_guest(seed), instructions))
    pipe.send(None)


def run_all(strategy: str, seeds: Iterable[int], instructions: int) -> Iterator[Report | Death]:
    """Run all guests in one worker on one machine; after a death the rest goes to a new one."""
    context = multiprocessing.get_context("spawn")
    left = list(seeds)
    while left:
        receiver, sender = context.Pipe(duplex=False)
        current = context.Value("q", left[0])
        worker = context.Process(target=_work, args=(strategy, left, instructions, sender, current), daemon=True)
        worker.start()
        sender.close()
        done = 0
        death: Death | None = None
        try:
            while True:
                if not receiver.poll(PATIENCE):
                    death = Death(current.value, None)
                    break
                report = receiver.recv()
                if report is None:
                    break
                done += 1
                yield report
        except EOFError:
            worker.join(10)
            death = Death(current.value, -(worker.exitcode or 0))
        finally:
            worker.kill()
            worker.join()
        left = left[done:]
        if death is not None:
            yield death
            left = left[1:]


def run_all_in_parallel(strategy: str, seeds: Iterable[int], instructions: int) -> list[Report | Death]:
    """As `run_all`, with one worker for each processor of the host."""
    every, n = list(seeds), os.cpu_count() or 1
    with ThreadPoolExecutor(n) as pool:
        parts = pool.map(lambda i: list(run_all(strategy, every[i::n], instructions)), range(n))
        return [result for part in parts for result in part]
