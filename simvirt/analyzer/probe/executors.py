"""The executors that a command line can name: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

DASK: Final = "dask://"
CONNECT_SECONDS: Final = 5


@contextmanager
def open_executor(jobs: int | None = None, address: str | None = None) -> Iterator[Executor | None]:
    """Who is to do the work of a sweep: `jobs` processes here, by default one a processor, or a cluster.

    With one job there is nobody else, and None is given.

    Raises:
        UsageError: an address that is none, or where no cluster answers.
        UnsupportedError: a cluster is wanted, and `distributed` is not installed.
    """
    if address is not None:
        with _dask(address) as executor:
            yield executor
        return
    workers = (os.cpu_count() or 1) if jobs is None else jobs
    if workers == 1:
        yield None
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(_start_method())) as pool:
        yield pool


def _start_method() -> str:
    """Forking is quickest, and sound only while there is one thread."""
    return "fork" if threading.active_count() == 1 else "forkserver"


@contextmanager
def _dask(address: str) -> Iterator[Executor]:
    if not address.startswith(DASK) or not address.removeprefix(DASK).rpartition(":")[0]:
        raise UsageError(f"'{address}' is no executor: dask://HOST:PORT is the address of a Dask scheduler")
    try:
        import distributed
    except ImportError:
        raise UnsupportedError(
            "a Dask cluster needs the package distributed: pip install 'simvirt[dask]', here and on the workers"
        ) from None
    scheduler = address.replace(DASK, "tcp://", 1)
    try:
        with ThreadPoolExecutor(1) as thread:  # Jupyter's own thread has an event loop already
            thread.submit(asyncio.run, _greet(scheduler)).result()
        client = distributed.Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address} within {CONNECT_SECONDS} seconds ({str(error) or 'silence'}): "
            "start one with `dask scheduler`, and workers with `dask worker`, in the environment of simvirt"
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise UsageError(f"the Dask scheduler at {address} has no workers: start some with `dask worker`")
        yield client.get_executor(pure=False)


async def _greet(scheduler: str) -> None:
    """Shake hands and hang up: a `Client` waits for ever where somebody listens who says nothing.

    :raises OSError: nobody answers in time, or not as Dask's schedulers do.
    """
    from distributed.comm import connect

    comm = await asyncio.wait_for(connect(scheduler, timeout=CONNECT_SECONDS), CONNECT_SECONDS)
    await comm.close()
