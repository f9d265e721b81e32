"""The debug registers: what DR0 to DR3 and DR7 ask for, as typed values (SDM Vol. 3B §18.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.state import ProcessorState


class BreakOn(IntEnum):
    """The R/W field of a breakpoint (SDM Vol. 3B §18.2.4)."""

    EXECUTION = 0
    WRITE = 1
    PORT = 2
    """I/O reads and writes, while CR4.DE is 1; undefined while it is 0, and nothing here."""
    ACCESS = 3
    """Data reads and writes, no instruction fetches."""

    @property
    def is_data(self) -> bool:
        """Does it watch memory operands?"""
        return self is BreakOn.WRITE or self is BreakOn.ACCESS


_LENGTHS: Final = (1, 2, 8, 4)
"""Bytes, by the LEN field."""
_ENABLED: Final = 0xFF
GENERAL_DETECT: Final = 1 << 13
"""DR7.GD: MOV to or from a debug register is #DB (SDM Vol. 3B §18.2.4)."""


@dataclass(frozen=True, slots=True)
class HardwareBreakpoint:
    """One breakpoint that DR7 enables."""

    number: int
    """Of its address register, and of its bit in DR6."""
    first: int
    """First linear address, or first port. Addresses are taken as aligned to the length (SDM Vol. 3B §18.2.5)."""
    length: int
    on: BreakOn

    @property
    def last(self) -> int:
        """The last address that it covers."""
        return self.first + self.length - 1

    @property
    def condition(self) -> int:
        """Its bit in DR6."""
        return 1 << self.number

    def covers(self, first: int, size: int) -> bool:
        """Does an access to `size` bytes from `first` touch it?"""
        return first <= self.last and self.first < first + size


def hardware_breakpoints(state: ProcessorState) -> tuple[HardwareBreakpoint, ...]:
    """The breakpoints that DR7 enables, locally or globally, in the order of their registers."""
    return enabled_breakpoints(state.debug_register(7), state.debug_register)


def enabled_breakpoints(dr7: int, address_register: Callable[[int], int]) -> tuple[HardwareBreakpoint, ...]:
    """The same for any DR7; `address_register` gives DR0 to DR3 by number."""
    if not dr7 & _ENABLED:
        return ()
    found = []
    for number in range(4):
        if not dr7 >> 2 * number & 3:
            continue
        field = dr7 >> 16 + 4 * number & 0xF
        on, length = BreakOn(field & 3), _LENGTHS[field >> 2]
        address = address_register(number)
        if on is BreakOn.EXECUTION:
            length = 1
        found.append(HardwareBreakpoint(number, address & ~(length - 1), length, on))
    return tuple(found)
