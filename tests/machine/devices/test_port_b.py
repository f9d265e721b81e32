"""System control port B (IBM PC/AT Technical Reference; Intel 82371AB data sheet, NMISC)."""

from __future__ import annotations

import msgspec

from simvirt.machine.clock import GuestClock
from simvirt.machine.devices.nmi_gate import NmiGate
from simvirt.machine.devices.pit import Pit8254, pulse_time
from simvirt.machine.devices.port_b import REFRESH_PULSES, PortB, PortBState
from simvirt.machine.devices.slow_reads import ACCESS_NS, LOOKS_OF_A_READER
from simvirt.machine.event_queue import EventQueue


def bench() -> tuple[GuestClock, Pit8254, PortB]:
    clock = GuestClock(lambda: 0)
    pit = Pit8254(clock, EventQueue(), lambda _level: None)
    gate = NmiGate(lambda: None)
    return clock, pit, PortB(clock, pit, lambda nanoseconds: clock.skip_to(clock.now() + nanoseconds), gate)


def test_four_bits_can_be_written() -> None:
    _, pit, port = bench()
    port.write(0, 1, 0xFE)
    assert port.read(0, 1) & 0xCF == 0x0E
    pit.write(3, 1, 0xB0)  # mode 0: OUT 2 low
    assert port.read(0, 1) == 0x0E


def test_the_refresh_bit_toggles_every_eighteen_pulses() -> None:
    clock, _, port = bench()
    seen = []
    for periods in range(6):
        clock.skip_to(pulse_time(periods * REFRESH_PULSES))
        first = port.read(0, 1) & 0x10
        clock.skip_to(pulse_time((periods + 1) * REFRESH_PULSES) - 1)
        assert port.read(0, 1) & 0x10 == first
        seen.append(first >> 4)
    assert seen == [0, 1, 0, 1, 0, 1]


def test_a_delay_by_counter_2_as_kernels_calibrate_with_it() -> None:
    clock, pit, port = bench()
    port.write(0, 1, 0x01)
    pit.write(3, 1, 0xB0)
    pit.write(2, 1, 0xA9)
    pit.write(2, 1, 0x04)  # 1193 pulses: a millisecond
    clock.skip_to(pulse_time(1193))
    assert not port.read(0, 1) & 0x20
    clock.skip_to(pulse_time(1194))
    assert port.read(0, 1) & 0x20


def test_reset_closes_the_gate() -> None:
    _, pit, port = bench()
    port.write(0, 1, 0x0F)
    port.reset()
    pit.write(3, 1, 0xB0)
    assert port.read(0, 1) == 0


def test_a_program_that_only_waits_takes_as_long_for_a_read_as_on_the_bus() -> None:
    clock, _, port = bench()
    for _ in range(LOOKS_OF_A_READER):
        port.read(0, 1)
    assert clock.now() == 0
    port.read(0, 1)
    assert clock.now() == ACCESS_NS
    clock.skip_to(clock.now() + ACCESS_NS + 1)  # something else has been done
    before = clock.now()
    port.read(0, 1)
    assert clock.now() == before


def nmi_bench() -> tuple[list[str], NmiGate, PortB]:
    clock = GuestClock(lambda: 0)
    edges: list[str] = []
    gate = NmiGate(lambda: edges.append("NMI"))
    return edges, gate, PortB(clock, Pit8254(clock, EventQueue(), lambda _level: None), lambda _ns: None, gate)


def test_an_error_is_latched_and_an_nmi_until_its_check_is_disabled() -> None:
    edges, _, port = nmi_bench()
    port.io_channel_check()
    assert port.read(0, 1) & 0xC0 == 0x40
    port.io_channel_check()
    assert edges == ["NMI"]  # no further edge while the pin is high
    port.write(0, 1, 0x08)
    assert port.read(0, 1) & 0xC8 == 0x08
    port.io_channel_check()
    assert port.read(0, 1) & 0xC0 == 0
    port.write(0, 1, 0x00)
    port.io_channel_check()
    assert edges == ["NMI", "NMI"]


def test_parity_has_bits_of_its_own() -> None:
    edges, _, port = nmi_bench()
    port.write(0, 1, 0x08)
    port.parity_error()
    assert port.read(0, 1) & 0xC0 == 0x80
    port.io_channel_check()
    assert port.read(0, 1) & 0xC0 == 0x80
    port.write(0, 1, 0x04)
    assert port.read(0, 1) & 0xC0 == 0
    port.parity_error()
    assert edges == ["NMI"]


def test_opening_the_mask_on_a_standing_error_is_an_edge() -> None:
    edges, gate, port = nmi_bench()
    gate.mask(True)
    port.parity_error()
    assert not gate.output
    gate.mask(False)
    gate.mask(True)
    gate.mask(False)
    assert edges == ["NMI", "NMI"]


def test_a_restored_error_is_no_new_edge() -> None:
    _, _, port = nmi_bench()
    port.io_channel_check()
    state = msgspec.convert(msgspec.to_builtins(port.save()), PortBState)
    edges, gate, other = nmi_bench()
    other.restore(state)
    assert gate.output
    assert other.read(0, 1) & 0xC0 == 0x40
    assert edges == []
    other.reset()
    assert not gate.output
