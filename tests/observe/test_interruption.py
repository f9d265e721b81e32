"""Ctrl-C ends a run soon, keeps what was found, and leaves everything as it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from simvirt.observe.interruption import StopOnInterrupt

PROGRAM = """
import json, signal, time
import simvirt
simvirt.run("hello")  # everything is loaded
before = signal.getsignal(signal.SIGINT)
print("ready", flush=True)
begin = time.time()
result = {call}
print(json.dumps([result.to_dict(), time.time(), signal.getsignal(signal.SIGINT) is before]))
"""


def interrupted(repository: Path, call: str) -> tuple[dict[str, object], float]:
    """What the call returned, and how long after the signal it did."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{call}", call)], stdout=subprocess.PIPE, text=True, cwd=repository
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        sent = time.time()
        process.send_signal(signal.SIGINT)
        result, ended, restored = json.loads(process.stdout.readline())
        assert process.wait(10) == 0
    assert restored
    return result, ended - sent


def test_a_run_ends_within_half_a_second_with_its_statistics(repository: Path) -> None:
    result, delay = interrupted(repository, 'simvirt.run("spin")')
    assert result["outcome"] == "interrupted"
    counted = result["counted"]
    assert isinstance(counted, dict)
    assert counted["instructions"] > 100_000
    assert delay < 0.5


def test_a_comparison_ends_too(repository: Path) -> None:
    result, delay = interrupted(repository, 'simvirt.compare("spin", ["vtx"])')
    verdicts, runs = result["verdicts"], result["runs"]
    assert isinstance(verdicts, dict)
    assert isinstance(runs, list)
    assert verdicts["vtx"]["equivalence"] == "undetermined"
    assert [run["outcome"] for run in runs] == ["interrupted", "interrupted"]
    assert delay < 1.0


class Machine:
    def __init__(self) -> None:
        self.stopped = 0

    def request_stop(self) -> None:
        self.stopped += 1


def test_what_is_watched_is_stopped_now_or_later() -> None:
    early, late = Machine(), Machine()
    before = signal.getsignal(signal.SIGINT)
    with StopOnInterrupt() as stop:
        stop.watch(early)
        signal.raise_signal(signal.SIGINT)
        assert (early.stopped, stop.requested) == (1, True)
        stop.watch(late)
        assert late.stopped == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopOnInterrupt() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_installs_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with StopOnInterrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
