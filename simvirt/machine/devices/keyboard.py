"""The keyboard at the other end of the controller's cable: what it is told, what it answers, and what is typed on it.

Written from IBM's "Keyboard (101- and 102-Key)" in the Personal System/2 Hardware Interface Technical Reference; the
section titles in this file are its own. Answers to commands are ready at once. Scan codes come through a buffer of
sixteen bytes, at the pace of the serial line (`BYTE_NS`), so that a program that reads the same byte twice, as chained
interrupt handlers do, finds it twice.

Nobody types but `type`: a list of strokes, one every `STROKE_NS` of virtual time, which waits while the buffer is not
empty. So no key is lost to a guest that takes its time. No key repeats by being held down.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.devices.keys import KEYS, Stroke

if TYPE_CHECKING:
    from collections.abc import Iterable

BYTE_NS: Final = 1_000_000
"""Eleven bits at some eleven kilohertz ("Keyboard Data Output")."""
STROKE_NS: Final = 5_000_000
PAUSE_NS: Final = 1_000_000_000
BUFFER_SIZE: Final = 16

ACK: Final = 0xFA
RESEND: Final = 0xFE
ECHO: Final = 0xEE
BAT_COMPLETED: Final = 0xAA
IDENTITY: Final = bytes((0xAB, 0x83))
OVERRUN: Final = {1: 0xFF, 2: 0x00, 3: 0x00}
BREAK: Final = 0xF0
EXTENDED: Final = 0xE0
SET_1_BREAK: Final = 0x80

SET_LEDS: Final = 0xED
SELECT_SET: Final = 0xF0
READ_ID: Final = 0xF2
SET_TYPEMATIC: Final = 0xF3
ENABLE: Final = 0xF4
DEFAULT_DISABLE: Final = 0xF5
SET_DEFAULT: Final = 0xF6
ALL_KEYS: Final = range(0xF7, 0xFB)
ONE_KEY: Final = range(0xFB, 0xFE)
RESEND_COMMAND: Final = 0xFE
RESET: Final = 0xFF
_WITH_OPTION: Final = frozenset((SET_LEDS, SELECT_SET, SET_TYPEMATIC, *ONE_KEY))
DEFAULT_TYPEMATIC: Final = 0x2B
"""10.9 characters a second after half a second ("Set Typematic Rate/Delay")."""


@dataclass(frozen=True, slots=True)
class KeyboardState:
    """All that the keyboard knows, and what is still to be typed on it."""

    answers: bytes
    codes: bytes
    last_sent: int
    command: int
    scanning: bool
    scan_code_set: int
    leds: int
    typematic: int
    to_type: tuple[tuple[str, bool], ...]


class Keyboard:
    """A 104-key keyboard."""

    __slots__ = (
        "_answers",
        "_codes",
        "_command",
        "_last_sent",
        "_to_type",
        "leds",
        "scan_code_set",
        "scanning",
        "typematic",
    )

    def __init__(self) -> None:
        self._to_type: deque[Stroke] = deque()
        self._answers = bytearray()
        self._codes = bytearray()
        self._last_sent = 0
        self._set_defaults()
        self.scanning = True
        self._command = 0

    def _set_defaults(self) -> None:
        self.scan_code_set = 2
        self.leds = 0
        self.typematic = DEFAULT_TYPEMATIC
        self.scanning = True
        self._codes.clear()

    def power_on(self) -> None:
        """As after the power-on self test, whose result firmware has taken."""
        self._answers.clear()
        self._command = 0
        self._set_defaults()

    def receive(self, byte: int) -> None:
        """A command, or the option that belongs to the last one ("Commands from the System")."""
        if self._command:
            command, self._command = self._command, 0
            if byte < SET_LEDS or command in ONE_KEY:  # no option is a command
                self._take_option(command, byte)
                return
        if byte == ECHO:
            self._answers.append(ECHO)
        elif byte == RESEND_COMMAND:
            self._answers.append(self._last_sent)
        elif byte in _WITH_OPTION:
            self._answers.append(ACK)
            self._command = byte
        elif byte == READ_ID:
            self._answers.append(ACK)
            self._answers += IDENTITY
        elif byte == RESET:
            self._answers[:] = bytes((ACK, BAT_COMPLETED))
            self._set_defaults()
        elif byte in (SET_DEFAULT, DEFAULT_DISABLE):
            self._answers.append(ACK)
            self._set_defaults()
            self.scanning = byte == SET_DEFAULT and self.scanning
        elif byte == ENABLE:
            self._answers.append(ACK)
            self._codes.clear()
            self.scanning = True
        elif byte in ALL_KEYS:
            self._answers.append(ACK)
        else:
            self._answers.append(RESEND)

    def _take_option(self, command: int, option: int) -> None:
        self._answers.append(ACK)
        if command == SET_LEDS:
            self.leds = option & 7
        elif command == SET_TYPEMATIC:
            self.typematic = option & 0x7F
        elif command == SELECT_SET:
            if option == 0:
                self._answers.append(self.scan_code_set)
            elif option <= 3:
                self.scan_code_set = option
                self._codes.clear()
        # Set 3's key types make no difference to keys that are pressed and released at once.

    # ---------------------------------------------------------------------------------------- sending

    @property
    def has_answer(self) -> bool:
        """Is there a byte that was asked for?"""
        return bool(self._answers)

    @property
    def has_code(self) -> bool:
        """Is there a byte of a key?"""
        return bool(self._codes)

    def send_answer(self) -> int:
        """The next byte of an answer."""
        self._last_sent = self._answers.pop(0)
        return self._last_sent

    def send_code(self) -> int:
        """The next byte of a scan code."""
        self._last_sent = self._codes.pop(0)
        return self._last_sent

    # ---------------------------------------------------------------------------------------- typing

    def type(self, strokes: Iterable[Stroke]) -> None:
        """Strokes to be typed, behind those that wait already."""
        self._to_type.extend(strokes)

    @property
    def is_typed_on(self) -> bool:
        """Is there a stroke to come?"""
        return bool(self._to_type)

    def next_stroke(self) -> int:
        """Do the next stroke, or wait if the last one's codes are not taken; when to come again, in nanoseconds."""
        if self._codes or not self._to_type:
            return STROKE_NS
        stroke = self._to_type.popleft()
        if not stroke.key:
            return PAUSE_NS
        if self.scanning:
            self._buffer(self._codes_of(stroke))
        return STROKE_NS

    def _codes_of(self, stroke: Stroke) -> bytes:
        key = KEYS[stroke.key]
        if self.scan_code_set == 3:
            return bytes((key.set3,) if stroke.pressed else (BREAK, key.set3))
        prefix = (EXTENDED,) if key.extended else ()
        if self.scan_code_set == 1:
            return bytes((*prefix, key.set1 if stroke.pressed else key.set1 | SET_1_BREAK))
        return bytes((*prefix, key.set2) if stroke.pressed else (*prefix, BREAK, key.set2))

    def _buffer(self, codes: bytes) -> None:
        if len(self._codes) + len(codes) < BUFFER_SIZE:
            self._codes += codes
        elif len(self._codes) < BUFFER_SIZE:
            self._codes.append(OVERRUN[self.scan_code_set])

    # ---------------------------------------------------------------------------------------- snapshots

    def save(self) -> KeyboardState:
        """Everything, as a value."""
        return KeyboardState(
            answers=bytes(self._answers),
            codes=bytes(self._codes),
            last_sent=self._last_sent,
            command=self._command,
            scanning=self.scanning,
            scan_code_set=self.scan_code_set,
            leds=self.leds,
            typematic=self.typematic,
            to_type=tuple((stroke.key, stroke.pressed) for stroke in self._to_type),
        )

    def restore(self, state: KeyboardState) -> None:
        """Take up a saved state."""
        self._answers = bytearray(state.answers)
        self._codes = bytearray(state.codes)
        self._last_sent = state.last_sent
        self._command = state.command
        self.scanning = state.scanning
        self.scan_code_set = state.scan_code_set
        self.leds = state.leds
        self.typematic = state.typematic
        self._to_type = deque(Stroke(*stroke) for stroke in state.to_type)
