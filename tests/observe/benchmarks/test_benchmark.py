"""What ``isa/benchmarks.toml`` holds: the paper's table, and a row for every microbenchmark of the catalogue."""

from __future__ import annotations

import pytest

from simvirt.errors import UnknownNameError
from simvirt.guests import catalogue
from simvirt.observe.benchmarks.benchmark import Combination, GuestRounds, SystemRounds, benchmarks
from simvirt.observe.costs import NativeOperation

# Adams & Agesen 2006, section 6.3: native, software VMM, hardware VMM.
PAPER = {
    "syscall": (242, 2308, 246),
    "in": (3209, 216, 15826),
    "cr8wr": (150, 35, 177),
    "call/ret": (11, 51, 11),
    "pgfault": (1093, 3927, 11242),
    "divzero": (889, 3223, 1014),
    "ptemod": (1, 391, 12733),
}


def test_the_seven_of_the_paper_stand_as_printed() -> None:
    published = {
        one.name: one.published for one in benchmarks().benchmarks if one.published and not one.published.derived
    }
    assert {name: (p.native, p.software, p.hardware) for name, p in published.items()} == PAPER


def test_derived_numbers_are_the_means_that_they_say() -> None:
    """Of the appendix's ptemod P→NP (4, 17, 9154) and NP→P (5, 2121, 17020)."""
    published = benchmarks().find("ptemod-toggle").published
    assert published is not None
    means = [(down + up) // 2 for down, up in ((4, 5), (17, 2121), (9154, 17020))]
    assert [published.native, published.software, published.hardware] == means


def test_every_microbenchmark_of_the_catalogue_has_its_row() -> None:
    rows = {one.rounds.guest for one in benchmarks().benchmarks if isinstance(one.rounds, GuestRounds)}
    micro = {entry.name for entry in catalogue.guests() if "micro" in entry.tags}
    assert rows | {benchmarks().empty} == micro


def test_names_are_all_known() -> None:
    known = benchmarks()
    names = {one.name for one in known.benchmarks}
    assert len(names) == len(known.benchmarks)
    catalogue.find(known.system)
    measure = catalogue.find(known.system).source_folder.joinpath("programs", "measure.c").read_text(encoding="utf-8")
    for one in known.benchmarks:
        assert set(one.executed) <= {operation.value for operation in NativeOperation}
        if isinstance(one.rounds, Combination):
            assert set(one.rounds.parts) <= names
        if isinstance(one.rounds, SystemRounds):
            assert f'"{one.rounds.word}"' in measure


def test_find_by_name_and_by_guest() -> None:
    known = benchmarks()
    assert known.find("call/ret") is known.find("bench-callret")
    with pytest.raises(UnknownNameError, match="did you mean 'pgfault'"):
        known.find("pgfalt")
