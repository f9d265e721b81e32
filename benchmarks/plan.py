"""How much to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of everything that takes time.

    Attributes:
        rounds: how often each timing is taken.
        guests: names of the catalogue that are run to their end.
        repeated: microbenchmarks of the catalogue that are run to their end.
        iterations: rounds of a loop guest that makes one exit, or a few, each.
        stops: stops and steps of the control benchmark.
        processes: processes started to measure start-up.
        compared: guests that are compared whole.
        analyzed: the instruction set that is analyzed whole.
        boots_linux: is a whole kernel booted, where its files are?
    """

    rounds: int
    guests: tuple[str, ...]
    repeated: tuple[str, ...]
    iterations: int
    stops: int
    processes: int
    compared: tuple[str, ...]
    analyzed: str
    boots_linux: bool


FULL: Final = Plan(
    rounds=5,
    guests=("bench-sieve", "bench-sha256", "bench-dhrystone", "bench-priv"),
    repeated=("bench-int80", "bench-syscall", "bench-pgfault"),
    iterations=20_000,
    stops=2_000,
    processes=9,
    compared=("popf-mask", "bench-sieve"),
    analyzed="x86-32",
    boots_linux=True,
)
TINY: Final = Plan(
    rounds=1,
    guests=("hello",),
    repeated=("bench-int80",),
    iterations=20,
    stops=5,
    processes=1,
    compared=("hello",),
    analyzed="m68k",
    boots_linux=False,
)
"""To see whether the harness works; its figures mean nothing."""
