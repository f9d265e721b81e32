"""Ctrl-C: an interrupt from the keyboard ends a run, and its statistics so far are a result like any other.

Python runs signal handlers between two of its own instructions. The engine gives control back to Python every few
milliseconds, so a guest that never ends is stopped well within half a second.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType


class Stoppable(Protocol):
    """What can be asked to stop soon; a machine is."""

    def request_stop(self) -> None:
        """Stop soon."""
        ...


class StopOnInterrupt:
    """For the time of a `with` block, SIGINT asks what is `watch`ed to stop.

    The second one raises `KeyboardInterrupt`, should the first not have helped. Outside the main thread, where Python
    allows no handlers, and where SIGINT is ignored, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        """SIGINT has arrived."""
        self._watched: list[Stoppable] = []
        self._previous: object = None
        self._installed = False

    def watch(self, *stoppables: Stoppable) -> None:
        """Stop these from now on instead of those watched before."""
        self._watched = list(stoppables)
        if self.requested:
            self._stop()

    def watch_too(self, stoppable: Stoppable) -> None:
        """Stop this one as well."""
        self.watch(*self._watched, stoppable)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.getsignal(signal.SIGINT)
            # None: a handler that Python did not install and could not put back.
            if self._previous is not None and self._previous != signal.SIG_IGN:
                signal.signal(signal.SIGINT, self._handle)
                self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)  # type: ignore[arg-type]  # as getsignal returned it
            self._installed = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._stop()

    def _stop(self) -> None:
        for stoppable in self._watched:
            stoppable.request_stop()
