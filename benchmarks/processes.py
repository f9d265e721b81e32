"""Programs that are measured from outside: their processor time and their wall time."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process took: wall seconds, processor seconds (its threads and the kernel included), and how it ended."""

    wall: float
    cpu: float
    status: int


def spend(command: Sequence[str], environment: Mapping[str, str] | None = None, cwd: str | None = None) -> Spent:
    """Run a program to its end; its output goes nowhere."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=cwd,
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)  # wait4 has taken it: Popen must not wait again
    return Spent(wall, usage.ru_utime + usage.ru_stime, process.returncode)
