"""The guest's console on the terminal while it runs, character by character."""

from __future__ import annotations

import codecs
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from simvirt.cli.progress import ProgressLine


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
