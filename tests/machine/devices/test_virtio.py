"""virtio over memory-mapped registers, its disk and its console (VIRTIO 1.2), as a driver sees them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simvirt.machine.clock import GuestClock
from simvirt.machine.devices.virtio_block import IDENTITY, RequestStatus, RequestType, VirtioBlock
from simvirt.machine.devices.virtio_console import RECEIVE, TRANSMIT, VirtioConsole
from simvirt.machine.devices.virtio_mmio import LATENCY_NS, MmioRegister, Status, VirtioMmio
from simvirt.machine.direct_memory import DirectMemory, MasterAbort
from simvirt.machine.disk import DiskImage, DiskOption
from simvirt.machine.event_queue import EventQueue
from simvirt.machine.memory import AddressSpace, Region, RegionKind
from simvirt.x86.addresses import Gpa, Hpa

if TYPE_CHECKING:
    from pathlib import Path

R = MmioRegister
RAM_SIZE, ROM_AT = 0x40_0000, 0x50_0000
QUEUE, BUFFERS = 0x1_0000, 0x10_0000
DRIVER_OK = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
NEXT, WRITE, INDIRECT = 1, 2, 4


class Bench:
    """The wires of a device, and memory: 4 MiB of RAM, a hole, a page of ROM."""

    def __init__(self) -> None:
        self.bytes = bytearray(RAM_SIZE + 0x1000)
        self.written: list[tuple[int, int]] = []
        self.memory = DirectMemory()
        space = AddressSpace(
            [
                Region(Gpa(0), RAM_SIZE, RegionKind.RAM, Hpa(0)),
                Region(Gpa(ROM_AT), 0x1000, RegionKind.ROM, Hpa(RAM_SIZE)),
            ]
        )
        self.memory.connect(memoryview(self.bytes), space, lambda at, size: self.written.append((at, size)))
        self.clock = GuestClock(lambda: 0)
        self.events = EventQueue()
        self.line = False

    def set_line(self, level: bool) -> None:
        self.line = level

    def work(self) -> None:
        self.clock.skip_to(self.clock.now() + LATENCY_NS)
        self.events.run_due(self.clock.now())


class Driver:
    """A driver: negotiates, lays queues out one after the other, and makes buffers available."""

    def __init__(self, bench: Bench, device: VirtioMmio, size: int = 8) -> None:
        self.bench, self.device, self.size = bench, device, size
        self.made = [0, 0]

    def set(self, register: int, value: int) -> None:
        self.device.write(register, 4, value)

    def get(self, register: int) -> int:
        return self.device.read(register, 4)

    def area(self, queue: int) -> int:
        return QUEUE + 0x4000 * queue

    def start(self) -> None:
        self.set(R.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        for half in (0, 1):
            self.set(R.DEVICE_FEATURES_SEL, half)
            self.set(R.DRIVER_FEATURES_SEL, half)
            self.set(R.DRIVER_FEATURES, self.get(R.DEVICE_FEATURES))
        self.set(R.STATUS, DRIVER_OK & ~Status.DRIVER_OK)
        assert self.get(R.STATUS) & Status.FEATURES_OK
        for queue in range(self.device.queue_count):
            self.set(R.QUEUE_SEL, queue)
            self.set(R.QUEUE_SIZE, self.size)
            for register, offset in ((R.QUEUE_DESC_LOW, 0), (R.QUEUE_DRIVER_LOW, 0x1000), (R.QUEUE_DEVICE_LOW, 0x2000)):
                self.set(register, self.area(queue) + offset)
                self.set(register + 4, 0)
            self.set(R.QUEUE_READY, 1)
        self.set(R.STATUS, DRIVER_OK)

    def descriptor(self, queue: int, number: int, gpa: int, size: int, flags: int = 0, following: int = 0) -> None:
        struct.pack_into("<QIHH", self.bench.bytes, self.area(queue) + 16 * number, gpa, size, flags, following)

    def offer(self, queue: int, head: int) -> None:
        at, made = self.area(queue) + 0x1000, self.made[queue]
        struct.pack_into("<H", self.bench.bytes, at + 4 + 2 * (made % self.size), head)
        self.made[queue] = made + 1 & 0xFFFF
        struct.pack_into("<H", self.bench.bytes, at + 2, self.made[queue])
        self.set(R.QUEUE_NOTIFY, queue)

    def used(self, queue: int) -> list[tuple[int, int]]:
        at = self.area(queue) + 0x2000
        count = struct.unpack_from("<H", self.bench.bytes, at + 2)[0]
        return [struct.unpack_from("<II", self.bench.bytes, at + 4 + 8 * (n % self.size)) for n in range(count)]


class Disk(Driver):
    def __init__(self, tmp_path: Path, *, writable: bool = False) -> None:
        self.path = tmp_path / "disk"
        self.path.write_bytes(b"".join(bytes([n]) * 512 for n in range(32)))
        bench = Bench()
        image = DiskImage(DiskOption(self.path, writable))
        block = VirtioBlock(bench.clock, bench.events, bench.set_line, bench.memory, image)
        super().__init__(bench, block)

    def request(self, kind: int, sector: int, data: int | bytes, at: int = BUFFERS + 0x1000) -> int | None:
        """One request with its data at `at`, in or out; its status, None when the device wants a reset."""
        memory = self.bench.bytes
        memory[BUFFERS : BUFFERS + 16] = struct.pack("<IIQ", kind, 0, sector)
        memory[BUFFERS + 16] = 0xEE
        size = data if isinstance(data, int) else len(data)
        if isinstance(data, bytes):
            memory[at : at + size] = data
        self.descriptor(0, 0, BUFFERS, 16, NEXT, 1)
        self.descriptor(0, 1, at, size, NEXT | (WRITE if isinstance(data, int) else 0), 2)
        self.descriptor(0, 2, BUFFERS + 16, 1, WRITE)
        self.offer(0, 0)
        self.bench.work()
        if self.get(R.STATUS) & Status.DEVICE_NEEDS_RESET:
            return None
        return memory[BUFFERS + 16]


def test_identification_and_features(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    assert (disk.get(R.MAGIC), disk.get(R.VERSION), disk.get(R.DEVICE_ID)) == (0x74726976, 2, 2)
    assert struct.unpack("<Q", b"".join(disk.device.read(R.CONFIG + n, 1).to_bytes(1, "little") for n in range(8))) == (
        32,
    )
    assert disk.device.read(R.CONFIG + 20, 4) == 512
    disk.set(R.DEVICE_FEATURES_SEL, 1)
    assert disk.get(R.DEVICE_FEATURES) == 1
    disk.set(R.DEVICE_FEATURES_SEL, 7)
    assert disk.get(R.DEVICE_FEATURES) == 0
    disk.set(R.QUEUE_SEL, 5)
    assert (disk.get(R.QUEUE_SIZE_MAX), disk.get(R.QUEUE_READY), disk.device.read(R.MAGIC, 1)) == (0, 0, 0)


def test_features_that_are_not_offered_and_the_legacy_interface_are_refused(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.set(R.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
    assert not disk.get(R.STATUS) & Status.FEATURES_OK
    for half, value in ((0, 1 << 5), (1, 1)):
        disk.set(R.DRIVER_FEATURES_SEL, half)
        disk.set(R.DRIVER_FEATURES, value)
    disk.set(R.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
    assert not disk.get(R.STATUS) & Status.FEATURES_OK


def test_sectors_are_read_and_written(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.start()
    assert disk.request(RequestType.IN, 5, 1024) == RequestStatus.OK
    assert disk.bench.bytes[BUFFERS + 0x1000 : BUFFERS + 0x1400] == bytes([5]) * 512 + bytes([6]) * 512
    assert (disk.used(0), disk.bench.line, disk.get(R.INTERRUPT_STATUS)) == ([(0, 1025)], True, 1)
    disk.set(R.INTERRUPT_ACK, 1)
    assert not disk.bench.line
    assert disk.request(RequestType.OUT, 5, b"x" * 512) == RequestStatus.OK
    assert disk.request(RequestType.IN, 5, 512) == RequestStatus.OK
    assert disk.bench.bytes[BUFFERS + 0x1000 : BUFFERS + 0x1200] == b"x" * 512
    assert disk.path.read_bytes()[5 * 512] == 5  # copy on write
    assert disk.request(RequestType.GET_ID, 0, 20) == RequestStatus.OK
    assert disk.bench.bytes[BUFFERS + 0x1000 : BUFFERS + 0x1014] == IDENTITY
    assert all(at + size <= RAM_SIZE for at, size in disk.bench.written)


def test_a_writable_disk_changes_its_file(tmp_path: Path) -> None:
    disk = Disk(tmp_path, writable=True)
    disk.start()
    assert disk.request(RequestType.OUT, 31, b"y" * 512) == RequestStatus.OK
    assert disk.request(RequestType.FLUSH, 0, b"") == RequestStatus.OK
    assert disk.path.read_bytes()[31 * 512 :] == b"y" * 512


@pytest.mark.parametrize(
    ("kind", "sector", "data", "status"),
    [
        (RequestType.IN, 31, 1024, RequestStatus.IOERR), (RequestType.IN, 1 << 63, 512, RequestStatus.IOERR),
        (RequestType.IN, 0, 100, RequestStatus.IOERR), (RequestType.OUT, 32, b"z" * 512, RequestStatus.IOERR),
        (11, 0, 512, RequestStatus.UNSUPP),
    ],
)  # fmt: skip
def test_impossible_requests_fail_and_change_nothing(
    tmp_path: Path, kind: int, sector: int, data: int | bytes, status: RequestStatus
) -> None:
    disk = Disk(tmp_path, writable=True)
    before = disk.path.read_bytes()
    disk.start()
    assert disk.request(kind, sector, data) == status
    assert disk.path.read_bytes() == before


@pytest.mark.parametrize("at", [RAM_SIZE - 256, RAM_SIZE, ROM_AT, 1 << 40, (1 << 64) - 512])
def test_dma_outside_memory_is_refused_and_the_device_wants_a_reset(tmp_path: Path, at: int) -> None:
    disk = Disk(tmp_path)
    disk.start()
    before = bytes(disk.bench.bytes[RAM_SIZE - 256 :])
    assert disk.request(RequestType.IN, 3, 512, at=at) is None
    assert bytes(disk.bench.bytes[RAM_SIZE - 256 :]) == before
    assert disk.get(R.INTERRUPT_STATUS) == 2
    disk.set(R.STATUS, 0)
    disk.made = [0, 0]
    disk.start()
    assert disk.request(RequestType.IN, 3, 512) == RequestStatus.OK


def broken_rings(disk: Disk, kind: str) -> None:
    if kind == "circle":
        disk.descriptor(0, 0, BUFFERS, 16, NEXT, 0)
    elif kind == "no such descriptor":
        disk.descriptor(0, 0, BUFFERS, 16, NEXT, 8)
    elif kind == "order":
        disk.descriptor(0, 0, BUFFERS, 16, NEXT | WRITE, 1)
        disk.descriptor(0, 1, BUFFERS, 16)
    elif kind == "no status":
        disk.descriptor(0, 0, BUFFERS, 16)
    elif kind == "indirect in indirect":
        disk.descriptor(0, 0, BUFFERS, 16, INDIRECT)
        struct.pack_into("<QIHH", disk.bench.bytes, BUFFERS, BUFFERS, 16, INDIRECT, 0)
    elif kind == "indirect size":
        disk.descriptor(0, 0, BUFFERS, 17, INDIRECT)
    elif kind == "index":
        disk.made[0] = 100
    disk.offer(0, 0)


@pytest.mark.parametrize(
    "kind",
    ["circle", "no such descriptor", "order", "no status", "indirect in indirect", "indirect size", "index"],
)
def test_a_driver_that_breaks_the_rules_finds_the_device_in_need_of_a_reset(tmp_path: Path, kind: str) -> None:
    disk = Disk(tmp_path)
    disk.start()
    broken_rings(disk, kind)
    disk.bench.work()
    assert disk.get(R.STATUS) & Status.DEVICE_NEEDS_RESET
    assert disk.used(0) == []


def test_an_indirect_table(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.start()
    memory = disk.bench.bytes
    memory[BUFFERS : BUFFERS + 16] = struct.pack("<IIQ", RequestType.IN, 0, 7)
    table = BUFFERS + 0x800
    for number, (gpa, size, flags) in enumerate(
        (
            (BUFFERS, 7, NEXT),
            (BUFFERS + 7, 9, NEXT),
            (BUFFERS + 0x1000, 300, NEXT | WRITE),
            (BUFFERS + 0x2000, 213, WRITE),
        )
    ):
        struct.pack_into("<QIHH", memory, table + 16 * number, gpa, size, flags, number + 1)
    disk.descriptor(0, 4, table, 64, INDIRECT)
    disk.offer(0, 4)
    disk.bench.work()
    assert disk.used(0) == [(4, 513)]
    assert memory[BUFFERS + 0x1000 : BUFFERS + 0x1000 + 300] == bytes([7]) * 300
    assert memory[BUFFERS + 0x2000 : BUFFERS + 0x2000 + 213] == bytes([7]) * 212 + b"\0"


class Console(Driver):
    def __init__(self) -> None:
        self.output = bytearray()
        bench = Bench()
        device = VirtioConsole(bench.clock, bench.events, bench.set_line, bench.memory, self.output.append)
        self.console = device
        super().__init__(bench, device)


def test_the_console_both_ways() -> None:
    console = Console()
    console.console.receive(b"before")
    console.start()
    console.bench.bytes[BUFFERS : BUFFERS + 5] = b"hello"
    console.descriptor(TRANSMIT, 0, BUFFERS, 5)
    console.offer(TRANSMIT, 0)
    console.bench.work()
    assert (bytes(console.output), console.used(TRANSMIT), console.used(RECEIVE)) == (b"hello", [(0, 0)], [])
    assert not console.console.awaits_input()
    console.descriptor(RECEIVE, 3, BUFFERS, 4, WRITE)
    console.offer(RECEIVE, 3)
    assert console.console.awaits_input()
    console.bench.work()
    assert (console.used(RECEIVE), bytes(console.bench.bytes[BUFFERS : BUFFERS + 5])) == ([(3, 4)], b"befoo")
    console.offer(RECEIVE, 3)
    console.bench.work()
    assert (console.used(RECEIVE)[1], bytes(console.bench.bytes[BUFFERS : BUFFERS + 2])) == ((3, 2), b"re")


def test_state_is_taken_up(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.start()
    assert disk.request(RequestType.OUT, 5, b"x" * 512) == RequestStatus.OK
    other = Disk(tmp_path)
    other.device.restore(disk.device.save())
    other.bench.bytes[:] = disk.bench.bytes
    other.made = disk.made
    assert other.request(RequestType.IN, 5, 512) == RequestStatus.OK
    assert other.bench.bytes[BUFFERS + 0x1000] == ord("x")
    console = Console()
    console.console.receive(b"waits")
    second = Console()
    second.console.restore(console.console.save())
    assert second.console.save() == console.console.save()


def test_memory_is_reached_across_nothing_but_ram() -> None:
    bench = Bench()
    bench.memory.write(RAM_SIZE - 2, b"ab")
    assert (bench.memory.read(RAM_SIZE - 2, 2), bench.written) == (b"ab", [(RAM_SIZE - 2, 2)])
    for gpa, size in ((RAM_SIZE - 1, 2), (ROM_AT, 1), (-1, 1)):
        with pytest.raises(MasterAbort):
            bench.memory.read(gpa, size)
        with pytest.raises(MasterAbort):
            bench.memory.write(gpa, bytes(size))


ACCESSES = st.lists(
    st.tuples(
        st.sampled_from([*R, 0x200]),
        st.one_of(st.integers(0, (1 << 32) - 1), st.sampled_from([0, 1, QUEUE, DRIVER_OK, 0xFFFF_F000])),
        st.booleans(),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(ACCESSES, st.binary(max_size=600), st.booleans())
def test_random_registers_and_rings_leave_the_host_and_the_image_unharmed(
    tmp_path: Path, accesses: list[tuple[int, int, bool]], rings: bytes, block: bool
) -> None:
    driver: Driver = Disk(tmp_path) if block else Console()
    driver.start()
    driver.bench.bytes[QUEUE : QUEUE + len(rings)] = rings
    driver.bench.bytes[QUEUE + 0x1000 : QUEUE + 0x1000 + len(rings)] = rings[::-1]
    for register, value, write in accesses:
        if write:
            driver.set(register, value)
        else:
            driver.get(register)
        driver.bench.work()
    if isinstance(driver, Disk):
        assert driver.path.read_bytes() == b"".join(bytes([n]) * 512 for n in range(32))
    assert all(at + size <= RAM_SIZE for at, size in driver.bench.written)
