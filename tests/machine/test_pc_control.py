"""Control of the PC by its guest, under every strategy: reset, the A20 gate, and the keyboard."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from simvirt.guests.flat import LOAD_ADDRESS, flat_image
from simvirt.machine.machine import Machine, MachineState, Outcome
from simvirt.strategies.registry import STRATEGIES
from simvirt.strategies.strategy import MachineConfig, Strategy
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import find_cpu_model
from tests.support.assembler import Assembler, d16, d32

MEMORY = 4 << 20
LOW = 0x8000
"""Code that closes the gate runs here: at the load address, an odd megabyte, it would lose itself."""

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.info.name)


def out(port: int, *values: int) -> bytes:
    """MOV DX, port; then MOV AL, value; OUT DX, AL for each value."""
    return b"\x66\xba" + d16(port) + b"".join(b"\xb0" + bytes([value]) + b"\xee" for value in values)


def machine(strategy: Strategy, code: bytes) -> Machine:
    built = strategy.build(flat_image(code, "test"), MachineConfig(MEMORY, find_cpu_model("core2")))
    return built.machine


@every_strategy
@pytest.mark.parametrize(
    "code",
    [out(0x64, 0xFE), out(0x92, 0x01), out(0xCF9, 0x02, 0x06), out(0x64, 0xD1) + out(0x60, 0xC2)],
    ids=["8042 pulse", "port A", "0xCF9", "8042 output port"],
)
def test_ways_to_reset(strategy: Strategy, code: bytes) -> None:
    pc = machine(strategy, code + out(0xF4, 1))
    assert pc.run(1000) is Outcome.RESET
    assert pc.board.exit_status is None


def a20_guest() -> bytes:
    """Writes to 0x1000 and 0x101000 with the gate open, closed by the 8042 and opened by port A, and reads back."""
    a = Assembler(LOAD_ADDRESS)
    a.emit("fc b9", d32(0x400))
    a.address("be", "low")
    a.emit("bf", d32(LOW)).emit("f3 a4")
    a.emit("b8", d32(LOW)).emit("ff e0")
    a.label("low")
    show = 0x2000
    a.emit("c6 05", d32(0x1000), b"\x01").emit("c6 05", d32(0x101000), b"\x02")
    a.emit("a0", d32(0x1000)).emit("a2", d32(show))
    a.emit(out(0x64, 0xD1)).emit(out(0x60, 0xDD))
    a.emit("a0", d32(0x101000)).emit("a2", d32(show + 1))
    a.emit("c6 05", d32(0x301000), b"\x03").emit("a0", d32(0x201000)).emit("a2", d32(show + 2))
    a.emit("c6 05", d32(0x101000), b"\x04").emit("a0", d32(0x1000)).emit("a2", d32(show + 3))
    a.emit(out(0x92, 0x02))
    a.emit("a0", d32(0x101000)).emit("a2", d32(show + 4))
    a.emit("a0", d32(0x301000)).emit("a2", d32(show + 5))
    a.emit(out(0xF4, 0))
    return a.finish()


A20_SHOWS = bytes((1, 1, 3, 4, 2, 0))


@every_strategy
def test_the_a20_gate_folds_odd_megabytes_onto_even_ones(strategy: Strategy) -> None:
    pc = machine(strategy, a20_guest())
    assert pc.run(10_000) is Outcome.FINISHED
    assert pc.read_physical(Gpa(0x2000), 6) == A20_SHOWS


@every_strategy
def test_a_machine_saved_behind_a_closed_gate_goes_on_alike(strategy: Strategy) -> None:
    first = machine(strategy, a20_guest())
    while first.board.a20:
        first.step()
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(first.save()), type=MachineState)
    second = machine(strategy, a20_guest())
    processor = msgspec.convert(state.processor, type(second.processor.save()))
    second.restore(replace(state, processor=processor))
    assert not second.board.a20
    assert second.run(10_000) is first.run(10_000) is Outcome.FINISHED
    assert second.read_physical(Gpa(0x2000), 6) == A20_SHOWS
    # and back: the gate is open in the machine, closed in the state
    second.restore(replace(state, processor=processor))
    second.run(10_000)
    assert second.read_physical(Gpa(0x2000), 6) == A20_SHOWS


@every_strategy
def test_descriptor_tables_behind_the_gate_are_followed(strategy: Strategy) -> None:
    """A GDT that is written through its other address while the gate is closed, and loaded from."""
    a = Assembler(LOAD_ADDRESS)
    a.emit("fc b9", d32(0x400))
    a.address("be", "low")
    a.emit("bf", d32(LOW)).emit("f3 a4")
    a.emit("b8", d32(LOW)).emit("ff e0")
    a.label("low")
    a.emit(out(0x92, 0x00))
    gdt = 0x3000
    a.emit("c7 05", d32(gdt + 8), d32(0x0000FFFF)).emit("c7 05", d32(gdt + 12), d32(0x00CF9A00))
    a.emit("c7 05", d32(gdt + 16), d32(0x0000FFFF)).emit("c7 05", d32(gdt + 20), d32(0x00CF9200))
    a.emit("66 c7 05", d32(0x2800), d16(31)).emit("c7 05", d32(0x2802), d32(gdt | 1 << 20))
    a.emit("0f 01 15", d32(0x2800))
    a.emit("66 b8 10 00 8e d8")
    # through the gate's other side: a descriptor with base 0x4000
    a.emit("c7 05", d32(gdt + 24), d32(0x4000FFFF)).emit("c7 05", d32(gdt + 28), d32(0x00CF9200))
    a.emit("66 b8 18 00 8e c0").emit("26 c6 05", d32(0x10), b"\x5a")
    a.emit(out(0xF4, 0))
    pc = machine(strategy, a.finish())
    assert pc.run(10_000) is Outcome.FINISHED
    assert pc.read_physical(Gpa(0x4010), 1) == b"\x5a"


@every_strategy
def test_keys_interrupt_and_are_read(strategy: Strategy) -> None:
    a = Assembler(LOAD_ADDRESS)
    a.emit(out(0x20, 0x11)).emit(out(0x21, 0x20, 0x04, 0x01, 0xFD))
    a.emit("c7 05", d32(0x3008), d32(0x0000FFFF)).emit("c7 05", d32(0x300C), d32(0x00CF9A00))
    a.emit("c7 05", d32(0x3010), d32(0x0000FFFF)).emit("c7 05", d32(0x3014), d32(0x00CF9200))
    a.emit("66 c7 05", d32(0x2800), d16(23)).emit("c7 05", d32(0x2802), d32(0x3000)).emit("0f 01 15", d32(0x2800))
    a.emit("66 c7 05", d32(0x2800), d16(0x10F)).emit("c7 05", d32(0x2802), d32(0x4000)).emit("0f 01 1d", d32(0x2800))
    a.address("b8", "handler")
    a.emit("66 a3", d32(0x4108)).emit("66 c7 05", d32(0x410A), d16(8)).emit("c1 e8 10")
    a.emit("66 c7 05", d32(0x410C), d16(0x8E00)).emit("66 a3", d32(0x410E))
    a.emit("bf", d32(0x2000))
    a.emit("fb")
    a.label("loop")
    a.emit("f4")
    a.jump("eb", "loop", size=1)
    a.label("handler")
    a.emit("e4 60 88 07 47 b0 20 e6 20 cf")
    pc = machine(strategy, a.finish())
    assert pc.run(10_000) is Outcome.WAITING_FOR_INPUT
    pc.board.type_keys("hi\n")
    pc.resume()
    assert pc.run(100_000) is Outcome.WAITING_FOR_INPUT
    assert pc.read_physical(Gpa(0x2000), 7) == bytes((0x23, 0xA3, 0x17, 0x97, 0x1C, 0x9C, 0))
