"""The debug-exit port: a guest ends its run by writing to it.

It answers as QEMU's isa-debug-exit device with iobase 0xF4 and iosize 4 does, so that one guest image ends in both
places: whatever is written to one of its four ports, in any width, is the guest's exit status (QEMU's own exit status
is then twice that plus one). Reads give zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize


@dataclass(frozen=True, slots=True)
class DebugExitState:
    """Nothing: the exit status is the board's."""


class DebugExit:
    """A port at which a write ends the run."""

    __slots__ = ("_on_exit",)
    state_type: ClassVar[type] = DebugExitState

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        self._on_exit = on_exit

    def read(self, _offset: int, _size: AccessSize) -> int:
        """Nothing to read: zero."""
        return 0

    def write(self, _offset: int, _size: AccessSize, value: int) -> None:
        """End the run with this status."""
        self._on_exit(value)

    def reset(self) -> None:
        """Nothing to reset."""

    def save(self) -> DebugExitState:
        """The (empty) state for a snapshot."""
        return DebugExitState()

    def restore(self, state: DebugExitState) -> None:
        """Take up a saved state."""
