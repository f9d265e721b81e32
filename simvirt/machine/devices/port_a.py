"""System control port A, at 0x92: the gate of address line 20, and a quick reset of the processor.

====  ==========  ============================================================
bit   access      meaning
====  ==========  ============================================================
0     read/write  alternate reset: a change from 0 to 1 resets the processor
1     read/write  alternate gate A20: 1 lets address line 20 through
2-7   read        nothing here, 0
====  ==========  ============================================================

Source: IBM Personal System/2 Hardware Interface Technical Reference, "System Control Port A". There is one gate: what
the keyboard controller is told of it (command D1, and DD and DF) is seen here and the other way round, as in chip sets
that watch the keyboard controller's port, so whichever way a guest knows of opening and closing it works. At power-on
it is open, as the firmware of today's PCs leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize

RESET: Final = 0x01
GATE_A20: Final = 0x02


@dataclass(frozen=True, slots=True)
class PortAState:
    """The two bits."""

    reset: bool
    a20: bool


class PortA:
    """The port, with the A20 gate. `on_a20` is told when the gate opens or closes; `on_reset` resets the machine."""

    __slots__ = ("_on_a20", "_reset", "a20", "reset_machine")
    state_type: ClassVar[type] = PortAState

    def __init__(self, on_a20: Callable[[bool], None], on_reset: Callable[[], None]) -> None:
        self._on_a20 = on_a20
        self.reset_machine = on_reset
        """Pulls the reset line of the machine."""
        self._reset = False
        self.a20 = True
        """Is address line 20 let through?"""

    def set_a20(self, is_open: bool) -> None:
        """Open or close the gate, as the keyboard controller does it."""
        if is_open is not self.a20:
            self.a20 = is_open
            self._on_a20(is_open)

    def read(self, _offset: int, _size: AccessSize) -> int:
        """Both bits."""
        return (RESET if self._reset else 0) | (GATE_A20 if self.a20 else 0)

    def write(self, _offset: int, _size: AccessSize, value: int) -> None:
        """Set both bits."""
        was, self._reset = self._reset, bool(value & RESET)
        self.set_a20(bool(value & GATE_A20))
        if self._reset and not was:
            self.reset_machine()

    def reset(self) -> None:
        """Power-on: no reset requested, the gate open."""
        self._reset = False
        self.set_a20(True)

    def save(self) -> PortAState:
        """Everything, as a value."""
        return PortAState(self._reset, self.a20)

    def restore(self, state: PortAState) -> None:
        """Take up a saved state; whoever drives the board looks at its `a20` afterwards."""
        self._reset = state.reset
        self.a20 = state.a20
