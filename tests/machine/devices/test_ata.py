"""The ATA channel and its disk, from ATA/ATAPI-4 (NCITS 317-1998), and against QEMU's; and disk images."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final

import msgspec
import pytest

from simvirt.errors import UsageError
from simvirt.guests.flat import flat_image
from simvirt.machine.board import Board
from simvirt.machine.devices.ata import LATENCY_NS, AtaState
from simvirt.machine.disk import DiskImage, DiskOption
from simvirt.machine.hardware import Hardware
from simvirt.machine.machine import Outcome
from simvirt.observe.session import compare, run
from simvirt.strategies.registry import STRATEGIES
from simvirt.x86.addresses import Port
from tests.machine.devices.test_against_qemu import QEMU, Qtest
from tests.support.assembler import Assembler, d16, d32
from tests.support.console_guests import ORIGIN, out

SECTORS: Final = 2048
BSY, DRDY, DSC, DRQ, ERR = 0x80, 0x40, 0x10, 0x08, 0x01
READY = DRDY | DSC


def content() -> bytes:
    """Sectors that tell their number, and noise."""
    rng = random.Random(7)
    return b"".join(sector.to_bytes(4, "little") + rng.randbytes(508) for sector in range(SECTORS))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(content())
    return path


class Host:
    """A driver of the channel, by polling; time passes only when it says so."""

    def __init__(self, image: Path, *, writable: bool = False) -> None:
        self.time = 0
        self.board = Board(lambda: self.time, Hardware(disk=DiskImage(DiskOption(image, writable))))
        for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0xA0, 0x11), (0xA1, 0x28), (0xA1, 2)):
            self.out(port, value)
        self.out(0xA1, 1)

    def out(self, port: int, value: int, size: int = 1) -> None:
        self.board.write_port(Port(port), size, value)  # type: ignore[arg-type]

    def inp(self, port: int, size: int = 1) -> int:
        return self.board.read_port(Port(port), size)  # type: ignore[arg-type]

    def address(self, lba: int, count: int) -> None:
        self.out(0x1F2, count & 0xFF)
        for at in range(3):
            self.out(0x1F3 + at, lba >> 8 * at & 0xFF)
        self.out(0x1F6, 0xE0 | lba >> 24)

    def command(self, command: int) -> int:
        self.out(0x1F7, command)
        return self.wait()

    def wait(self) -> int:
        while (status := self.inp(0x1F7)) & BSY:
            pass
        return status

    def take(self, sectors: int = 1) -> bytes:
        return b"".join(self.inp(0x1F0, 2).to_bytes(2, "little") for _ in range(256 * sectors))

    def give(self, data: bytes) -> None:
        for at in range(0, len(data), 2):
            self.out(0x1F0, int.from_bytes(data[at : at + 2], "little"), 2)

    def interrupted(self) -> bool:
        if not self.board.interrupt_pending():
            return False
        assert self.board.acknowledge() == 0x2E
        self.out(0xA0, 0x20)
        self.out(0x20, 0x20)
        return True


def sector(number: int, count: int = 1) -> bytes:
    return content()[number * 512 : (number + count) * 512]


def test_the_signature_after_reset(image: Path) -> None:
    host = Host(image)
    assert [host.inp(port) for port in range(0x1F1, 0x1F8)] == [1, 1, 1, 0, 0, 0, READY]
    host.out(0x3F6, 4)
    assert host.inp(0x1F7) == BSY
    host.out(0x3F6, 0)
    assert [host.inp(port) for port in range(0x1F1, 0x1F8)] == [1, 1, 1, 0, 0, 0, READY]


def test_identify_device(image: Path) -> None:
    host = Host(image)
    assert host.command(0xEC) == READY | DRQ
    data = host.take()
    words = [int.from_bytes(data[at : at + 2], "little") for at in range(0, 512, 2)]
    assert words[60] | words[61] << 16 == SECTORS
    assert (words[1], words[3], words[6]) == (2, 16, 63)
    assert words[49] & 0x200
    assert not words[49] & 0x100  # no DMA
    name = b"".join(word.to_bytes(2, "big") for word in words[27:47]).decode()
    assert name.strip() == "SIMVIRT DISK"
    assert host.inp(0x1F7) == READY


@pytest.mark.parametrize("width", [2, 4])
def test_read_sectors_by_lba(image: Path, width: int) -> None:
    host = Host(image)
    host.address(0x123, 3)
    assert host.command(0x20) == READY | DRQ
    data = b"".join(host.inp(0x1F0, width).to_bytes(width, "little") for _ in range(3 * 512 // width))
    assert data == sector(0x123, 3)
    assert host.inp(0x1F7) == READY
    assert (host.inp(0x1F2), host.inp(0x1F3), host.inp(0x1F4)) == (0, 0x25, 0x01)


def test_read_sectors_by_cylinder_head_and_sector(image: Path) -> None:
    host = Host(image)
    for port, value in ((0x1F2, 2), (0x1F3, 63), (0x1F4, 0), (0x1F5, 0), (0x1F6, 0xA0 | 15)):
        host.out(port, value)
    assert host.command(0x20) == READY | DRQ
    assert host.take(2) == sector(15 * 63 + 62, 2)
    assert [host.inp(port) for port in range(0x1F3, 0x1F7)] == [1, 1, 0, 0xA0]


def test_256_sectors_are_a_count_of_zero(image: Path) -> None:
    host = Host(image)
    host.address(0, 256)
    host.command(0x20)
    assert host.take(256) == sector(0, 256)
    assert host.inp(0x1F7) == READY


def test_multiple_mode_interrupts_once_a_block(image: Path) -> None:
    host = Host(image)
    host.address(8, 6)
    assert host.command(0xC4) == READY | ERR  # not set yet
    assert host.inp(0x1F1) == 4
    host.out(0x1F2, 4)
    assert host.command(0xC6) == READY
    host.interrupted()
    host.address(8, 6)
    host.command(0xC4)
    interrupts = []
    data = b""
    for words in (1024, 512):
        interrupts.append(host.interrupted())
        host.inp(0x1F7)
        data += b"".join(host.inp(0x1F0, 2).to_bytes(2, "little") for _ in range(words))
    assert data == sector(8, 6)
    assert (interrupts, host.interrupted()) == ([False, True], False)  # the status that told of the first took it back


def test_interrupts_come_after_the_latency_and_status_clears_them(image: Path) -> None:
    host = Host(image)
    host.address(5, 1)
    host.out(0x1F7, 0x20)
    assert host.inp(0x3F6) == READY | BSY
    assert host.board.next_deadline() == LATENCY_NS
    assert host.board.sleep()
    assert host.inp(0x3F6) == READY | DRQ
    assert host.board.interrupt_pending()
    assert host.inp(0x1F7) == READY | DRQ
    assert not host.board.interrupt_pending()
    host.out(0x3F6, 2)  # nIEN
    host.out(0x1F7, 0xE7)
    host.wait()
    assert not host.board.interrupt_pending()


def test_writing_leaves_the_file_alone_unless_it_is_writable(image: Path) -> None:
    data = os.urandom(1024)
    for writable in (False, True):
        host = Host(image, writable=writable)
        host.address(100, 2)
        assert host.command(0x30) == READY | DRQ
        host.give(data[:512])
        assert host.wait() == READY | DRQ
        host.give(data[512:])
        assert host.wait() == READY
        host.address(99, 4)
        host.command(0x20)
        assert host.take(4) == sector(99) + data + sector(102)
        expected = sector(0, 100) + data + content()[102 * 512 :] if writable else content()
        assert image.read_bytes() == expected


def test_beyond_the_end(image: Path) -> None:
    host = Host(image)
    for command in (0x20, 0x30, 0x40, 0x70):
        host.address(SECTORS, 1)
        assert host.command(command) == READY | ERR
        assert host.inp(0x1F1) == 0x10
    host.address(SECTORS - 1, 2)
    host.command(0x20)
    assert host.take() == sector(SECTORS - 1)
    assert host.wait() == READY | ERR
    host.address(SECTORS - 1, 2)
    host.command(0x30)
    host.give(bytes(512))
    assert host.wait() == READY | ERR
    assert host.inp(0x1F1) == 0x10


def test_commands_that_there_are_not_are_aborted(image: Path) -> None:
    host = Host(image)
    for command in (0x00, 0x08, 0x25, 0xA0, 0xA1, 0xC8, 0xFF):
        assert host.command(command) == READY | ERR, hex(command)
        assert host.inp(0x1F1) == 4


def test_there_is_no_device_1(image: Path) -> None:
    host = Host(image)
    host.out(0x1F6, 0xB0)
    assert host.inp(0x1F7) == 0
    host.out(0x1F7, 0xEC)
    assert host.inp(0x1F7) == 0
    host.out(0x1F6, 0xA0)
    assert host.inp(0x1F7) == READY


def test_firmware_tells_of_the_disk(image: Path) -> None:
    host = Host(image)

    def cmos(index: int) -> int:
        host.out(0x70, index)
        return host.inp(0x71)

    assert (cmos(0x12), cmos(0x19), cmos(0x1B), cmos(0x1D), cmos(0x23)) == (0xF0, 47, 2, 16, 63)
    assert cmos(0x2E) << 8 | cmos(0x2F) == sum(cmos(index) for index in range(0x10, 0x2E))


def test_a_restored_disk_goes_on_alike(image: Path) -> None:
    first, second = Host(image), Host(image)
    first.address(10, 2)
    first.command(0x30)
    first.give(bytes(range(256)) * 2)
    first.wait()
    first.give(b"x" * 100)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(first.board.devices["ata"].save()), type=AtaState)
    second.board.devices["ata"].restore(state)
    for host in (first, second):
        host.give(b"y" * 412)
        host.wait()
        host.address(10, 2)
        host.command(0x20)
    assert first.take(2) == second.take(2) == bytes(range(256)) * 2 + b"x" * 100 + b"y" * 412


@pytest.mark.parametrize(("size", "writable"), [(0, False), (0, True), (511, True), (513, True)])
def test_foreign_images_are_refused(tmp_path: Path, size: int, writable: bool) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(size))
    with pytest.raises(UsageError, match="whole sectors"):
        DiskImage(DiskOption(path, writable))
    assert path.read_bytes() == bytes(size)


@pytest.mark.parametrize("magic", [b"QFI\xfb", b"KDMV", b"conectix", b"vhdxfile", b"<<< Oracle VM VirtualBox"])
def test_images_in_other_formats_are_refused_with_what_to_do(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "image"
    path.write_bytes(magic.ljust(1024, b"\0"))
    with pytest.raises(UsageError, match="qemu-img convert -O raw"):
        DiskImage(DiskOption(path, writable=True))
    assert path.read_bytes() == magic.ljust(1024, b"\0")


def test_the_last_sector_of_an_odd_file_ends_with_zeros(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"\xaa" * 513)
    image = DiskImage(DiskOption(path))
    assert image.sectors == 2
    assert image.read(1) == b"\xaa" + bytes(511)


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be opened"):
        DiskImage(DiskOption(tmp_path / "none"))


def reading_guest() -> bytes:
    """Reads sector 3 by REP INSW, sends its first bytes over the serial port, and writes it to sector 4."""
    a = Assembler(ORIGIN)
    a.emit("fc").emit(out(0x1F2, 1)).emit(out(0x1F3, 3)).emit(out(0x1F4, 0)).emit(out(0x1F5, 0)).emit(out(0x1F6, 0xE0))
    for number, (command, transfer) in enumerate(((0x20, "bf"), (0x30, "be"))):
        if number:
            a.emit(out(0x1F3, 4))
        a.emit(out(0x1F7, command))
        a.label(f"wait {number}")
        a.emit("ec a8 80")
        a.jump("75", f"wait {number}", size=1)
        a.emit(transfer, d32(0x8000), b"\x66\xba" + d16(0x1F0), b"\xb9", d32(256))
        a.emit("66 f3", b"\x6d" if not number else b"\x6f")
    a.emit("66 ba", d16(0x3F8), b"\xbe", d32(0x8000), b"\xb9", d32(16)).emit("f3 6e")
    a.emit(out(0xF4, 0))
    return a.finish()


@pytest.mark.parametrize("strategy", [strategy.info.name for strategy in STRATEGIES])
def test_a_guest_reads_and_writes_its_disk(strategy: str, image: Path) -> None:
    guest = flat_image(reading_guest(), "reader")
    result = run(guest, strategy, memory="4M", disk=str(image))
    assert (result.outcome, result.console_bytes) == (Outcome.FINISHED, sector(3)[:16])
    assert image.read_bytes() == content()
    run(guest, strategy, memory="4M", disk=f"{image}:rw")
    assert image.read_bytes()[3 * 512 : 5 * 512] == sector(3) * 2


def test_a_comparison_does_not_change_a_disk(image: Path) -> None:
    guest = flat_image(reading_guest(), "reader")
    comparison = compare(guest, memory="4M", disk=image)
    assert len({result.counted.instructions for result in comparison.runs}) == 1
    with pytest.raises(UsageError, match="without :rw"):
        compare(guest, memory="4M", disk=f"{image}:rw")


@pytest.mark.skipif(QEMU is None, reason="qemu-system-i386 is not installed")
@pytest.mark.parametrize("seed", range(2))
def test_against_qemu(image: Path, seed: int) -> None:
    """Commands and data; the disk images are equal at the start, and what is written goes to neither file."""
    rng = random.Random(seed)
    host = Host(image)
    qtest = Qtest("-drive", f"file={image},if=ide,format=raw,snapshot=on")

    def write(port: int, value: int) -> None:
        host.out(port, value)
        qtest.write(port, value)

    def wait() -> tuple[int, int]:
        while (theirs := qtest.read(0x1F7)) & BSY:
            pass
        ours = host.wait()
        if ours & ERR:  # QEMU clears DSC then, which tells of seeks
            ours, theirs = ours & ~DSC, theirs & ~DSC
        return ours, theirs

    def word() -> tuple[int, int]:
        return host.inp(0x1F0, 2), int(qtest.command("inw", "0x1f0"), 16)

    try:
        for step in range(60):
            lba, count = rng.randrange(SECTORS - 4), rng.choice((1, 1, 2, 3))  # beyond the end QEMU says ABRT, not IDNF
            for at, byte in enumerate((count, lba & 0xFF, lba >> 8, 0, 0xE0)):
                write(0x1F2 + at, byte)
            command = rng.choice((0x20, 0x20, 0x30, 0x30, 0x40, 0xE7, 0x10, 0xEF, 0x91, 0x90, 0x08, 0xFF))
            if command == 0xEF:
                write(0x1F1, rng.choice((0x02, 0x82, 0x55, 0x77)))
            if command == 0x91:
                write(0x1F2, 63)
                write(0x1F6, 0xEF)
            write(0x1F7, command)
            ours, theirs = wait()
            assert ours == theirs, f"step {step}, command {command:#x}, sector {lba}, count {count}"
            while ours & DRQ:
                for _ in range(256):
                    if command == 0x20:
                        ours, theirs = word()
                        assert ours == theirs
                    else:
                        value = rng.randrange(1 << 16)
                        host.out(0x1F0, value, 2)
                        qtest.command("outw", "0x1f0", hex(value))
                ours, theirs = wait()
                assert ours == theirs, f"step {step}, command {command:#x}, sector {lba}, count {count}"
            if ours & ERR:
                assert host.inp(0x1F1) == qtest.read(0x1F1)
    finally:
        qtest.close()
