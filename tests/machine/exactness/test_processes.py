"""Nothing of the host enters a run: two processes, one of them on a busy machine, give byte-identical traces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.exactness import STRATEGIES

_BUSY = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: sum(i * i for i in range(1000))"


@contextmanager
def _busy_processors() -> Iterator[None]:
    """More work than the host has processors for."""
    busy = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()


def _trace(repository: Path, guest: str, strategy: str, stride: int, end: int, hash_seed: int) -> bytes:
    command = [sys.executable, "-m", "tests.support.print_trace", guest, strategy, str(stride), str(end)]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.run(command, capture_output=True, check=True, cwd=repository, env=environment).stdout


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("guest", "stride", "end"), [("500", 97, 6000), ("ticker", 150, 5000), ("bench-priv", 30_000, 150_000)]
)
def test_a_busy_host_does_not_change_a_trace(
    guest: str, stride: int, end: int, strategy: str, repository: Path
) -> None:
    quiet = _trace(repository, guest, strategy, stride, end, 1)
    with _busy_processors():
        busy = _trace(repository, guest, strategy, stride, end, 2)
    assert quiet == busy
    assert quiet.count(b"\n") > 5


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("guest", [*map(str, range(510, 530)), "bench-priv", "rings", "faults"])
def test_a_busy_host_does_not_change_many_traces(guest: str, strategy: str, repository: Path) -> None:
    quiet = _trace(repository, guest, strategy, 997, 50_000, 1)
    with _busy_processors():
        busy = _trace(repository, guest, strategy, 997, 50_000, 2)
    assert quiet == busy
