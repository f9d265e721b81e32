"""The I/O APIC (Intel 82093AA data sheet)."""

from __future__ import annotations

import pytest

from simvirt.machine.clock import GuestClock
from simvirt.machine.devices.io_apic import INPUTS, IOREGSEL, IOWIN, VERSION, IoApic
from simvirt.machine.devices.local_apic import LEVEL_TRIGGERED, MASKED, ApicRegister, LocalApic
from simvirt.machine.event_queue import EventQueue

REMOTE_IRR = 1 << 14


class Bench:
    def __init__(self) -> None:
        self.local = LocalApic(GuestClock(lambda: 0), EventQueue(), lambda _ns: None)
        self.chip = IoApic(self.local)

    def register(self, number: int, value: int | None = None) -> int:
        self.chip.write(IOREGSEL, 4, number)
        if value is not None:
            self.chip.write(IOWIN, 4, value)
        return self.chip.read(IOWIN, 4)

    def entry(self, number: int, low: int, high: int = 0) -> None:
        self.register(0x11 + 2 * number, high)
        self.register(0x10 + 2 * number, low)

    def take(self) -> int | None:
        return self.local.acknowledge() if self.local.interrupt_pending else None

    def end(self) -> None:
        self.local.write(ApicRegister.EOI, 4, 0)


def test_registers() -> None:
    bench = Bench()
    assert (bench.register(1), bench.register(0), bench.register(0, 0xFFFF_FFFF), bench.register(2)) == (
        VERSION, 0, 0x0F00_0000, 0x0F00_0000,
    )  # fmt: skip
    assert all(bench.register(0x10 + 2 * n) == MASKED for n in range(INPUTS))
    assert bench.register(0x12, 0xFFFF_FFFF) == 0x1_AFFF  # delivery status and remote IRR are read only
    assert bench.register(0x13, 0xFFFF_FFFF) == 0xFF00_0000
    assert (bench.register(0x40, 5), bench.register(0x03)) == (0, 0)
    assert bench.chip.read(IOREGSEL, 1) == 0x03


def test_an_edge_is_one_interrupt_and_a_masked_one_is_lost() -> None:
    bench = Bench()
    bench.chip.set_line(4, True)
    bench.entry(4, 0x44)
    assert bench.take() is None
    bench.chip.set_line(4, False)
    bench.chip.set_line(4, True)
    bench.chip.set_line(4, True)
    assert bench.take() == 0x44
    bench.end()
    assert bench.take() is None


def test_a_level_interrupts_until_the_line_falls() -> None:
    bench = Bench()
    bench.entry(9, LEVEL_TRIGGERED | 0x59)
    bench.chip.set_line(9, True)
    assert bench.take() == 0x59
    assert bench.register(0x10 + 18) & REMOTE_IRR
    assert not bench.chip.can_deliver(9)
    bench.end()
    assert bench.take() == 0x59
    bench.chip.set_line(9, False)
    bench.end()
    assert (bench.take(), bench.register(0x10 + 18) & REMOTE_IRR) == (None, 0)
    bench.entry(9, MASKED | LEVEL_TRIGGERED | 0x59)
    bench.chip.set_line(9, True)
    assert bench.take() is None
    bench.entry(9, LEVEL_TRIGGERED | 0x59)  # a level waits behind its mask
    assert bench.take() == 0x59


MESSAGES = [(0, 0x40, True), (0x0700_0000, 0x40, False), (0xFF00_0000, 0x40, True)]


@pytest.mark.parametrize(("high", "low", "arrives"), MESSAGES)
def test_messages_for_others_are_nobodys(high: int, low: int, arrives: bool) -> None:
    bench = Bench()
    bench.entry(1, low, high)
    assert bench.chip.can_deliver(1) is arrives
    bench.chip.set_line(1, True)
    assert (bench.take() is not None) is arrives


def test_a_restored_chip_goes_on() -> None:
    bench, other = Bench(), Bench()
    bench.entry(9, LEVEL_TRIGGERED | 0x59)
    bench.chip.set_line(9, True)
    other.chip.restore(bench.chip.save())
    other.local.restore(bench.local.save())
    assert other.take() == 0x59
    other.end()
    assert other.take() == 0x59
    other.chip.reset()
    assert other.chip.save() == Bench().chip.save()
