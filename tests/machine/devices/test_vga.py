"""The VGA's registers, from IBM's reference, and what its screen shows."""

from __future__ import annotations

import msgspec
import pytest

from simvirt.guests.flat import flat_image
from simvirt.machine.board import Board
from simvirt.machine.devices.screen import Screen
from simvirt.machine.devices.vga import TEXT_BUFFER, TEXT_BUFFER_SIZE, Vga, VgaState
from simvirt.machine.machine import Outcome
from simvirt.observe.session import run
from simvirt.strategies.registry import STRATEGIES
from simvirt.x86.addresses import Port
from tests.support.assembler import Assembler, d16, d32
from tests.support.console_guests import ORIGIN, out

STRATEGY_NAMES = [strategy.info.name for strategy in STRATEGIES]


class Adapter:
    """The adapter on a board, and its text buffer."""

    def __init__(self) -> None:
        self.board = Board(retired=lambda: 0)
        self.buffer = bytearray(TEXT_BUFFER_SIZE)

    def write(self, port: int, *values: int) -> None:
        for value in values:
            self.board.write_port(Port(port), 1, value)

    def read(self, port: int) -> int:
        return self.board.read_port(Port(port), 1)

    def crtc(self, index: int, value: int) -> None:
        self.board.write_port(Port(0x3D4), 2, value << 8 | index)

    def show(self, row: int, column: int, text: str, pitch: int = 80) -> None:
        for at, character in enumerate(text.encode("ascii"), row * pitch + column):
            self.buffer[2 * at : 2 * at + 2] = bytes((character, 0x1F))

    @property
    def screen(self) -> Screen:
        screen = self.board.screen(lambda _gpa, size: bytes(self.buffer[:size]))
        assert screen is not None
        return screen


def test_mode_3_shows_80_by_25() -> None:
    adapter = Adapter()
    adapter.show(0, 0, "first")
    adapter.show(24, 75, "last!")
    screen = adapter.screen
    assert (screen.columns, len(screen.lines), screen.cursor) == (80, 25, (0, 0))
    assert screen.lines[0] == "first"
    assert screen.lines[24] == " " * 75 + "last!"
    assert screen.attributes[:2] == b"\x1f\x1f"
    assert screen.text.startswith("first\n\n")


def test_the_start_address_scrolls_and_wraps() -> None:
    adapter = Adapter()
    adapter.show(3, 0, "three")
    adapter.crtc(0x0D, 240)
    assert adapter.screen.lines[0] == "three"
    adapter.show(0, 0, "zero")
    start = TEXT_BUFFER_SIZE // 2 - 80
    adapter.crtc(0x0C, start >> 8)
    adapter.crtc(0x0D, start & 0xFF)
    assert adapter.screen.lines[1] == "zero"


def test_the_cursor() -> None:
    adapter = Adapter()
    adapter.crtc(0x0E, 0x02)
    adapter.crtc(0x0F, 0x05)
    assert adapter.screen.cursor == divmod(0x205, 80)
    assert adapter.read(0x3D5) == 0x05
    adapter.crtc(0x0E, 0x20)
    assert adapter.screen.cursor is None
    adapter.crtc(0x0E, 0x00)
    adapter.crtc(0x0A, 0x2D)
    assert adapter.screen.cursor is None


def test_other_geometries() -> None:
    adapter = Adapter()
    adapter.crtc(0x09, 0x47)  # lines of eight: fifty rows
    assert len(adapter.screen.lines) == 50
    adapter.crtc(0x11, 0x0E)
    adapter.crtc(0x01, 39)
    adapter.crtc(0x13, 20)
    adapter.show(1, 0, "row one", pitch=40)
    assert (adapter.screen.columns, adapter.screen.lines[1]) == (40, "row one")
    adapter.board.write_port(Port(0x3CE), 2, 0x0506)
    assert adapter.board.screen(lambda _gpa, size: bytes(size)) is None


def test_the_font_has_all_characters() -> None:
    screen = Screen(256, bytes(range(256)), bytes(256), None)
    assert len(screen.lines[0]) == 255  # the last glyph is a blank
    assert len(set(screen.lines[0])) == 254  # as the first is, and the space
    assert screen.lines[0][0xDB] == "█"


def test_both_retrace_bits_change_with_each_look() -> None:
    adapter = Adapter()
    assert [adapter.read(0x3DA) & 9 for _ in range(4)] == [9, 0, 9, 0]


def test_the_attribute_port_takes_turns_and_status_begins_anew() -> None:
    adapter = Adapter()
    adapter.read(0x3DA)
    adapter.write(0x3C0, 0x10, 0x0C)
    adapter.write(0x3C0, 0x31)
    adapter.read(0x3DA)
    adapter.write(0x3C0, 0x30)
    assert (adapter.read(0x3C0), adapter.read(0x3C1)) == (0x30, 0x0C)


def test_a_restored_adapter_is_the_same() -> None:
    adapter = Adapter()
    adapter.crtc(0x0E, 3)
    adapter.write(0x3C8, 5, 1)
    adapter.write(0x3C9, 9)
    adapter.read(0x3DA)
    vga = adapter.board.devices["vga"]
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(vga.save()), type=VgaState)
    other = Vga()
    other.restore(state)
    assert other.save() == vga.save()


def screen_guest() -> bytes:
    """Fills the screen with blanks, writes a word, reads it back by MOVSB to the second row, and sets the cursor."""
    a = Assembler(ORIGIN)
    a.emit("fc bf", d32(TEXT_BUFFER), b"\xb8", d32(0x07200720), b"\xb9", d32(1000)).emit("f3 ab")
    a.address("be", "text")
    a.emit("bf", d32(TEXT_BUFFER), b"\xb9", d32(5))
    a.label("next")
    a.emit("a4 47")
    a.jump("e2", "next", size=1)
    a.emit("be", d32(TEXT_BUFFER), b"\xbf", d32(TEXT_BUFFER + 160), b"\xb9", d32(10)).emit("f3 a4")
    a.emit("66 ba", d16(0x3D4), b"\x66\xb8\x0f\x05\x66\xef")
    a.emit(out(0xF4, 0))
    a.label("text")
    a.emit(b"Hello")
    return a.finish()


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_a_guest_writes_to_the_screen_without_exits(strategy: str) -> None:
    result = run(flat_image(screen_guest(), "screen"), strategy, memory="4M")
    assert result.outcome is Outcome.FINISHED
    assert result.screen is not None
    assert result.screen.text == "Hello\nHello"
    assert result.screen.cursor == (0, 5)
    assert result.to_dict()["screen"] == "Hello\nHello"
    ports = 2
    assert result.counted.interventions <= ports + 1


def test_a_screen_that_nobody_wrote_to_is_not_in_json() -> None:
    assert "screen" not in run("hello").to_dict()
