"""The port bus: claims, splitting of wide accesses, and what nobody answers."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.errors import MonitorError
from simvirt.machine.bus import (
    ACCESS_SIZES,
    UNCLAIMED_LIMIT,
    AccessSize,
    BusState,
    IoDirection,
    PortBus,
    UnclaimedAccess,
)
from simvirt.x86.addresses import Port

BASE: Final = 0x300


class Recorder:
    """Gives the offset in every byte, and keeps what reaches it."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int] | tuple[int, int, int]] = []

    def read(self, offset: int, size: AccessSize) -> int:
        self.seen.append((offset, size))
        return int.from_bytes(bytes(range(offset, offset + size)), "little")

    def write(self, offset: int, size: AccessSize, value: int) -> None:
        self.seen.append((offset, size, value))


def test_wide_accesses_to_a_byte_device_are_byte_cycles_from_the_lowest_port_up() -> None:
    bus, device = PortBus(), Recorder()
    bus.claim(device, range(BASE, BASE + 4))
    assert bus.read(Port(BASE + 1), 2) == 0x0201
    assert bus.read(Port(BASE), 4) == 0x03020100
    bus.write(Port(BASE), 4, 0xDDCCBBAA)
    assert device.seen == [
        *((1, 1), (2, 1)),
        *((0, 1), (1, 1), (2, 1), (3, 1)),
        *((0, 1, 0xAA), (1, 1, 0xBB), (2, 1, 0xCC), (3, 1, 0xDD)),
    ]
    assert bus.unclaimed == []


def test_a_word_device_gets_two_words_of_a_doubleword() -> None:
    bus, device = PortBus(), Recorder()
    bus.claim(device, range(BASE, BASE + 4), widths=(1, 2))
    bus.write(Port(BASE), 4, 0xDDCCBBAA)
    bus.write(Port(BASE + 3), 1, 0x11)
    assert device.seen == [(0, 2, 0xBBAA), (2, 2, 0xDDCC), (3, 1, 0x11)]


@pytest.mark.parametrize("size", ACCESS_SIZES)
def test_a_device_that_takes_every_width_gets_every_access_whole(size: AccessSize) -> None:
    bus, device = PortBus(), Recorder()
    bus.claim(device, range(BASE, BASE + 4), widths=ACCESS_SIZES)
    bus.read(Port(BASE), size)
    assert device.seen == [(0, size)]


def test_offsets_run_on_over_several_ranges() -> None:
    bus, device = PortBus(), Recorder()
    bus.claim(device, range(0x20, 0x22), range(0xA0, 0xA2))
    assert [bus.read(Port(port), 1) for port in (0x20, 0x21, 0xA0, 0xA1)] == [0, 1, 2, 3]


def test_an_access_across_the_end_of_a_device_splits_and_the_rest_floats() -> None:
    bus, device = PortBus(), Recorder()
    bus.claim(device, range(BASE, BASE + 2), widths=(1, 2))
    assert bus.read(Port(BASE + 1), 2) == 0xFF01
    assert bus.read(Port(BASE - 1), 4) == 0xFF_01_00_FF
    assert [(entry.port, entry.size, entry.count) for entry in bus.unclaimed] == [(BASE + 2, 1, 2), (BASE - 1, 1, 1)]


@given(st.integers(0, 0xFFFF), st.sampled_from(ACCESS_SIZES))
def test_unclaimed_reads_are_all_ones_of_their_width(port: int, size: AccessSize) -> None:
    bus = PortBus()
    assert bus.read(Port(port), size) == (1 << 8 * size) - 1
    (entry,) = bus.unclaimed
    assert entry == UnclaimedAccess(Port(port), size, IoDirection.IN, (1 << 8 * size) - 1, 1)


def test_unclaimed_accesses_are_counted_by_port_direction_and_size() -> None:
    bus = PortBus()
    for value in range(1000):
        bus.write(Port(0x80), 1, value & 0xFF)
    bus.write(Port(0x80), 2, 7)
    bus.read(Port(0x80), 1)
    assert [(entry.size, entry.direction, entry.value, entry.count) for entry in bus.unclaimed] == [
        (1, IoDirection.OUT, 999 & 0xFF, 1000),
        (2, IoDirection.OUT, 7, 1),
        (1, IoDirection.IN, 0xFF, 1),
    ]


def test_the_list_of_unclaimed_accesses_is_bounded() -> None:
    bus = PortBus()
    for port in range(UNCLAIMED_LIMIT + 10):
        bus.read(Port(port), 1)
    bus.read(Port(0), 1)
    assert len(bus.unclaimed) == UNCLAIMED_LIMIT
    assert bus.unclaimed[0].count == 2
    assert bus.unlisted == 10
    bus.clear_unclaimed()
    assert (bus.unclaimed, bus.unlisted) == ([], 0)


def test_overlapping_claims_are_refused_whole() -> None:
    bus = PortBus()
    bus.claim(Recorder(), range(BASE + 2, BASE + 3))
    with pytest.raises(MonitorError, match="0x302 is claimed twice in width 1, by Recorder and by Recorder"):
        bus.claim(Recorder(), range(BASE, BASE + 4))
    assert bus.read(Port(BASE), 1) == 0xFF
    with pytest.raises(MonitorError, match="twice"):
        bus.claim(Recorder(), range(0x10, 0x12), range(0x11, 0x13))


def test_devices_may_share_a_port_in_different_widths() -> None:
    # As PCI's configuration address register (a doubleword only) and the reset control register (a byte inside it) do.
    bus, address, reset = PortBus(), Recorder(), Recorder()
    bus.claim(address, range(0xCF8, 0xCFC), widths=(4,))
    bus.claim(reset, range(0xCF9, 0xCFA))
    bus.write(Port(0xCF8), 4, 0x80000000)
    bus.write(Port(0xCF9), 1, 6)
    assert (address.seen, reset.seen) == ([(0, 4, 0x80000000)], [(0, 1, 6)])
    assert bus.read(Port(0xCF8), 2) == 0x00FF


@pytest.mark.parametrize("ports", [range(-1, 2), range(0xFFFF, 0x10001), range(5, 5), range(0, 8, 2)])
def test_claims_outside_the_port_space_are_refused(ports: range) -> None:
    with pytest.raises(MonitorError, match="within 0 to 0xFFFF"):
        PortBus().claim(Recorder(), ports)


def test_the_log_survives_a_snapshot_file() -> None:
    bus = PortBus()
    bus.write(Port(0x80), 1, 5)
    bus.read(Port(0x2F8), 2)
    restored = PortBus()
    restored.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(bus.save()), type=BusState))
    for each in (bus, restored):
        each.write(Port(0x80), 1, 6)
    assert restored.unclaimed == bus.unclaimed
    assert restored.unclaimed[0] == UnclaimedAccess(Port(0x80), 1, IoDirection.OUT, 6, 2)
