from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from simvirt.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output, which must hold one JSON object and nothing else."""
        return json.loads(self.out)


class Simvirt(Protocol):
    """Calls the command in this process."""

    def __call__(self, *words: str) -> Result: ...


@pytest.fixture
def simvirt(capsys: pytest.CaptureFixture[str]) -> Simvirt:
    def call(*words: str) -> Result:
        status = main(words)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return call


class Process(Protocol):
    """Runs the command as a process of its own."""

    def __call__(self, *words: str, stdin: str = "", env: dict[str, str] | None = None) -> Result: ...


@pytest.fixture
def process(tmp_path: Path) -> Process:
    def call(*words: str, stdin: str = "", env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "simvirt", *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, **(env or {})},
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def flat(tmp_path: Path) -> FlatGuest:
    def write(code: bytes, name: str = "guest.bin") -> str:
        path = tmp_path / name
        path.write_bytes(code)
        return str(path)

    return write


class FlatGuest(Protocol):
    """Writes machine code into a flat image, whose path comes back."""

    def __call__(self, code: bytes, name: str = "guest.bin") -> str: ...
