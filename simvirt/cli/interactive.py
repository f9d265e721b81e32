"""`simvirt run --interactive`: the terminal as the guest's console.

The terminal is in raw mode, so every key, Ctrl-C too, goes to the guest; Ctrl-A is the way to simvirt itself: Ctrl-A X
ends the run, Ctrl-A Ctrl-A sends one Ctrl-A. However the run ends, the terminal is as it was.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from simvirt.errors import UsageError

if TYPE_CHECKING:
    from types import FrameType, TracebackType
    from typing import NoReturn, Self

ESCAPE: Final = 0x01
"""Ctrl-A."""
_LEAVE: Final = b"xX"
_HELP: Final = "Ctrl-A X ends the run, Ctrl-A Ctrl-A sends Ctrl-A"
_CHUNK: Final = 4096


class EscapeFilter:
    r"""Takes the escapes out of what is typed.

    >>> keys = EscapeFilter()
    >>> keys.feed(b"ls\x01\x01\r"), keys.left
    (b'ls\x01\r', False)
    >>> keys.feed(b"\x01"), keys.feed(b"xrest"), keys.left
    (b'', b'', True)
    """

    def __init__(self) -> None:
        self.left = False
        """Has Ctrl-A X been typed?"""
        self._escaped = False

    def feed(self, data: bytes) -> bytes:
        """What of this is for the guest; nothing behind the wish to leave is."""
        passed = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte in _LEAVE:
                    self.left = True
                    break
                if byte == ESCAPE:
                    passed.append(byte)
                # any other key behind Ctrl-A does nothing
            elif byte == ESCAPE:
                self._escaped = True
            else:
                passed.append(byte)
        return bytes(passed)


class Terminal:
    """The terminal of this process, raw while a `with` block lasts (`observe.live.LiveInput`)."""

    def __init__(self) -> None:
        """Look for a terminal; nothing is changed yet.

        Raises:
            UsageError: standard input or output is none.
        """
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError(
                "--interactive needs a terminal for standard input and output: "
                "give input from elsewhere with --input or --input-file"
            )
        self._descriptor = sys.stdin.fileno()
        self._keys = EscapeFilter()
        self._saved: list[Any] = []
        self._closed = False
        self._handlers: dict[int, Any] = {}

    @property
    def left(self) -> bool:
        """Has the person asked to leave, or gone away?"""
        return self._keys.left or self._closed

    def wait(self, seconds: float | None) -> bytes:
        """What has been typed, waiting for it no longer than that."""
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        if not ready:
            return b""
        try:
            data = os.read(self._descriptor, _CHUNK)
        except OSError:  # the terminal was hung up
            data = b""
        self._closed = not data
        return self._keys.feed(data)

    def __enter__(self) -> Self:
        import termios

        print(_HELP, file=sys.stderr)
        self._saved = termios.tcgetattr(self._descriptor)
        raw = termios.tcgetattr(self._descriptor)
        raw[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR | termios.IGNCR
            | termios.ICRNL | termios.IXON
        )  # fmt: skip
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, _end)
        termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, raw)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        import termios

        with suppress(termios.error):  # a terminal that was hung up
            termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, self._saved)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    """A signal that would end the process at once ends it as an exception does."""
    raise SystemExit(128 + number)
