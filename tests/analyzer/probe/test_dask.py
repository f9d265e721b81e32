"""A sweep on a Dask cluster of this machine, and clusters that are not there."""

from __future__ import annotations

import random
import socket
import warnings
from collections.abc import Iterator

import pytest

from simvirt.analyzer.probe.executors import open_executor
from simvirt.analyzer.probe.sweep import machine_of, sweep
from simvirt.errors import UsageError

distributed = pytest.importorskip("distributed", reason="the extra simvirt[dask] is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # distributed's own, of ports that are taken and the like


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two workers, each a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as started:
            yield str(started.scheduler_address).replace("tcp://", "dask://", 1)


def test_a_cluster_finds_what_is_found_here(cluster: str) -> None:
    forms = [form for form in machine_of("x86-32").forms() if form.group == "interrupt flag and IOPL"]
    forms += [
        machine_of("x86-32").form(name) for name in ("add-rm32-r32", "sgdt-m1632", "hlt", "int3", "lar-r32-r32m16")
    ]
    random.Random(4).shuffle(forms)
    told: list[int] = []
    with open_executor(address=cluster) as executor:
        there = sweep("x86-32", executor, forms=forms, progress=lambda done, _: told.append(done))
    assert there == sweep("x86-32", forms=forms)
    assert told[-1] == len(forms)


def test_an_address_that_does_not_answer() -> None:
    with (
        pytest.raises(UsageError, match=r"no Dask scheduler answers at dask://localhost:9"),
        open_executor(address="dask://localhost:9"),
    ):
        pass


def test_a_port_where_something_else_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"dask://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UsageError, match="no Dask scheduler answers"), open_executor(address=address):
            pass


def test_a_scheduler_without_workers() -> None:
    with distributed.LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as started:
        address = str(started.scheduler_address).replace("tcp://", "dask://", 1)
        with pytest.raises(UsageError, match="has no workers"), open_executor(address=address):
            pass
