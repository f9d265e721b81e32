"""The guest's console on the terminal while it runs, character by character."""

from __future__ import annotations

import codecs
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from simvirt.cli.progress import ProgressLine

_NEWLINE: Final = 0x0A


class LiveConsoles:
    """The same for several guests that run in turns: line by line, each with the number of its VM before it."""

    def __init__(self, *, wanted: bool, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self.shown = wanted and self._stream.isatty()
        self._lines: dict[int, bytearray] = {}

    def of(self, number: int) -> Callable[[int], None] | None:
        """What takes the bytes that a VM prints."""
        if not self.shown:
            return None
        line = self._lines[number] = bytearray()

        def put(byte: int) -> None:
            line.append(byte)
            if byte == _NEWLINE:
                self._write(number)

        return put

    def finish(self) -> None:
        """All have ended: write what has not come to the end of its line."""
        for number, line in self._lines.items():
            if line:
                line.append(_NEWLINE)
                self._write(number)

    def _write(self, number: int) -> None:
        line = self._lines[number]
        self._stream.write(f"{number}| {line.decode('utf-8', 'backslashreplace')}")
        self._stream.flush()
        line.clear()


class LiveConsole:
    """Writes what a guest prints as it comes, where a person watches.

    `put` is what the library calls with each byte, None where nobody does: a pipe gets the console with the result.
    """

    def __init__(self, progress: ProgressLine, *, wanted: bool, stream: TextIO | None = None) -> None:
        self._progress = progress
        self._stream = sys.stdout if stream is None else stream
        self._decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode
        self.put: Callable[[int], None] | None = self._put if wanted and self._stream.isatty() else None

    def _put(self, byte: int) -> None:
        text = self._decode(bytes((byte,)))
        self._progress.clear()
        self._stream.write(text)
        self._stream.flush()
        self._progress.paused = text[-1:] != "\n"  # it would write over a line that is not finished
