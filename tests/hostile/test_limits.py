"""What a run costs the host: address space, resident memory, and a console that a guest floods."""

from __future__ import annotations

import re
import resource
import subprocess
import sys

import pytest

from tests.hostile.arena import Arena
from tests.hostile.directed import guest
from tests.support.code import le

GIB = 1 << 30
STRATEGIES = ("bare-metal", "trap-and-emulate", "vtx")


def _limit_address_space() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (GIB, GIB))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_works_in_one_gibibyte_of_address_space(strategy: str) -> None:
    command = [sys.executable, "-m", "simvirt", "run", "hello", "--strategy", strategy]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, preexec_fn=_limit_address_space, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Hello from ring 0." in done.stdout


def test_a_comparison_works_in_one_gibibyte_of_address_space() -> None:
    command = [sys.executable, "-m", "simvirt", "compare", "hello", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, preexec_fn=_limit_address_space, check=False
    )
    assert done.returncode == 0, done.stderr


_RUN = """
import simvirt
from pathlib import Path
from simvirt.guests.flat import flat_image
# Writes to every page of 64 MiB but those below 1 MiB and its own, again and again.
code = bytes.fromhex("bf00001100 c60701 81c700100000 81ff00000004 72ef ebe8".replace(" ", ""))
run = simvirt.run(flat_image(code, "toucher"), {strategy!r}, memory="64M", max_instructions=20_000_000)
print(run.outcome.value)
print(Path("/proc/self/status").read_text())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_touches_64_mib_is_resident_in_250(strategy: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN.format(strategy=strategy)], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("limit")
    peak = re.search(r"VmHWM:\s*(\d+) kB", done.stdout)
    assert peak
    assert 64 << 10 < int(peak[1]) <= 250 << 10


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_machine_that_is_reused_does_not_grow(strategy: str) -> None:
    """New code at the same place, guest after guest: translations are thrown away, not kept."""
    arena = Arena(strategy)
    used: list[int] = []
    for turn in range(60):
        body = "".join(f"81 c0 {le(turn * 1000 + i)} ; add eax\n" for i in range(400))
        report = arena.run(guest(f"{body}f4 ; hlt"), 10_000)
        assert report.outcome == "halted"
        used.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert used[-1] - used[10] < 64 << 10
