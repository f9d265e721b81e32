"""A trial that can be taken to any instruction, earlier ones included.

A machine here is deterministic: from the same state it does the same, to the last bit. So what was before is found by
going back to a checkpoint and running again up to it, and the last time that something happened by running again with
somebody who waits for it, stretch by stretch into the past.

::

    checkpoint ──── checkpoint ──── checkpoint ──── now
                        └─ restore, run ──> the last hit of a breakpoint before now

What comes from outside, console input or a register that a person has changed, ends the future that was known: behind
it stands a checkpoint that is never given up, and so it is there again on the way forward.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from simvirt.machine.breakpoints import Breakpoint
from simvirt.machine.machine import Outcome
from simvirt.observe.checkpoints import DEFAULT_BUDGET, Checkpoints
from simvirt.observe.code import code_bits, linear_address
from simvirt.observe.stops import (
    AtBeginning,
    AtBreakpoint,
    AtExit,
    AtHandler,
    AtWatchpoint,
    Ended,
    Interrupted,
    Position,
    Reached,
    StopReason,
    Stops,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simvirt.machine.breakpoints import DebuggerPoint
    from simvirt.machine.interrupts import Interruption
    from simvirt.observe.trial import Trial
    from simvirt.vmm.exit_log import ExitRecord

_CHUNK_SECONDS: Final = 0.05
"""Host time between two checkpoints, about."""
_FIRST_CHUNK: Final = 1 << 14
_SMALLEST_CHUNK: Final = 64
_SEARCHED_FIRST: Final = 1 << 12
"""Instructions before now that are searched first on the way back; each further stretch is `_WIDER` times as long."""
_WIDER: Final = 16
_NOTHING: Final = Stops()
_ALL_VECTORS: Final = frozenset(range(256))


class Timeline:
    """A trial, its past, and the part of its future that is known.

    Attributes:
        trial: the trial, at the present position.
        last_exit: the exit to the VMM made last before it, while `follow_exits` is set.
        follow_exits: keep `last_exit`; it costs some 20 µs an exit.
        asked_to_stop: asked now and then during a long run; true ends it.
    """

    def __init__(
        self,
        trial: Trial,
        *,
        follow_exits: bool = False,
        budget: int = DEFAULT_BUDGET,
        asked_to_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.trial = trial
        self.last_exit: ExitRecord | None = None
        self.follow_exits = follow_exits
        self.asked_to_stop = asked_to_stop
        self._breakpoints = trial.machine.processor.breakpoints
        self._stops = _NOTHING
        self._noted: StopReason | None = None
        self._chunk = _FIRST_CHUNK
        self._changed = False
        self._shown = len(trial.machine.board.console)
        self._on_console = trial.machine.board.on_console
        trial.machine.board.on_console = self._console
        trial.cpu.on_delivery = self._delivered
        self.checkpoints = Checkpoints(trial, budget)
        self._wait_for(_NOTHING)

    # ------------------------------------------------------------------------------------------------------- the now

    @property
    def position(self) -> Position:
        """Where the trial is."""
        state = self.trial.machine.processor.guest_state()
        return Position(self.trial.count, linear_address(state, code_bits(state)))

    @property
    def ended(self) -> bool:
        """Is the trial at its end, or at the last instruction that it may retire?"""
        return self.trial.outcome is not None or self.trial.count >= self.trial.config.max_instructions

    @property
    def beginning(self) -> int:
        """Instructions retired where the past begins."""
        return self.checkpoints.count_of(0)

    def check(self, stops: Stops) -> None:
        """Could the machine wait for all of these at once?

        Raises:
            UsageError: they are too many.
        """
        try:
            self._wait_for(stops)
        finally:
            self._wait_for(_NOTHING)

    def change(self) -> None:
        """Memory or registers have been changed from outside: what was known of the future is no longer true."""
        self._changed = True

    def raise_nmi(self) -> None:
        """An NMI, here and now: the guest's handler of vector 2 is next, unless one is being handled."""
        self.trial.machine.raise_nmi()
        self.change()

    def input(self, data: bytes) -> None:
        """Console input, here and now; a machine that waited for it can go on.

        Raises:
            MonitorError: this board has no serial port.
        """
        self.trial.machine.board.input(data)
        self.trial.machine.resume()
        self.change()

    # ------------------------------------------------------------------------------------------------------- forward

    def run(self, stops: Stops = _NOTHING, limit: int | None = None) -> StopReason:
        """Go forward to the first stop, to `limit` instructions in all, or to the end."""
        self._settle()
        most = self.trial.config.max_instructions
        self._arm(stops, shown=True)
        try:
            return self._run(most if limit is None else min(limit, most))
        finally:
            self._wait_for(_NOTHING)

    def step(self, instructions: int = 1) -> StopReason:
        """Go on by so many instructions; a single step is a delivery of an interrupt or exception, too."""
        if instructions > 1:
            return self.run(limit=self.trial.count + instructions)
        self._settle()
        self._arm(Stops(vectors=_ALL_VECTORS), shown=True)
        reason = self._run(min(self.trial.count + 1, self.trial.config.max_instructions))
        return Reached() if isinstance(reason, AtHandler) else reason

    def go_to(self, count: int) -> StopReason:
        """Go to the moment when `count` instructions are retired, and nothing that is due then has been delivered."""
        self._settle()
        index = self.checkpoints.index_at(count)
        if count <= self.trial.count or self.checkpoints.count_of(index) > self.trial.count:
            self._restore(index)
        if count < self.beginning:
            return AtBeginning()
        return self.run(limit=count)

    # ------------------------------------------------------------------------------------------------------- backward

    def step_back(self, instructions: int = 1) -> StopReason:
        """Undo so many instructions; a single step is a delivery, too."""
        here = self.position
        first = here.count - instructions
        if here.count <= self.beginning and not self._is_delivered(here):
            return AtBeginning()
        if instructions > 1:
            return self.go_to(first)
        self.go_to(max(first, self.beginning))
        before = self.position
        for at in self._steps(here.count):
            if at == here:
                break
            before = at
        return self._go_to(before)

    def run_back(self, stops: Stops) -> StopReason:
        """Go back to the last stop before here, or to the beginning.

        Where bytes that are watched were changed or accessed, the instruction that does it is then the next one.
        """
        self._settle()
        here = self.position
        index, end = self.checkpoints.index_at(here.count), here
        try:
            while True:
                start = self.checkpoints.count_of(index)
                for stretch in _stretches(start, end.count):
                    found = self._last_stop(index, stretch, end if stretch.stop == end.count else None, stops)
                    if found is not None:
                        return self._go_before(*found)
                if index == 0:
                    self._restore(0)
                    return AtBeginning()
                index -= 1
                end = Position(start, end.address)
        except _AskedToStop:
            self._go_to(here)
            return Interrupted()
        finally:
            self._wait_for(_NOTHING)

    def _last_stop(
        self, index: int, stretch: range, end: Position | None, stops: Stops
    ) -> tuple[StopReason, Position] | None:
        """The last stop in a stretch of instructions behind a checkpoint, and before `end` if it ends there."""
        self._restore(index)
        self._arm(_NOTHING, shown=False)
        self._run_quietly(stretch.start)
        self._arm(stops, shown=False)
        last: tuple[StopReason, Position] | None = None
        while True:
            reason = self._run_quietly(stretch.stop)
            if reason is None or isinstance(reason, Ended):
                break
            at = self.position
            if end is not None and at == end and not isinstance(reason, AtWatchpoint):
                return last
            last = reason, at
        if end is not None and self.position != end and self.position.count == end.count:
            # The end stands behind a delivery.
            self._arm(replace(stops, breakpoints=stops.breakpoints | {end.address}), shown=False)
            while (reason := self._run_quietly(end.count + 1)) is not None and not isinstance(reason, Ended):
                at = self.position
                if at == end or at.count > end.count:
                    break
                last = reason, at
        return last

    def _go_before(self, reason: StopReason, at: Position) -> StopReason:
        """To where a stop has been found; of a watchpoint, to the moment before the change or the access."""
        if isinstance(reason, AtWatchpoint):
            self.go_to(at.count)
            if self.position == at:
                self._go_to(at)
                self.step_back()
        else:
            self._go_to(at)
        return reason

    def _go_to(self, at: Position) -> StopReason:
        """To a position, on whichever side of a delivery."""
        self.go_to(at.count)
        if self.position != at:
            self._arm(Stops(frozenset({at.address})), shown=False)
            try:
                self._run_quietly(at.count + 1)
            finally:
                self._wait_for(_NOTHING)
        return Reached()

    def _is_delivered(self, here: Position) -> bool:
        """Is it the far side of a delivery?"""
        self.go_to(here.count)
        near = self.position
        if near != here:
            self._go_to(here)
        return near != here

    def _steps(self, count: int) -> Iterator[Position]:
        """The positions that single steps come to, as long as no more than `count` instructions are retired."""
        while self.trial.outcome is None:
            self.step()
            at = self.position
            if at.count > count:
                return
            yield at

    # ------------------------------------------------------------------------------------------------- the machinery

    def _run(self, limit: int) -> StopReason:
        """Forward, chunk by chunk, with checkpoints between them."""
        trial = self.trial
        while True:
            if trial.outcome is not None:
                return Ended(trial.outcome)
            if trial.count >= trial.config.max_instructions:
                return Ended(Outcome.LIMIT)
            if trial.count >= limit:
                return Reached()
            begin = time.perf_counter()
            size = self._chunk
            reason = self._advance(min(limit, trial.count + size))
            if reason is not None:
                return reason
            elapsed = time.perf_counter() - begin
            if elapsed < _CHUNK_SECONDS / 2:
                self._chunk = size * 2
            elif elapsed > _CHUNK_SECONDS * 2 and size > _SMALLEST_CHUNK:
                self._chunk = size // 2
            if trial.count < limit:
                self.checkpoints.take(self.last_exit)
                if self.asked_to_stop():
                    return Interrupted()

    def _run_quietly(self, limit: int) -> StopReason | None:
        """Over known ground, without new checkpoints; None at the limit.

        Raises:
            _AskedToStop: somebody outside asked for a stop.
        """
        trial = self.trial
        while trial.count < limit and trial.outcome is None:
            reason = self._advance(min(limit, trial.count + self._chunk))
            if isinstance(reason, Interrupted) or (trial.count < limit and self.asked_to_stop()):
                raise _AskedToStop
            if reason is not None:
                return reason
        return None if trial.outcome is None else Ended(trial.outcome)

    def _advance(self, limit: int) -> StopReason | None:
        """To the limit, or to the next checkpoint; why it stopped before, or what was met there."""
        trial, machine = self.trial, self.trial.machine
        known = self.checkpoints.next_count
        trial.advance(limit if known is None else min(limit, known))
        reason = self._met()
        if trial.outcome is Outcome.INTERRUPTED:
            reason = reason or Interrupted()
        if reason is not None:  # what was met may have asked for a stop that the limit has forestalled
            machine.resume()
            trial.cpu.forget_stop()
        if reason is not None:
            return reason
        if trial.outcome is not None and trial.outcome is not Outcome.WAITING_FOR_INPUT:
            return Ended(trial.outcome)
        if known is not None and trial.count == known:
            last_exit = self.checkpoints.pass_next()
            self.last_exit = last_exit if last_exit is not None else self.last_exit
        return None if trial.outcome is None else Ended(trial.outcome)

    def _met(self) -> StopReason | None:
        """What has made the machine stop."""
        noted, self._noted = self._noted, None
        if self.trial.outcome is not Outcome.BREAKPOINT:
            return noted
        for point in self._breakpoints.hit:
            if not isinstance(point, Breakpoint):
                return AtWatchpoint(point)
        return AtBreakpoint(self.position.address)

    def _arm(self, stops: Stops, *, shown: bool) -> None:
        """Wait for these from here on; not for a breakpoint at this very instruction if that has been `shown`."""
        self._wait_for(stops)
        self._noted = None
        self._breakpoints.go_on(self.position.address if shown else None)

    def _wait_for(self, stops: Stops) -> None:
        self._stops = stops
        wanted: set[DebuggerPoint] = {*map(Breakpoint, stops.breakpoints), *stops.watchpoints}
        present = set(self._breakpoints.points)
        for point in present - wanted:
            self._breakpoints.remove(point)
        for point in wanted - present:
            self._breakpoints.insert(point)
        self.trial.log.listener = self._exited if self.follow_exits or stops.exits else None

    def _settle(self) -> None:
        """Keep what has come from outside."""
        if self._changed:
            self._changed = False
            self.checkpoints.take(self.last_exit, pinned=True)

    def _restore(self, index: int) -> None:
        self.last_exit = self.checkpoints.restore(index)

    def _exited(self, record: ExitRecord) -> None:
        """The VMM deals with an exit."""
        self.last_exit = record
        if record.reason.name in self._stops.exits:
            self._note(AtExit(record))

    def _delivered(self, what: Interruption) -> None:
        """An interrupt or exception has been delivered to the guest."""
        if what.vector in self._stops.vectors:
            self._note(AtHandler(what.vector))

    def _note(self, reason: StopReason) -> None:
        self._noted = reason
        self.trial.machine.pause()

    def _console(self, byte: int) -> None:
        """Console output, shown when it is new."""
        if len(self.trial.machine.board.console) > self._shown:
            self._shown += 1
            if self._on_console is not None:
                self._on_console(byte)


class _AskedToStop(Exception):  # noqa: N818 - no error
    """Somebody outside asked for a stop."""


def _stretches(start: int, end: int) -> Iterator[range]:
    """Stretches of instructions from `end` back to `start`, each longer than the one before.

    >>> [(s.start, s.stop) for s in _stretches(0, 100_000)]
    [(95904, 100000), (30368, 95904), (0, 30368)]
    """
    size = _SEARCHED_FIRST
    while True:
        begin = max(start, end - size)
        yield range(begin, end)
        if begin == start:
            return
        end, size = begin, size * _WIDER
