"""A stock gdb with a script, against `simvirt gdb`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Gdb = Callable[..., str]


@pytest.fixture
def gdb(tmp_path: Path) -> Gdb:
    """Runs a script in gdb, which has attached to a guest through a pipe; gives what gdb says."""
    program = shutil.which("gdb")
    if program is None:
        pytest.skip("gdb is not installed")

    def run(guest: str, script: str, *options: str) -> str:
        command = " ".join([sys.executable, "-m", "simvirt", "gdb", guest, "--stdio", *options])
        path = tmp_path / "script.gdb"
        head = "set pagination off\nset confirm off\nset width 0\n"
        path.write_text(f"{head}target remote | {command}\n{script}\n")
        done = subprocess.run(
            [program, "-nx", "-batch", "-x", str(path)],
            capture_output=True, text=True, timeout=100, cwd=Path(__file__).parents[2], check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    return run
