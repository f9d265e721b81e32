"""What is due when: the deadlines of the devices, in virtual time.

A device registers each of its events once, by name, with the handler to call; after that it schedules and cancels by
the name. An event is pending at most once, so scheduling again moves it. The names and times are the whole state,
which is why a snapshot can hold it: the handlers come back when the devices of the restored board register them.

The order is total: the earlier deadline first, and among equal deadlines the event registered first. A PC has a
handful of events, so a dictionary that is searched when the earliest one changes is quicker here than a heap, and
`earliest`, which the machine's loop looks at before every entry, is a field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.errors import MonitorError, SnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Attention:
    """Whether whoever drives a board has to look at it again, for the devices have done more than answer.

    Most accesses to a device change nothing outside of it. This is set when a deadline has moved, when time has been
    skipped, when INTR has changed, or when the run is over; the driver clears it when it looks.
    """

    __slots__ = ("needed",)

    def __init__(self) -> None:
        self.needed = False


class EventQueue:
    """The pending events of one PC or VM.

    :ivar attention: needed as soon as the earliest deadline changes.
    :ivar earliest: the earliest deadline in nanoseconds; None when nothing is scheduled.

    >>> queue = EventQueue()
    >>> queue.register("tick", lambda: print("tick"))
    >>> queue.schedule("tick", 500)
    >>> queue.next_deadline()
    500
    >>> queue.run_due(499)
    >>> queue.run_due(500)
    tick
    >>> queue.next_deadline() is None
    True
    """

    __slots__ = ("_handlers", "_pending", "attention", "earliest")

    def __init__(self, attention: Attention | None = None) -> None:
        self.attention = Attention() if attention is None else attention
        self._handlers: dict[str, Callable[[], None]] = {}
        self._pending: dict[str, int] = {}
        self.earliest: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every registered event, in the order of registration."""
        return tuple(self._handlers)

    def pending(self, name: str) -> int | None:
        """When this event is due, in nanoseconds; None when it is not scheduled."""
        return self._pending.get(name)

    def register(self, name: str, handler: Callable[[], None]) -> None:
        """Make an event known. Its handler runs when it is due, and may schedule it again.

        Raises:
            MonitorError: the name is taken.
        """
        if name in self._handlers:
            raise MonitorError(f"event '{name}' is registered already: every event needs a name of its own")
        self._handlers[name] = handler

    def schedule(self, name: str, when_ns: int) -> None:
        """Let the event be due at `when_ns` instead of any time it had before. A time that has passed is due at once.

        Raises:
            MonitorError: no such event is registered.
        """
        if name not in self._handlers:
            raise MonitorError(f"event '{name}' is not registered: register it with its handler before scheduling it")
        pending, earliest = self._pending, self.earliest
        before = pending.get(name)
        pending[name] = when_ns
        if earliest is None or when_ns < earliest:
            self.earliest = when_ns
            self.attention.needed = True
        elif before == earliest:
            self._find_earliest()

    def cancel(self, name: str) -> None:
        """Let the event be due no more. One that is not scheduled stays so."""
        if self._pending.pop(name, None) == self.earliest:
            self._find_earliest()

    def next_deadline(self) -> int | None:
        """The earliest deadline in nanoseconds; None when nothing is scheduled."""
        return self.earliest

    def earliest_but(self, name: str) -> int | None:
        """The earliest deadline of all other events; None when nothing else is scheduled."""
        pending = self._pending
        if len(pending) == 1 and name in pending:
            return None
        return min((when for other, when in pending.items() if other != name), default=None)

    def run_due(self, now_ns: int) -> None:
        """Run, in order, every event due at `now_ns` or earlier, those that handlers schedule meanwhile included."""
        while (earliest := self.earliest) is not None and earliest <= now_ns:
            pending, first = self._pending, None
            for name, when in pending.items():
                if when == earliest:
                    if first is not None:  # a tie
                        first = next(name for name in self._handlers if pending.get(name) == earliest)
                        break
                    first = name
            assert first is not None
            del pending[first]
            self._find_earliest()
            self._handlers[first]()

    def clear(self) -> None:
        """Cancel everything; registrations stay."""
        self._pending.clear()
        self._find_earliest()

    def save(self) -> dict[str, int]:
        """The deadlines by event, in the order of registration."""
        return {name: self._pending[name] for name in self._handlers if name in self._pending}

    def restore(self, deadlines: Mapping[str, int]) -> None:
        """Replace everything scheduled by these deadlines.

        Raises:
            SnapshotError: an event that nothing here has registered; the queue is then as it was.
        """
        unknown = sorted(set(deadlines) - set(self._handlers))
        if unknown:
            raise SnapshotError(
                f"the snapshot schedules {', '.join(unknown)}, which no device of this machine has registered: "
                "restore it into a machine with the same devices"
            )
        self._pending = dict(deadlines)
        self._find_earliest()

    def _find_earliest(self) -> None:
        earliest = min(self._pending.values()) if self._pending else None
        if earliest != self.earliest:
            self.earliest = earliest
            self.attention.needed = True
