"""`simvirt run --interactive`, on a real terminal: a pseudo-terminal, and the command at the other end of it."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Simvirt
from tests.support.console_guests import echo_by_interrupts, ticking_echo

PATIENCE = 60.0


class Session:
    """The command on a terminal of its own."""

    def __init__(self, guest: Path, *options: str) -> None:
        self.master, self.terminal = pty.openpty()
        self.before = termios.tcgetattr(self.terminal)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "simvirt", "run", str(guest), "--memory", "4M", "--interactive", *options],
            stdin=self.terminal,
            stdout=self.terminal,
            stderr=self.terminal,
            start_new_session=True,
        )
        self.seen = b""

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def expect(self, text: bytes) -> None:
        end = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], end - time.monotonic())
            assert ready, f"{text!r} did not come; what came is {self.seen!r}"
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen[self.seen.index(text) + len(text) :]

    def end(self) -> int:
        status = self.process.wait(PATIENCE)
        assert termios.tcgetattr(self.terminal) == self.before
        return status

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.terminal)


@pytest.fixture
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    guest = tmp_path / "echo.bin"
    guest.write_bytes(request.param)
    session = Session(guest)
    session.expect(b"Ctrl-A X")
    yield session
    session.close()


both = pytest.mark.parametrize(
    "session", [echo_by_interrupts(), ticking_echo()], indirect=True, ids=["idle", "ticking"]
)


@both
def test_what_is_typed_reaches_the_guest_and_the_guest_ends_the_run(session: Session) -> None:
    time.sleep(1)
    session.type(b"hello\x03")
    session.expect(b"hello\x03")
    session.type(b"\x01\x01")
    session.expect(b"\x01")
    session.type(b"q")
    session.expect(b"finished")
    assert session.end() == 0


@both
def test_ctrl_a_x_leaves(session: Session) -> None:
    time.sleep(1)
    session.type(b"ab")
    session.expect(b"ab")
    session.type(b"\x01x")
    session.expect(b"interrupted")
    assert session.end() == 0


@pytest.mark.parametrize("session", [ticking_echo()], indirect=True)
def test_a_signal_leaves_the_terminal_as_it_was(session: Session) -> None:
    time.sleep(1)
    session.type(b"ab")
    session.expect(b"ab")
    session.process.send_signal(signal.SIGTERM)
    assert session.end() == 128 + signal.SIGTERM


def test_it_needs_a_terminal(simvirt: Simvirt) -> None:
    result = simvirt("run", "hello", "--interactive")
    assert result.status == 2
    assert "needs a terminal" in result.err


def test_input_options(simvirt: Simvirt, tmp_path: Path) -> None:
    guest, text = tmp_path / "echo.bin", tmp_path / "text"
    guest.write_bytes(echo_by_interrupts())
    text.write_bytes(b"from a file\nq")
    small = ("run", str(guest), "--memory", "4M")
    assert simvirt(*small, "--quiet", "--input", r"a\tb\x21\nq").out == "a\tb!\nq"
    assert simvirt(*small, "--quiet", "--input-file", str(text)).out == "from a file\nq"
    assert simvirt(*small, "--json", "--input", "abc").json()["outcome"] == "waiting-for-input"
    for words in (("--input", r"\z"), ("--input-file", str(tmp_path / "none")), ("--keys", "<F99>")):
        result = simvirt(*small, *words)
        assert result.status == 2, words
        assert result.err
