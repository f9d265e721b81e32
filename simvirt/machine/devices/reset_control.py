"""The reset control register at 0xCF9, which ACPI systems and many kernels reset a PC by.

Source: Intel 82371SB (PIIX3) data sheet, "RC - Reset Control Register". Bit 1 chooses a hard reset, bit 2 causes it on
its change from 0 to 1; bit 3 is kept. A guest cannot tell the two resets apart here: both end the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize

HARD_RESET: Final = 0x02
RESET_CPU: Final = 0x04
WRITABLE: Final = 0x0E


@dataclass(frozen=True, slots=True)
class ResetControlState:
    """The bits that were written."""

    written: int


class ResetControl:
    """The register; `on_reset` resets the machine."""

    __slots__ = ("_on_reset", "_written")
    state_type: ClassVar[type] = ResetControlState

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self._on_reset = on_reset
        self._written = 0

    def read(self, _offset: int, _size: AccessSize) -> int:
        """What was written."""
        return self._written

    def write(self, _offset: int, _size: AccessSize, value: int) -> None:
        """Keep the writable bits, and reset when bit 2 rises."""
        was, self._written = self._written, value & WRITABLE
        if self._written & ~was & RESET_CPU:
            self._on_reset()

    def reset(self) -> None:
        """Power-on: zero."""
        self._written = 0

    def save(self) -> ResetControlState:
        """Everything, as a value."""
        return ResetControlState(self._written)

    def restore(self, state: ResetControlState) -> None:
        """Take up a saved state."""
        self._written = state.written
