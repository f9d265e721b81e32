"""The tree of errors that simvirt raises.

::

    SimvirtError
    ├── UsageError              what was asked for makes no sense here (exit status 2)
    │   ├── UnknownNameError    no guest, strategy, CPU model or cost preset of this name
    │   ├── ImageError          a file that is no guest image, or a broken one
    │   └── UnsupportedError    sound, but this host, build or strategy does not offer it
    ├── MonitorError            the monitor is at fault (exit status 3)
    │   └── EngineError         the CPU engine is missing, unverified or misbehaves
    └── SnapshotError           a snapshot that cannot be restored

A guest's own faults are no errors of this tree: they are delivered to the guest, and where they end it they stand in
the outcome of the run. Every error carries its data as attributes; the message is derived from them and says what
happened, why, and what to do.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


class SimvirtError(Exception):
    """Root of all errors that simvirt raises on purpose."""


class UsageError(SimvirtError):
    """The caller asked for something that makes no sense or cannot be read."""


class UnknownNameError(UsageError):
    """A name that the registry or catalogue of its kind does not hold.

    >>> raise UnknownNameError("strategy", "vxt", ["vtx", "bare-metal"])
    Traceback (most recent call last):
    ...
    simvirt.errors.UnknownNameError: unknown strategy 'vxt': did you mean 'vtx'? Known: bare-metal, vtx

    `aliases` are other names, which may be the nearest too but are not listed. Of more names than a person would read
    only the nearest are.
    """

    _MOST_LISTED: Final = 40

    def __init__(self, kind: str, name: str, known: Iterable[str], aliases: Iterable[str] = ()) -> None:
        self.kind = kind
        self.name = name
        self.known = tuple(sorted(known))
        spelled = {one.lower(): one for one in (*self.known, *aliases)}
        close = get_close_matches(name.lower(), spelled, n=4, cutoff=0.5)
        nearest = [spelled[one] for one in close]
        self.nearest = nearest[0] if nearest else None
        hint = f"did you mean '{self.nearest}'?" if nearest else "it is like none of those there are"
        if len(self.known) <= self._MOST_LISTED:
            hint += f"{' Known:' if nearest else ','} {', '.join(self.known)}"
        elif nearest[1:]:
            hint += f" Also like it: {', '.join(nearest[1:])}"
        elif not nearest:
            hint += f" ({len(self.known):,})"
        super().__init__(f"unknown {kind} '{name}': {hint}")


class ImageError(UsageError):
    """A guest image that cannot be used: unreadable, truncated, or of no known kind."""

    def __init__(self, path: str, reason: str, advice: str = "") -> None:
        self.path = path
        self.reason = reason
        self.advice = advice
        super().__init__(f"{path}: {reason}" + (f"; {advice}" if advice else ""))


class UnsupportedError(UsageError):
    """A sound request that this host, build or strategy does not offer."""


class MonitorError(SimvirtError):
    """The monitor, not the guest, is at fault: a bug in simvirt or in a strategy."""


class UnsupportedGuestError(MonitorError):
    """The guest did something sound that this strategy's monitor does not virtualize so far; another strategy may."""


class EngineError(MonitorError):
    """The CPU engine is missing, of an unverified version or platform, or behaved in a way that cannot be."""


class SnapshotError(SimvirtError):
    """A snapshot of an unknown version, of another machine, or damaged."""
