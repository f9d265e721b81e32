"""The I/O APIC: 24 interrupt inputs, each with a redirection entry that says what becomes of it.

Source: Intel 82093AA data sheet (290566). Inputs are asserted or not, whatever polarity an entry names: that belongs to
wires that are not simulated. Messages reach the processor at once, so the delivery status is never pending. SMI, INIT
and ExtINT messages are not delivered; in this PC the 8259A reaches the processor through the local APIC's LINT0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.local_apic import LEVEL_TRIGGERED, MASKED

if TYPE_CHECKING:
    from simvirt.machine.bus import AccessSize
    from simvirt.machine.devices.local_apic import LocalApic

BASE: Final = 0xFEC00000
INPUTS: Final = 24
IOREGSEL: Final = 0x00
IOWIN: Final = 0x10
VERSION: Final = (INPUTS - 1) << 16 | 0x11
REMOTE_IRR: Final = 1 << 14
LOGICAL: Final = 1 << 11
_ID, _VERSION, _ARBITRATION, _REDIRECTION = 0x00, 0x01, 0x02, 0x10
_WRITABLE: Final = 0xFF00_0000_0001_AFFF
_SHOWN_SIZE: Final = IOWIN + 4
_ID_WRITABLE: Final = 0x0F00_0000


@dataclass(frozen=True, slots=True)
class IoApicState:
    """All that the chip knows."""

    selected: int
    identification: int
    entries: tuple[int, ...]
    lines: int


class IoApic:
    """The I/O APIC; what it has for the processor goes to `local`."""

    __slots__ = ("_entries", "_identification", "_lines", "_local", "_selected", "_shown", "_shown_at")
    state_type: ClassVar[type] = IoApicState

    def __init__(self, local: LocalApic) -> None:
        self._local = local
        local.on_end_of_interrupt = self.end_of_interrupt
        self._shown: bytearray | memoryview = bytearray(_SHOWN_SIZE)
        self._shown_at = 0
        self._power_on()

    def _power_on(self) -> None:
        self._selected = self._identification = self._lines = 0
        self._entries = [MASKED] * INPUTS

    def keep_registers_in(self, memory: memoryview, at: int) -> None:
        """Let what reads give stand in memory too, from `at` on: no read changes anything, so a VMM can show it."""
        self._shown, self._shown_at = memory, at
        self._show()

    def _show(self) -> None:
        for offset, value in ((IOREGSEL, self._selected), (IOWIN, self._register())):
            at = self._shown_at + offset
            self._shown[at : at + 4] = value.to_bytes(4, "little")

    def set_line(self, number: int, high: bool) -> None:
        """Drive an input."""
        bit = 1 << number
        was, self._lines = self._lines & bit, self._lines | bit if high else self._lines & ~bit
        if high and (not was or self._entries[number] & LEVEL_TRIGGERED):
            self._request(number)

    def ignores(self, number: int) -> bool:
        """Is this input masked?"""
        return bool(self._entries[number] & MASKED)

    def can_deliver(self, number: int) -> bool:
        """Would a request at this input now interrupt the processor?"""
        entry = self._entries[number]
        return (
            not entry & (MASKED | REMOTE_IRR)
            and self._is_for_processor(entry)
            and self._local.lets_through(entry & 0xFF)
        )

    def end_of_interrupt(self, vector: int) -> None:
        """The processor has dealt with a level-triggered interrupt: a line that is still high asks again."""
        for number, entry in enumerate(self._entries):
            if entry & LEVEL_TRIGGERED and entry & 0xFF == vector:
                self._entries[number] = entry & ~REMOTE_IRR
                self._show()
                if self._lines >> number & 1:
                    self._request(number)

    def _is_for_processor(self, entry: int) -> bool:
        return self._local.is_destination(entry >> 56, logical=bool(entry & LOGICAL))

    def _request(self, number: int) -> None:
        entry = self._entries[number]
        level = bool(entry & LEVEL_TRIGGERED)
        if entry & MASKED or (level and entry & REMOTE_IRR) or not self._is_for_processor(entry):
            return
        if level:
            self._entries[number] = entry | REMOTE_IRR
            self._show()
        self._local.deliver(entry >> 8 & 7, entry & 0xFF, level=level)

    def read(self, offset: int, size: AccessSize) -> int:
        """IOREGSEL, or the register that it selects, or a part of either."""
        within = offset & 0xF
        if within + size > 4:
            return 0
        value = {IOREGSEL: self._selected, IOWIN: self._register()}.get(offset & ~0xF, 0)
        return value >> 8 * within & (1 << 8 * size) - 1

    def _register(self) -> int:
        selected = self._selected
        if selected in (_ID, _ARBITRATION):
            return self._identification
        if selected == _VERSION:
            return VERSION
        number, high = divmod(selected - _REDIRECTION, 2)
        if 0 <= number < INPUTS:
            return self._entries[number] >> 32 * high & 0xFFFF_FFFF
        return 0

    def write(self, offset: int, size: AccessSize, value: int) -> None:
        """Select a register, or write the one selected."""
        if offset == IOREGSEL:
            self._selected = value & 0xFF
        elif offset == IOWIN and size == 4:
            self._write_register(value)
        self._show()

    def _write_register(self, value: int) -> None:
        if self._selected == _ID:
            self._identification = value & _ID_WRITABLE
            return
        number, high = divmod(self._selected - _REDIRECTION, 2)
        if not 0 <= number < INPUTS:
            return
        shift = 32 * high
        writable = _WRITABLE & 0xFFFF_FFFF << shift
        entry = self._entries[number] & ~writable | value << shift & writable
        if not entry & LEVEL_TRIGGERED:
            entry &= ~REMOTE_IRR
        self._entries[number] = entry
        if entry & LEVEL_TRIGGERED and self._lines >> number & 1:
            self._request(number)

    def reset(self) -> None:
        """Power-on: every input masked."""
        self._power_on()
        self._show()

    def save(self) -> IoApicState:
        """Everything, as a value."""
        return IoApicState(self._selected, self._identification, tuple(self._entries), self._lines)

    def restore(self, state: IoApicState) -> None:
        """Take up a saved state."""
        self._selected, self._identification = state.selected, state.identification
        self._entries, self._lines = list(state.entries), state.lines
        self._show()
