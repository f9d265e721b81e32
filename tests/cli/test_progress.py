from __future__ import annotations

import io
import time

from simvirt.cli.progress import ProgressLine, WaitingLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_without_a_terminal_or_when_quiet() -> None:
    assert ProgressLine("run", stream=io.StringIO()).report is None
    assert ProgressLine("run", stream=Terminal(), quiet=True).report is None


def test_nothing_within_the_first_second() -> None:
    terminal = Terminal()
    with ProgressLine("run", stream=terminal) as progress:
        assert progress.report is not None
        progress.report(1000, 0.9)
    assert terminal.getvalue() == ""


def test_one_line_that_is_gone_at_the_end() -> None:
    terminal = Terminal()
    with ProgressLine("spin", stream=terminal) as progress:
        assert progress.report is not None
        progress.report(2_000_000, 1.0)
        progress.report(30_000_000, 2.0)
    lines = terminal.getvalue().split("\r")
    assert lines[1] == "spin: 2,000,000 instructions in 1 s (2.0 million a second)"
    assert lines[2].startswith("spin: 30,000,000 instructions in 2 s (15.0")
    assert lines[-2].strip() == ""
    assert lines[-1] == ""


def test_waiting() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    with WaitingLine("building x", stream=terminal, patience_seconds=0.01):
        while "\r" not in terminal.getvalue():
            time.sleep(0.01)
    assert terminal.getvalue().startswith("\rbuilding x: 0 s\r")
    assert terminal.getvalue().split("\r")[-2].strip() == ""
    with WaitingLine("building x", stream=pipe, patience_seconds=0.0):
        time.sleep(0.05)
    assert pipe.getvalue() == ""
    with WaitingLine("quick", stream=terminal):
        pass
    assert "quick" not in terminal.getvalue()
