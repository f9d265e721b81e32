"""The board's way to the processor's NMI pin: error signals, collected, behind the mask in bit 7 of port 0x70.

The pin reacts to an edge (SDM Vol. 3A §6.3.1, §6.7). The gate's output rises when an error is signalled while the mask
is open, and when the mask is opened while one stands; a further error while the output is high already makes no NMI.
Nothing here is stored twice: who signals an error keeps it (`port_b`), and so does who masks it (`rtc`).

Source: IBM PC/AT Technical Reference, "System Board", "NMI Mask" and "Port B".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class NmiGate:
    """Error signals on one side, the edge on the NMI pin on the other; `rise` is called for each.

    >>> edges = []
    >>> gate = NmiGate(lambda: edges.append("NMI"))
    >>> gate.mask(True)
    >>> gate.signal(True)
    >>> edges
    []
    >>> gate.mask(False)
    >>> edges
    ['NMI']
    """

    __slots__ = ("_error", "_masked", "_rise")

    def __init__(self, rise: Callable[[], None]) -> None:
        self._rise = rise
        self._error = self._masked = False

    @property
    def open(self) -> bool:
        """Would an error signalled now make an edge?"""
        return not self._error and not self._masked

    @property
    def output(self) -> bool:
        """The level of the pin."""
        return self._error and not self._masked

    def signal(self, error: bool) -> None:
        """Some error stands, or none any more."""
        self._set(error, self._masked)

    def mask(self, masked: bool) -> None:
        """Keep errors from the pin, or let them through."""
        self._set(self._error, masked)

    def take_up(self, *, error: bool | None = None, masked: bool | None = None) -> None:
        """Put one of the inputs back as a snapshot has it: no edge."""
        self._error = self._error if error is None else error
        self._masked = self._masked if masked is None else masked

    def _set(self, error: bool, masked: bool) -> None:
        before = self.output
        self._error, self._masked = error, masked
        if self.output and not before:
            self._rise()
