from __future__ import annotations

import pytest

from simvirt.observe.benchmarks.benchmark import GuestRounds, benchmarks
from simvirt.observe.benchmarks.results import BenchmarkTable
from simvirt.observe.benchmarks.session import compare_benchmarks

MICRO = [one.name for one in benchmarks().benchmarks if isinstance(one.rounds, GuestRounds)]


@pytest.fixture(scope="session")
def micro() -> BenchmarkTable:
    """The benchmarks with a guest of their own, under every strategy."""
    return compare_benchmarks(MICRO, rounds=20)


@pytest.fixture(scope="session")
def system() -> BenchmarkTable:
    """Some of the operating system's, with what a combination takes for itself."""
    return compare_benchmarks(["tutor: call", "tutor: fork", "tutor: switch"], ["bare-metal", "vtx"])
