"""A run with a person at its console: input comes while the guest runs, and idle time passes as on the wall.

Only here does the host's clock enter a run. What the guest executes takes as long as it takes; but while it sleeps,
virtual time goes no faster than the wall's, so that a second's wait in the guest is a second for the person.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from simvirt.machine.machine import Outcome

if TYPE_CHECKING:
    from simvirt.machine.board import Board
    from simvirt.observe.trial import Trial

_FIRST_SLICE: Final = 1 << 16
_SLICE_SECONDS: Final = 0.02
_NS: Final = 1_000_000_000


class LiveInput(Protocol):
    """Where console input comes from while a guest runs."""

    @property
    def left(self) -> bool:
        """Does the person want the run to end?"""
        ...

    def wait(self, seconds: float | None) -> bytes:
        """What has been typed since the last call, waiting for it no longer than that; None waits for ever."""
        ...


class _Pace:
    """Lets a sleeping guest wait: what a board calls before it skips time (`Board.pace`)."""

    def __init__(self, board: Board, source: LiveInput) -> None:
        self._board = board
        self._source = source
        self._wall = time.monotonic()
        self._virtual = board.clock.now()

    def __call__(self, deadline: int) -> bool:
        now = time.monotonic()
        ahead = (deadline - self._virtual) / _NS - (now - self._wall)
        if ahead <= 0:  # the guest was busy and is late: it need not catch up
            self._wall, self._virtual = now, deadline
            return True
        data = self._source.wait(ahead)
        if self._source.left:
            return False
        if not data:
            return True
        passed = self._virtual + int((time.monotonic() - self._wall) * _NS)
        self._board.clock.skip_to(min(passed, deadline))
        self._board.input(data)
        return False


def drive_live(trial: Trial, source: LiveInput) -> None:
    """Run to the end, or until the person has had enough; that is the outcome `interrupted`."""
    machine, limit = trial.machine, trial.config.max_instructions
    machine.board.pace = _Pace(machine.board, source)
    size = _FIRST_SLICE
    while trial.count < limit:
        begin = time.perf_counter()
        outcome = trial.advance(min(limit, trial.count + size))
        waits = outcome is Outcome.WAITING_FOR_INPUT
        if outcome is not None and not waits:
            return
        elapsed = time.perf_counter() - begin
        size = max(size // 2, 1) if elapsed > 2 * _SLICE_SECONDS else size * 2 if elapsed < _SLICE_SECONDS else size
        data = source.wait(None if waits else 0)
        machine.resume()
        if source.left:
            machine.request_stop()
            trial.advance(limit)
            return
        if data:
            machine.board.input(data)
