"""The board's part in x87 errors while CR0.NE is 0: FERR# becomes IRQ 13, and a write to port 0xF0 answers it.

The handler writes to port 0xF0 first: that takes the interrupt request back, and asserts IGNNE# for as long as FERR#
lasts, so that the handler may use the x87 although its error is still pending. Port 0xF1 resets a math coprocessor
that stands beside the processor; here it is a part of it, and a write does nothing.

Sources: SDM Vol. 1 §8.7.2 "MS-DOS Compatibility Sub-mode", §D.2; IBM PC/AT Technical Reference, "Coprocessor"; Intel
82371AB (PIIX4) data sheet, "Coprocessor Error Register".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize
    from simvirt.machine.devices import InterruptLine


@dataclass(frozen=True, slots=True)
class X87ErrorState:
    """Nothing: the request is the interrupt controller's, IGNNE# the processor's."""


class X87Error:
    """The latch between FERR# and IRQ 13; `ignne` asserts IGNNE#."""

    __slots__ = ("_ignne", "_line")
    state_type: ClassVar[type] = X87ErrorState

    def __init__(self, line: InterruptLine, ignne: Callable[[], None]) -> None:
        self._line = line
        self._ignne = ignne

    def ferr(self) -> None:
        """The processor asserts FERR#."""
        self._line(True)

    def read(self, _offset: int, _size: AccessSize) -> int:
        """Nobody answers a read."""
        return 0xFF

    def write(self, offset: int, _size: AccessSize, _value: int) -> None:
        """At the first port: the error has been heard of."""
        if not offset:
            self._line(False)
            self._ignne()

    def reset(self) -> None:
        """No error."""
        self._line(False)

    def save(self) -> X87ErrorState:
        """Nothing of its own."""
        return X87ErrorState()

    def restore(self, state: X87ErrorState) -> None:
        """Nothing of its own."""
