"""The 8042 and the keyboard behind it, from IBM's technical references; the titles named are theirs."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvirt.errors import UsageError
from simvirt.machine.devices.keyboard import BYTE_NS, PAUSE_NS, STROKE_NS
from simvirt.machine.devices.keyboard_controller import LOOKS_OF_A_READER, KeyboardController, KeyboardControllerState
from simvirt.machine.devices.keys import KEYS, TRANSLATION, strokes
from simvirt.machine.devices.port_a import PortA
from simvirt.machine.devices.reset_control import ResetControl
from simvirt.machine.event_queue import EventQueue

ACK = 0xFA


class Bench:
    """A controller, virtual time, and what its pins did."""

    def __init__(self) -> None:
        self.time = 0
        self.events = EventQueue()
        self.level = False
        self.interrupts = 0
        self.resets = 0
        self.gate: list[bool] = []
        self.listens = True
        self.port_a = PortA(self.gate.append, self._reset)
        self.controller = KeyboardController(self, self.events, self._drive, self.port_a, lambda: self.listens)

    def now(self) -> int:
        return self.time

    def _reset(self) -> None:
        self.resets += 1

    def _drive(self, level: bool) -> None:
        self.interrupts += level and not self.level
        self.level = level

    def command(self, command: int, *data: int) -> None:
        self.controller.write(1, 1, command)
        self.send(*data)

    def send(self, *data: int) -> None:
        for byte in data:
            self.controller.write(0, 1, byte)

    def status(self) -> int:
        return self.controller.read(1, 1)

    def take(self) -> list[int]:
        """All bytes that come without waiting."""
        taken = []
        while self.status() & 1:
            taken.append(self.controller.read(0, 1))
        return taken

    def pass_time(self, nanoseconds: int) -> None:
        end = self.time + nanoseconds
        while (deadline := self.events.next_deadline()) is not None and deadline <= end:
            self.time = max(deadline, self.time)
            self.events.run_due(self.time)
        self.time = end

    def typed(self, text: str, *, nanoseconds: int = 10**9) -> list[int]:
        """Type, and take every byte as it comes."""
        self.controller.type(strokes(text))
        taken, end = [], self.time + nanoseconds
        while self.time < end:
            self.pass_time(BYTE_NS // 2)
            taken += self.take()
        return taken


@pytest.mark.parametrize(
    ("command", "answer"),
    [(0xAA, 0x55), (0xAB, 0x00), (0xA4, 0xF1), (0xC0, 0xA0), (0xE0, 0x03), (0xA9, 0x01), (0x20, 0x65), (0xD0, 0xC3)],
)
def test_controller_commands_that_answer(command: int, answer: int) -> None:
    bench = Bench()
    bench.command(command)
    assert bench.take() == [answer]
    assert bench.interrupts == 1


def test_the_status_tells_what_was_written_last() -> None:
    bench = Bench()
    assert bench.status() == 0x14
    bench.command(0xAE)
    assert bench.status() == 0x1C
    bench.send(0xF4)
    assert bench.status() == 0x15
    assert bench.take() == [ACK]


def test_the_controllers_memory() -> None:
    bench = Bench()
    bench.command(0x65, 0x5A)
    bench.command(0x25)
    assert bench.take() == [0x5A]


def test_the_auxiliary_device_is_absent() -> None:
    bench = Bench()
    bench.command(0x60, 0x47)
    bench.command(0xA8)
    bench.command(0x20)
    assert bench.take() == [0x67]  # "disable auxiliary device" stays set
    bench.command(0xD4, 0xFF)
    assert bench.take() == []
    bench.command(0xD3, 0x5A)
    assert bench.status() & 0x21 == 0x01
    assert bench.take() == [0x5A]


def test_a20_through_the_controller_and_port_a_is_one_gate() -> None:
    bench = Bench()
    assert bench.port_a.read(0, 1) == 2
    bench.command(0xD1, 0xDD)
    assert (bench.gate, bench.port_a.read(0, 1)) == ([False], 0)
    bench.command(0xD0)
    assert bench.take() == [0xC1]
    bench.port_a.write(0, 1, 2)
    bench.command(0xDD)
    bench.command(0xDF)
    bench.command(0xDF)
    assert bench.gate == [False, True, False, True]
    assert bench.resets == 0


def test_ways_to_reset() -> None:
    bench = Bench()
    bench.command(0xFE)
    assert bench.resets == 1
    bench.command(0xFF)
    assert bench.resets == 1
    bench.command(0xD1, 0xC2)
    assert bench.resets == 2
    bench.port_a.write(0, 1, 3)
    bench.port_a.write(0, 1, 3)
    assert bench.resets == 3
    control = ResetControl(bench._reset)
    control.write(0, 1, 0x02)
    control.write(0, 1, 0x06)
    control.write(0, 1, 0x06)
    assert (bench.resets, control.read(0, 1)) == (4, 0x06)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ((0xFF,), [ACK, 0xAA]),
        ((0xEE,), [0xEE]),
        ((0xF2,), [ACK, 0xAB, 0x41]),  # translated: 83 becomes 41
        ((0xED, 0x02), [ACK, ACK]),
        ((0xF3, 0x20), [ACK, ACK]),
        ((0xF0, 0x00), [ACK, ACK, 0x41]),  # translated: 43 is 1, 41 is 2, 3F is 3
        ((0xF0, 0x03, 0xF0, 0x00), [ACK, ACK, ACK, ACK, 0x3F]),
        ((0xF4,), [ACK]),
        ((0xF5,), [ACK]),
        ((0xF6,), [ACK]),
        ((0xF8,), [ACK]),
        ((0xFC, 0x1C), [ACK, ACK]),
        ((0xEE, 0xFE), [0xEE, 0xEE]),
        ((0x55,), [0xFE]),
        ((0xED, 0xF4), [ACK, ACK]),  # a command in the place of an option ends the first one
    ],
)
def test_keyboard_commands(data: tuple[int, ...], answer: list[int]) -> None:
    """ "Commands from the System"."""
    bench = Bench()
    bench.send(*data)
    assert bench.take() == answer


def test_leds() -> None:
    bench = Bench()
    bench.send(0xED, 0x06)
    assert bench.controller.keyboard.leds == 6


def test_identity_without_translation() -> None:
    bench = Bench()
    bench.command(0x60, 0x25)
    bench.send(0xF2)
    assert bench.take() == [ACK, 0xAB, 0x83]


def test_keys_in_all_sets() -> None:
    """Tables "Scan Code Set 1" to "3": a letter, a shifted one, and one with the prefix."""
    bench = Bench()
    assert bench.typed("aA<Up>") == [0x1E, 0x9E, 0x2A, 0x1E, 0x9E, 0xAA, 0xE0, 0x48, 0xE0, 0xC8]
    bench.command(0x60, 0x25)
    assert bench.typed("a<Up>") == [0x1C, 0xF0, 0x1C, 0xE0, 0x75, 0xE0, 0xF0, 0x75]
    bench.send(0xF0, 0x01)
    bench.take()
    assert bench.typed("a<Up>") == [0x1E, 0x9E, 0xE0, 0x48, 0xE0, 0xC8]
    bench.send(0xF0, 0x03)
    bench.take()
    assert bench.typed("a<Up>") == [0x1C, 0xF0, 0x1C, 0x63, 0xF0, 0x63]


def test_every_key_has_codes_of_its_own() -> None:
    assert len({(key.set2, key.extended) for key in KEYS.values()}) == len(KEYS)
    assert len({(key.set1, key.extended) for key in KEYS.values()}) == len(KEYS)
    assert len({key.set3 for key in KEYS.values()}) == len(KEYS)
    assert all(key.set1 < 0x80 for key in KEYS.values())
    assert len(TRANSLATION) == 256


# Linux, include/uapi/linux/input-event-codes.h: below 0x59 the numbers of keys are their codes in set 1.
def test_set_1_is_in_the_order_that_everybody_knows() -> None:
    names = ["", "Esc", *"1234567890-=", "Backspace", "Tab", *"qwertyuiop[]", "Enter", "Ctrl", *"asdfghjkl;'`"]
    names += ["Shift", *"\\zxcvbnm,./", "RightShift", "KeypadStar", "Alt", "Space", "CapsLock"]
    names += [f"F{number}" for number in range(1, 11)]
    names += ["NumLock", "ScrollLock", *(f"Keypad{key}" for key in "789"), "KeypadMinus"]
    names += [*(f"Keypad{key}" for key in "456"), "KeypadPlus", *(f"Keypad{key}" for key in "1230"), "KeypadPoint"]
    for code, name in enumerate(names):
        assert name == "" or KEYS[name].set1 == code, name
    assert (KEYS["F11"].set1, KEYS["F12"].set1) == (0x57, 0x58)


def test_a_byte_of_a_key_stays_until_it_is_read_and_the_next_takes_time() -> None:
    bench = Bench()
    bench.controller.type(strokes("<Up>"))
    bench.pass_time(100 * BYTE_NS)
    assert bench.controller.read(0, 1) == 0xE0
    assert bench.controller.read(0, 1) == 0xE0
    bench.pass_time(BYTE_NS - 1)
    assert not bench.status() & 1
    bench.pass_time(1)
    assert bench.controller.read(0, 1) == 0x48


def test_nobody_types_before_the_guest_reads_its_keyboard() -> None:
    bench = Bench()
    bench.listens = False
    bench.controller.type(strokes("x"))
    bench.pass_time(10**9)
    assert not bench.status() & 1
    for _ in range(LOOKS_OF_A_READER - 2):
        assert not bench.status() & 1
    assert bench.take() == [0x2D]


def test_a_disabled_interface_holds_the_keyboard() -> None:
    bench = Bench()
    bench.command(0xAD)
    assert bench.typed("x") == []
    bench.command(0xAE)
    assert bench.typed("") == [0x2D, 0xAD]


def test_a_disabled_keyboard_does_not_scan() -> None:
    bench = Bench()
    bench.send(0xF5)
    bench.take()
    assert not bench.controller.input_interrupts()
    for _ in range(100):
        bench.status()
    assert bench.typed("x") == []
    bench.send(0xF4)
    bench.take()
    assert bench.typed("y") == [0x2D, 0xAD, 0x15, 0x95]


def test_answers_come_before_keys_that_wait() -> None:
    bench = Bench()
    bench.controller.type(strokes("x"))
    bench.pass_time(2 * STROKE_NS)
    bench.send(0xEE)
    assert bench.take() == [0x2D, 0xEE]


def test_pauses_and_names() -> None:
    bench = Bench()
    assert bench.typed("a<Wait>b", nanoseconds=PAUSE_NS) == [0x1E, 0x9E]
    assert bench.typed("") == [0x30, 0xB0]
    assert [s.key for s in strokes("<ctrl-alt-del>")] == ["Ctrl", "Alt", "Delete", "Delete", "Alt", "Ctrl"]
    assert [s.key for s in strokes("\x03")] == ["Ctrl", "c", "c", "Ctrl"]
    assert [s.key for s in strokes("<< ")] == ["Shift", ",", ",", "Shift"] * 2 + ["Space", "Space"]
    assert strokes("a < b")[2].key == "Space"


@pytest.mark.parametrize(("text", "message"), [("é", "no key"), ("<F13>", "F13"), ("<Meta-x>", "no modifier")])
def test_what_cannot_be_typed(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        strokes(text)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("command"), st.sampled_from([0x20, 0x60, 0xAA, 0xAD, 0xAE, 0xD0, 0xD1, 0xD2, 0xDD, 0xDF])),
        st.tuples(st.just("data"), st.integers(0, 255)),
        st.tuples(st.just("read"), st.integers(0, 1)),
        st.tuples(st.just("wait"), st.integers(0, 10 * BYTE_NS)),
        st.tuples(st.just("type"), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(STEPS, STEPS)
def test_a_restored_controller_goes_on_alike(before: list[tuple[str, int]], after: list[tuple[str, int]]) -> None:
    def run(bench: Bench, steps: list[tuple[str, int]]) -> list[int]:
        seen: list[int] = []
        for what, value in steps:
            match what:
                case "command":
                    bench.command(value)
                case "data":
                    bench.send(value)
                case "read":
                    seen.append(bench.controller.read(value, 1))
                case "wait":
                    bench.pass_time(value)
                case _:
                    bench.controller.type(strokes("Qx<Up>"))
            seen += [int(bench.level), bench.events.next_deadline() or 0, int(bench.port_a.a20)]
        return seen

    first, second = Bench(), Bench()
    run(first, before)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(first.controller.save()), type=KeyboardControllerState)
    second.time, second.level = first.time, first.level
    second.controller.restore(state)
    second.port_a.restore(first.port_a.save())
    second.events.restore(first.events.save())
    assert run(first, after) == run(second, after)
