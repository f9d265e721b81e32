"""Guests that talk: an echo by interrupts of the serial port, one by polling it, and one that polls the keyboard."""

from __future__ import annotations

from tests.support.assembler import Assembler, d16, d32

ORIGIN = 0x100000
_GDT, _IDT, _POINTER = 0x3000, 0x4000, 0x2800
LAST = ord("q")
"""The character at which the guests end, with the status 5."""


def out(port: int, *values: int) -> bytes:
    """MOV DX, port; then MOV AL, value; OUT DX, AL for each value."""
    return b"\x66\xba" + d16(port) + b"".join(b"\xb0" + bytes([value]) + b"\xee" for value in values)


def store32(address: int, value: int) -> bytes:
    """MOV dword [address], value."""
    return b"\xc7\x05" + d32(address) + d32(value)


def set_up_interrupts(a: Assembler, mask: int, irq: int) -> None:
    """The 8259A pair, a flat GDT, and an IDT whose one gate leads to the label `handler`."""
    a.emit(out(0x20, 0x11)).emit(out(0x21, 0x20, 0x04, 0x01, mask))
    a.emit(store32(_GDT + 8, 0x0000FFFF)).emit(store32(_GDT + 12, 0x00CF9A00))
    a.emit(store32(_GDT + 16, 0x0000FFFF)).emit(store32(_GDT + 20, 0x00CF9200))
    for opcode, limit, base in (("0f 01 15", 23, _GDT), ("0f 01 1d", 0x1FF, _IDT)):
        a.emit("66 c7 05", d32(_POINTER), d16(limit)).emit(store32(_POINTER + 2, base)).emit(opcode, d32(_POINTER))
    gate = _IDT + (0x20 + irq) * 8
    a.address("b8", "handler")
    a.emit("66 a3", d32(gate)).emit("66 c7 05", d32(gate + 2), d16(8)).emit("c1 e8 10")
    a.emit("66 c7 05", d32(gate + 4), d16(0x8E00)).emit("66 a3", d32(gate + 6))


def echo_by_interrupts(fcr: int = 0x01, before: bytes = b"") -> bytes:
    """Sleeps, and sends back what it receives; `q` ends it."""
    a = Assembler(ORIGIN)
    a.emit(before)
    set_up_interrupts(a, 0xEF, 4)
    a.emit(out(0x3FA, fcr)).emit(out(0x3FC, 0x0B)).emit(out(0x3F9, 0x01))
    a.emit("fb")
    a.label("sleep")
    a.emit("f4")
    a.jump("eb", "sleep", size=1)
    a.label("handler")
    a.emit("66 ba fd 03 ec a8 01")  # LSR: a character?
    a.jump("74", "done", size=1)
    a.emit("66 ba f8 03 ec ee 3c", bytes([LAST]))
    a.jump("75", "handler", size=1)
    a.emit(out(0xF4, 5))
    a.label("done")
    a.emit(out(0x20, 0x20)).emit("cf")
    return a.finish()


def echo_by_polling() -> bytes:
    """Looks at LSR until a character is there, and sends it back; `q` ends it."""
    a = Assembler(ORIGIN)
    a.label("poll")
    a.emit("66 ba fd 03 ec a8 01")
    a.jump("74", "poll", size=1)
    a.emit("66 ba f8 03 ec ee 3c", bytes([LAST]))
    a.jump("75", "poll", size=1)
    a.emit(out(0xF4, 5))
    return a.finish()


def codes_by_polling(count: int) -> bytes:
    """Sends that many scan codes of the keyboard over the serial port."""
    a = Assembler(ORIGIN)
    a.emit("b9", d32(count))
    a.label("poll")
    a.emit("e4 64 a8 01")
    a.jump("74", "poll", size=1)
    a.emit("e4 60 66 ba f8 03 ee")
    a.jump("e2", "poll", size=1)
    a.emit(out(0xF4, 5))
    return a.finish()


def ticking_echo() -> bytes:
    """As `echo_by_interrupts`, with a timer that goes on and on."""
    return echo_by_interrupts(before=out(0x43, 0x34) + out(0x40, 0x00, 0x10))
