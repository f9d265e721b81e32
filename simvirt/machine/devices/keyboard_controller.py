"""The keyboard controller of a PC/AT: an 8042 with the AT's program in it, ports 0x60 and 0x64.

Written from the IBM PC/AT Technical Reference, "Keyboard Controller", whose titles are used, and for the commands that
came later (A7 to A9, D2 to D4) the Personal System/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary
Device Controller". The keyboard behind it is `simvirt.machine.devices.keyboard`.

The controller needs no time: what it answers stands in the output buffer when the command has been written, and the
input buffer is always empty. Only scan codes of keys come at the pace of the keyboard's line. Each byte that arrives
in the output buffer raises IRQ 1 while the command byte's bit 0 is set; reading it lowers the line.

Keys are pressed only while the guest reads its keyboard: while IRQ 1 would interrupt, or when a program that polls has
looked `LOOKS_OF_A_READER` times for a byte in vain; then one is there at once.

There is no auxiliary device: the command byte's bit 5 stays set, A9 answers that the clock line is stuck, and D3 gives
its byte back without the mark of an auxiliary device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.keyboard import BREAK, BYTE_NS, STROKE_NS, Keyboard, KeyboardState
from simvirt.machine.devices.keys import TRANSLATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.devices.keys import Stroke
    from simvirt.machine.devices.port_a import PortA
    from simvirt.machine.event_queue import EventQueue

# "Status Register".
STATUS_OUTPUT_FULL: Final = 0x01
STATUS_SYSTEM: Final = 0x04
STATUS_COMMAND: Final = 0x08
STATUS_NOT_INHIBITED: Final = 0x10
# "Command Byte", the first byte of the controller's memory.
INTERRUPT: Final = 0x01
SYSTEM_FLAG: Final = 0x04
DISABLE_KEYBOARD: Final = 0x10
DISABLE_AUXILIARY: Final = 0x20
TRANSLATE: Final = 0x40
POWER_ON_COMMAND_BYTE: Final = INTERRUPT | SYSTEM_FLAG | DISABLE_AUXILIARY | TRANSLATE
"""As firmware leaves it."""
# "Output Port" and "Input Port".
OUTPUT_NO_RESET: Final = 0x01
OUTPUT_A20: Final = 0x02
OUTPUT_BUFFER_FULL: Final = 0x10
OUTPUT_IDLE: Final = 0xC0
INPUT_PORT: Final = 0xA0
"""Not locked, the manufacturing jumper not installed, a colour display."""
TEST_INPUTS_IDLE: Final = 0x03

READ_MEMORY: Final = range(0x20, 0x40)
WRITE_MEMORY: Final = range(0x60, 0x80)
TEST_PASSWORD: Final = 0xA4
TEST_AUXILIARY: Final = 0xA9
SELF_TEST: Final = 0xAA
INTERFACE_TEST: Final = 0xAB
DISABLE: Final = 0xAD
ENABLE: Final = 0xAE
READ_INPUT_PORT: Final = 0xC0
READ_OUTPUT_PORT: Final = 0xD0
WRITE_OUTPUT_PORT: Final = 0xD1
WRITE_OUTPUT_BUFFER: Final = 0xD2
WRITE_AUXILIARY_BUFFER: Final = 0xD3
WRITE_AUXILIARY: Final = 0xD4
CLOSE_A20: Final = 0xDD
OPEN_A20: Final = 0xDF
READ_TEST_INPUTS: Final = 0xE0
PULSE: Final = 0xF0
_WITH_DATA: Final = frozenset(
    (*WRITE_MEMORY, WRITE_OUTPUT_PORT, WRITE_OUTPUT_BUFFER, WRITE_AUXILIARY_BUFFER, WRITE_AUXILIARY)
)
NO_PASSWORD: Final = 0xF1
CLOCK_STUCK: Final = 0x01
SELF_TEST_PASSED: Final = 0x55
INTERFACE_TEST_PASSED: Final = 0x00

LOOKS_OF_A_READER: Final = 32
"""A guest that has found the output buffer empty so often in a row reads its keyboard by polling."""


@dataclass(frozen=True, slots=True)
class KeyboardControllerState:
    """All that controller and keyboard know."""

    memory: bytes
    output: int
    output_full: bool
    pending: bytes
    last_was_command: bool
    command: int
    break_prefix: bool
    looks: int
    keyboard: KeyboardState


class KeyboardController:
    """The 8042 and its keyboard.

    `port_a` holds the A20 gate and resets the machine; `listens` tells whether IRQ 1 would reach the processor.
    """

    __slots__ = (
        "_break_prefix",
        "_clock",
        "_command",
        "_events",
        "_last_was_command",
        "_line",
        "_listens",
        "_looks",
        "_memory",
        "_output",
        "_output_full",
        "_pending",
        "_port_a",
        "keyboard",
    )
    state_type: ClassVar[type] = KeyboardControllerState

    def __init__(
        self,
        clock: Clock,
        events: EventQueue,
        line: InterruptLine,
        port_a: PortA,
        listens: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._events = events
        self._line = line
        self._port_a = port_a
        self._listens = listens
        self.keyboard = Keyboard()
        events.register("keyboard.byte", self._byte_arrives)
        events.register("keyboard.stroke", self._stroke)
        self.reset()

    def reset(self) -> None:
        """As firmware leaves it; strokes that are still to be typed wait on."""
        self._memory = bytearray(32)
        self._memory[0] = POWER_ON_COMMAND_BYTE
        self._output = 0
        self._output_full = self._last_was_command = self._break_prefix = False
        self._pending = bytearray()
        self._command = self._looks = 0
        self.keyboard.power_on()
        self._line(False)
        self._go_on_typing()

    def type(self, strokes: Iterable[Stroke]) -> None:
        """Keys to be pressed and released as soon as the guest reads its keyboard."""
        self.keyboard.type(strokes)
        self._go_on_typing()

    def input_interrupts(self) -> bool:
        """Whether a key that was pressed now would interrupt."""
        return self._memory[0] & (INTERRUPT | DISABLE_KEYBOARD) == INTERRUPT and self.keyboard.scanning

    def read(self, offset: int, _size: AccessSize) -> int:
        """Port 0x60: the output buffer, which keeps its last byte; port 0x64: the status."""
        if offset:
            if not self._output_full:
                self._look()
            return (
                (STATUS_OUTPUT_FULL if self._output_full else 0)
                | self._memory[0] & SYSTEM_FLAG
                | (STATUS_COMMAND if self._last_was_command else 0)
                | STATUS_NOT_INHIBITED
            )
        value = self._output
        if self._output_full:
            self._output_full = False
            self._looks = 0
            self._line(False)
            self._fill_output()
        return value

    def write(self, offset: int, _size: AccessSize, value: int) -> None:
        """Port 0x60: data of a command, else a byte for the keyboard; port 0x64: a command."""
        self._last_was_command = bool(offset)
        self._looks = 0
        if offset:
            self._command = value if value in _WITH_DATA else 0
            self._execute(value)
        elif self._command:
            command, self._command = self._command, 0
            self._take_data(command, value)
        else:
            self._memory[0] &= ~DISABLE_KEYBOARD
            self.keyboard.receive(value)
        self._fill_output()

    def save(self) -> KeyboardControllerState:
        """Everything, as a value."""
        return KeyboardControllerState(
            memory=bytes(self._memory),
            output=self._output,
            output_full=self._output_full,
            pending=bytes(self._pending),
            last_was_command=self._last_was_command,
            command=self._command,
            break_prefix=self._break_prefix,
            looks=self._looks,
            keyboard=self.keyboard.save(),
        )

    def restore(self, state: KeyboardControllerState) -> None:
        """Take up a saved state; line and deadlines are restored with the PIC and the event queue."""
        self._memory = bytearray(state.memory)
        self._output = state.output
        self._output_full = state.output_full
        self._pending = bytearray(state.pending)
        self._last_was_command = state.last_was_command
        self._command = state.command
        self._break_prefix = state.break_prefix
        self._looks = state.looks
        self.keyboard.restore(state.keyboard)

    def _execute(self, command: int) -> None:
        if command in READ_MEMORY:
            self._answer(self._memory[command & 0x1F])
        elif command == TEST_PASSWORD:
            self._answer(NO_PASSWORD)
        elif command == TEST_AUXILIARY:
            self._answer(CLOCK_STUCK)
        elif command == SELF_TEST:
            self._memory[0] |= SYSTEM_FLAG
            self._answer(SELF_TEST_PASSED)
        elif command == INTERFACE_TEST:
            self._answer(INTERFACE_TEST_PASSED)
        elif command == DISABLE:
            self._memory[0] |= DISABLE_KEYBOARD
        elif command == ENABLE:
            self._memory[0] &= ~DISABLE_KEYBOARD
        elif command == READ_INPUT_PORT:
            self._answer(INPUT_PORT)
        elif command == READ_OUTPUT_PORT:
            full = OUTPUT_BUFFER_FULL if self._output_full else 0
            self._answer(OUTPUT_IDLE | full | OUTPUT_NO_RESET | (OUTPUT_A20 if self._port_a.a20 else 0))
        elif command in (CLOSE_A20, OPEN_A20):
            self._port_a.set_a20(command == OPEN_A20)
        elif command == READ_TEST_INPUTS:
            self._answer(TEST_INPUTS_IDLE)
        elif command >= PULSE and not command & OUTPUT_NO_RESET:
            self._port_a.reset_machine()

    def _take_data(self, command: int, value: int) -> None:
        if command in WRITE_MEMORY:
            self._memory[command & 0x1F] = value | DISABLE_AUXILIARY if command == WRITE_MEMORY[0] else value
            self._line(self._output_full and bool(self._memory[0] & INTERRUPT))
        elif command == WRITE_OUTPUT_PORT:
            self._port_a.set_a20(bool(value & OUTPUT_A20))
            if not value & OUTPUT_NO_RESET:
                self._port_a.reset_machine()
        elif command in (WRITE_OUTPUT_BUFFER, WRITE_AUXILIARY_BUFFER):
            self._answer(value)
        # What goes to the auxiliary device goes nowhere.

    def _answer(self, value: int) -> None:
        """A byte of the controller's own: it comes before what the keyboard has sent."""
        self._pending.append(value)

    def _fill_output(self) -> None:
        """If the output buffer is empty, put into it what waits and needs no time; or let a scan code be under way."""
        if self._output_full:
            return
        if self._pending:
            self._put(self._pending.pop(0))
            return
        if self._memory[0] & DISABLE_KEYBOARD:
            return
        keyboard = self.keyboard
        while keyboard.has_answer:
            if self._put_translated(keyboard.send_answer()):
                return
        if keyboard.has_code and self._events.pending("keyboard.byte") is None:
            self._events.schedule("keyboard.byte", self._clock.now() + BYTE_NS)

    def _byte_arrives(self) -> None:
        """A byte of a scan code has come down the line, unless the controller holds the line by now."""
        if self._output_full or self._memory[0] & DISABLE_KEYBOARD:
            return  # the keyboard keeps it until the line is free: `_fill_output`
        if self.keyboard.has_code:
            self._put_translated(self.keyboard.send_code())
        self._fill_output()

    def _put_translated(self, byte: int) -> bool:
        """Put a byte of the keyboard's into the output buffer; False for a break prefix, which is kept.

        Set 2 becomes set 1 while the command byte says so, and the prefix a bit of the byte behind it.
        """
        if self._memory[0] & TRANSLATE:
            if byte == BREAK:
                self._break_prefix = True
                return False
            byte = TRANSLATION[byte] | (0x80 if self._break_prefix else 0)
            self._break_prefix = False
        self._put(byte)
        return True

    def _put(self, byte: int) -> None:
        self._output = byte
        self._output_full = True
        self._line(bool(self._memory[0] & INTERRUPT))

    # ---------------------------------------------------------------------------------------- typing

    def _go_on_typing(self) -> None:
        if self.keyboard.is_typed_on and self._events.pending("keyboard.stroke") is None:
            self._events.schedule("keyboard.stroke", self._clock.now() + STROKE_NS)

    def _stroke(self) -> None:
        """A key goes down or comes up, if the guest reads its keyboard by now and has taken the last one."""
        wait = STROKE_NS
        if self.input_interrupts() and self._listens() and not self._output_full:
            wait = self.keyboard.next_stroke()
            self._fill_output()
        if self.keyboard.is_typed_on:
            self._events.schedule("keyboard.stroke", self._clock.now() + wait)

    def _look(self) -> None:
        """A read of the status that finds no byte; after many of them one that a key would send is there."""
        self._looks += 1
        keyboard = self.keyboard
        if self._looks < LOOKS_OF_A_READER or self._memory[0] & DISABLE_KEYBOARD:
            return
        self._looks = 0
        stroke_due = self._events.pending("keyboard.stroke")
        pausing = stroke_due is not None and stroke_due - self._clock.now() > STROKE_NS
        if not keyboard.has_code and keyboard.is_typed_on and keyboard.scanning and not pausing:
            due = self._clock.now() + keyboard.next_stroke()
            if keyboard.is_typed_on:
                self._events.schedule("keyboard.stroke", due)
            else:
                self._events.cancel("keyboard.stroke")
        if keyboard.has_code:
            self._events.cancel("keyboard.byte")
            self._byte_arrives()
