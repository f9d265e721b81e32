"""How far a run has come: one line on standard error, if that is a terminal, and nothing within the first second."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self, TextIO

_PATIENCE_SECONDS: Final = 1.0
_REPEAT_SECONDS: Final = 1.0


class ProgressLine:
    """A line that is written over and over, and gone at the end.

    Use it as a context manager; `report` is what the library calls, None where nobody would see it.
    """

    def __init__(self, what: str, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._shown = 0
        self.paused = False
        """The cursor stands in a line of somebody else's."""
        self.report: Callable[[int, float], None] | None = None if quiet or not self._stream.isatty() else self._report

    def _report(self, instructions: int, seconds: float) -> None:
        if seconds < _PATIENCE_SECONDS or self.paused:
            return
        speed = instructions / seconds / 1e6
        self.write(f"{self._what}: {instructions:,} instructions in {seconds:.0f} s ({speed:.1f} million a second)")

    def write(self, line: str) -> None:
        """Put this in place of what the line said before."""
        self._stream.write("\r" + line.ljust(self._shown))
        self._stream.flush()
        self._shown = len(line)

    def __enter__(self) -> Self:
        return self

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write("\r" + " " * self._shown + "\r")
            self._stream.flush()
            self._shown = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()


class WaitingLine:
    """The same for what cannot tell how far it is: that it goes on, and for how long already."""

    def __init__(self, what: str, *, stream: TextIO | None = None, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._line = ProgressLine(what, stream=stream)
        self._what = what
        self._patience_seconds = patience_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def _wait(self) -> None:
        seconds = self._patience_seconds
        finished = self._over.wait(seconds)
        while not finished:
            self._line.write(f"{self._what}: {seconds:.0f} s")
            finished = self._over.wait(_REPEAT_SECONDS)
            seconds += _REPEAT_SECONDS

    def __enter__(self) -> Self:
        if self._line.report is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._line.__exit__(kind, error, traceback)
