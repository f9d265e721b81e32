"""Repeated INS and OUTS in one go are what they are one by one: counts, times, interrupts, faults, the same bytes."""

from __future__ import annotations

import random

import pytest

from simvirt.guests.flat import flat_image
from simvirt.machine.machine import Machine, Outcome
from simvirt.strategies.registry import STRATEGIES
from simvirt.strategies.strategy import MachineConfig, Strategy
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import find_cpu_model
from tests.support.assembler import Assembler, d16, d32
from tests.support.console_guests import ORIGIN, out, set_up_interrupts

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.info.name)
DATA = 0x20FF0
"""So that a transfer crosses a page."""


def guest(period: int) -> bytes:
    """Reads the running counter of the timer, then sends what it read, by REP INSB, INSW and OUTSB, with interrupts."""
    a = Assembler(ORIGIN)
    set_up_interrupts(a, 0xFE, 0)
    a.emit("fc")
    a.emit(out(0x43, 0x34)).emit(out(0x40, period & 0xFF, period >> 8)).emit(out(0x43, 0xB6)).emit(out(0x42, 0, 0))
    a.emit(out(0x61, 0x01)).emit("fb")
    for prefix in ("f3 6c", "66 f3 6d"):
        a.emit("66 ba", d16(0x42), b"\xbf", d32(DATA), b"\xb9", d32(3000)).emit(prefix)
    a.emit("66 ba", d16(0x3F8), b"\xbe", d32(DATA), b"\xb9", d32(200)).emit("f3 6e")
    a.emit("66 ba", d16(0x3F8), b"\xbe", d32(DATA + 150), b"\xb9", d32(100)).emit("fd f3 6e fc")
    a.emit(out(0xF4, 0))
    a.label("handler")
    a.emit("ff 05", d32(0x5000), b"\x50" + out(0x20, 0x20) + b"\x58")
    a.emit("66 ba 42 00")  # DX is the handler's, too
    a.emit("cf")
    return a.finish()


def machine(strategy: Strategy, code: bytes) -> Machine:
    return strategy.build(flat_image(code, "strings"), MachineConfig(4 << 20, find_cpu_model("core2"))).machine


@every_strategy
def test_in_one_go_as_one_by_one(strategy: Strategy) -> None:
    code = guest(3)
    whole, pieces = machine(strategy, code), machine(strategy, code)
    assert whole.run(100_000) is Outcome.FINISHED
    rng = random.Random(1)
    while pieces.outcome is None:
        pieces.run_to(pieces.count + rng.choice((1, 1, 2, 3, 17, 200)))
    assert pieces.outcome is Outcome.FINISHED
    assert pieces.count == whole.count
    assert pieces.processor.guest_state().differences(whole.processor.guest_state()) == []
    assert pieces.board.save() == whole.board.save()
    assert whole.read_physical(Gpa(0x5000), 1) != b"\0"
    for at, size in ((0x5000, 4), (DATA, 6000)):
        assert pieces.read_physical(Gpa(at), size) == whole.read_physical(Gpa(at), size)


def test_a_thousand_words_need_few_entries_of_the_engine() -> None:
    a = Assembler(ORIGIN)
    a.emit("fc 66 ba", d16(0x42), b"\xbf", d32(DATA), b"\xb9", d32(1000)).emit("66 f3 6d")
    a.emit(out(0xF4, 0))
    strategy = next(strategy for strategy in STRATEGIES if strategy.info.name == "bare-metal")
    built = strategy.build(flat_image(a.finish(), "strings"), MachineConfig(4 << 20, find_cpu_model("core2")))
    assert built.machine.run() is Outcome.FINISHED
    assert built.cpu.engine.statistics["entries"] < 30
