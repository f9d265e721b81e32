"""Waiting for a device by polling it: time passes, and the same under every strategy."""

from __future__ import annotations

from simvirt.guests.flat import flat_image
from simvirt.machine.machine import Machine, Outcome
from simvirt.strategies.registry import STRATEGIES
from simvirt.strategies.strategy import MachineConfig, Strategy
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import find_cpu_model
from tests.support.assembler import Assembler, d32
from tests.support.console_guests import ORIGIN, out, set_up_interrupts


def machine(strategy: Strategy, code: bytes) -> Machine:
    return strategy.build(flat_image(code, "waiting"), MachineConfig(4 << 20, find_cpu_model("core2"))).machine


def test_a_wait_by_counter_2_is_the_same_under_every_strategy() -> None:
    """50 ms by polling port 0x61, while the timer interrupts: few reads, and RDTSC tells the time that passed."""
    a = Assembler(ORIGIN)
    set_up_interrupts(a, 0xFE, 0)
    a.emit(out(0x43, 0x34)).emit(out(0x40, 0x00, 0x10)).emit("fb")
    a.emit(out(0x61, 0x01)).emit(out(0x43, 0xB0)).emit(out(0x42, 0x00, 0xE9))  # 59,648 pulses: 50 ms
    a.emit("0f 31 89 c6 31 db")
    a.label("poll")
    a.emit("43 e4 61 a8 20")
    a.jump("74", "poll", size=1)
    a.emit("0f 31 29 f0 a3", d32(0x5010), b"\x89\x1d" + d32(0x5014))
    a.emit(out(0xF4, 0))
    a.label("handler")
    a.emit("ff 05", d32(0x5000), b"\x50")
    a.emit("b0 20 e6 20 58 cf")
    results = []
    for strategy in STRATEGIES:
        pc = machine(strategy, a.finish())
        assert pc.run(2_000_000) is Outcome.FINISHED
        results.append((pc.count, pc.board.clock.now(), pc.read_physical(Gpa(0x5000), 0x18)))
    assert len(set(results)) == 1
    memory = results[0][2]
    ticks, elapsed, reads = (int.from_bytes(memory[at : at + 4], "little") for at in (0, 0x10, 0x14))
    assert 49_000_000 < elapsed < 51_000_000
    assert 14 <= ticks <= 15
    assert 40_000 < reads < 60_000
