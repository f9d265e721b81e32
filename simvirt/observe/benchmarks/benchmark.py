"""What is measured: the benchmarks of ``isa/benchmarks.toml``, with the published numbers of the same operations."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from simvirt.data import isa_directory
from simvirt.errors import MonitorError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

BENCHMARKS_FILE: Final = "benchmarks.toml"


@dataclass(frozen=True, slots=True)
class Published:
    """The paper's cycles for one operation.

    Attributes:
        native: on the bare machine.
        software: under the software VMM, which translates binary code.
        hardware: under the hardware VMM, which has VT-x without EPT.
        derived: how they were computed, where they are not printed as they stand.
    """

    native: int
    software: int
    hardware: int
    derived: str = ""


@dataclass(frozen=True, slots=True)
class GuestRounds:
    """An operation that a guest of the catalogue repeats: its rounds begin at its one symbol ``site_*``."""

    guest: str


@dataclass(frozen=True, slots=True)
class SystemRounds:
    """An operation that the program `measure` of the course's operating system repeats.

    Attributes:
        word: how the program is told.
    """

    word: str
    rounds: int


@dataclass(frozen=True, slots=True)
class Combination:
    """An operation that cannot be done by itself: a sum of others, each times a factor."""

    parts: Mapping[str, float]


Rounds = GuestRounds | SystemRounds | Combination


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One operation.

    Attributes:
        operation: what is done once, in words.
        executed: operations of one round that no counter shows, by the names of a cost preset's native costs.
        page_table_writes: writes of one round to page tables in use.
        differs: what is done otherwise than in the literature.
    """

    name: str
    operation: str
    rounds: Rounds
    published: Published | None = None
    executed: Mapping[str, int] = field(default_factory=dict)
    page_table_writes: int = 0
    differs: str = ""


@dataclass(frozen=True, slots=True)
class BenchmarkSet:
    """All benchmarks, in the order of the table.

    Attributes:
        paper: where the published numbers stand.
        empty: the guest whose loop does nothing.
        system: the guest in which `SystemRounds` are done.
    """

    benchmarks: tuple[Benchmark, ...]
    paper: str
    empty: str
    system: str

    def find(self, name: str) -> Benchmark:
        """The benchmark of this name, or that of this guest.

        Raises:
            UnknownNameError: there is none; the message names the nearest.
        """
        for benchmark in self.benchmarks:
            if name == benchmark.name or benchmark.rounds == GuestRounds(name):
                return benchmark
        raise UnknownNameError("benchmark", name, [benchmark.name for benchmark in self.benchmarks])


@cache
def benchmarks() -> BenchmarkSet:
    """What ``isa/benchmarks.toml`` says.

    Raises:
        MonitorError: the installed file is damaged.
    """
    path = isa_directory() / BENCHMARKS_FILE
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
        rows = tuple(_benchmark(row) for row in table["benchmark"])
        return BenchmarkSet(rows, table["paper"], table["empty"], table["system"])
    except (KeyError, TypeError, ValueError) as error:
        raise MonitorError(f"{path} is damaged ({error!r}): install simvirt again") from error


def _benchmark(row: dict[str, Any]) -> Benchmark:
    published = row.get("published")
    return Benchmark(
        name=row["name"],
        operation=row["operation"],
        rounds=_rounds(row),
        published=Published(**published, derived=row.get("derived", "")) if published else None,
        executed=row.get("executed", {}),
        page_table_writes=row.get("page_table_writes", 0),
        differs=row.get("differs", ""),
    )


def _rounds(row: dict[str, Any]) -> Rounds:
    if "guest" in row:
        return GuestRounds(row["guest"])
    if "measure" in row:
        return SystemRounds(row["measure"], row["rounds"])
    return Combination(row["combine"])
