"""The UART and the interrupt controllers against QEMU's models of them, access by access.

QEMU's test protocol (`-qtest`) does port accesses and drives interrupt lines while the processor stands still. Random
sequences go to both; every value read must be the same. What QEMU does otherwise than the data sheets is kept out of
the sequences, each with a comment.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final

import pytest

from simvirt.machine.board import Board
from simvirt.machine.devices.pic import PicPair
from simvirt.machine.devices.uart import Uart16550
from simvirt.x86.addresses import Port

QEMU: Final = shutil.which("qemu-system-i386")
MACHINE: Final = "-machine pc -S -nodefaults -display none -serial null"
STEPS: Final = 1500

pytestmark = pytest.mark.skipif(QEMU is None, reason="qemu-system-i386 is not installed")


class Qtest:
    """A QEMU PC that never runs an instruction, and the test protocol to its devices."""

    def __init__(self, *extra: str) -> None:
        assert QEMU is not None
        arguments = [*MACHINE.split(), *extra, "-qtest", "stdio", "-qtest-log", "none"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [QEMU, *arguments], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def command(self, *words: object) -> str:
        """Send one line; the answer without its leading OK, or the empty string when it fails."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        while True:
            answer = self.process.stdout.readline().split()
            assert answer, "QEMU has gone away"
            if answer[0] in {"OK", "FAIL"}:
                return " ".join(answer[1:]) if answer[0] == "OK" else ""

    def read(self, port: int) -> int:
        return int(self.command("inb", hex(port)), 16)

    def write(self, port: int, value: int) -> None:
        self.command("outb", hex(port), hex(value))

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate()


@pytest.fixture
def qtest() -> Iterator[Qtest]:
    connection = Qtest()
    yield connection
    connection.close()


def fresh_board() -> Board:
    return Board(retired=lambda: 0)


@pytest.mark.parametrize("seed", range(4))
def test_uart_registers_and_fifos_in_loopback(qtest: Qtest, seed: int) -> None:
    base: Final = 0x3F8
    rng = random.Random(seed)
    board = fresh_board()
    uart = board.devices["com1"]
    assert isinstance(uart, Uart16550)

    def write(offset: int, value: int) -> None:
        board.write_port(Port(base + offset), 1, value)
        qtest.write(base + offset, value)

    write(4, 0x10)  # QEMU's power-on MCR has OUT2 set; the data sheet has it clear
    write(7, 0)  # the scratch register's is undefined
    compared = 0
    for step in range(STEPS):
        offset = rng.randrange(8)
        state = uart.save()
        dlab = bool(state.lcr & 0x80)
        if rng.random() < 0.5:
            if offset == 1 and not dlab:
                value = rng.randrange(8)  # no EDSSI: in loopback QEMU has no change bits, section 8.8 does
            elif offset == 2:
                if dlab:
                    continue
                # No receiver reset without bit 0: by section 8.5 it is not programmed then, QEMU does it.
                value = rng.choice(
                    (0x00, 0xC0, *(level << 6 | flags for level in range(4) for flags in (1, 1, 3, 5, 7, 9)))
                )
            elif offset == 3:
                value = rng.choice((0x03, 0x03, 0x03, 0x83, rng.randrange(256)))
            elif offset == 4:
                value = rng.choice((0x10, 0x1B, 0x1F, 0x10 | rng.randrange(256), 0x0B))
            elif offset in {5, 6}:
                continue
            else:
                value = rng.randrange(256)
            for _ in range(rng.choice((1, 1, 5, 18)) if offset == 0 else 1):
                write(offset, value)
            if offset == 2:
                # To QEMU, clearing an empty transmitter FIFO is its becoming empty: bring the THRE interrupts together.
                write(1, 0)
                write(1, rng.randrange(8))
            continue
        if offset == 0 and not dlab and not state.receiver:
            continue  # what an empty receiver gives is undefined
        if offset == 2 and 0 < len(state.receiver) < (1, 4, 8, 14)[state.fcr >> 6] and state.fcr:
            continue  # time-out: at once here, after four character times of QEMU's stopped clock there
        mask = 0xF0 if offset == 6 else 0xFF
        ours = board.read_port(Port(base + offset), 1) & mask
        theirs = qtest.read(base + offset) & mask
        assert ours == theirs, f"step {step}, register {offset}, {state}"
        compared += 1
    assert compared > STEPS // 4


@pytest.mark.parametrize("seed", range(4))
def test_keyboard_controller_and_keyboard_commands(qtest: Qtest, seed: int) -> None:
    """What is answered, and whether; after each command the output buffer is emptied on both sides."""
    rng = random.Random(seed)
    board = fresh_board()

    def write(port: int, value: int) -> None:
        board.write_port(Port(port), 1, value)
        qtest.write(port, value)

    def take() -> tuple[list[int], list[int]]:
        ours, theirs = [], []
        while board.read_port(Port(0x64), 1) & 1:
            ours.append(board.read_port(Port(0x60), 1))
        while qtest.read(0x64) & 1:
            theirs.append(qtest.read(0x60))
        return ours, theirs

    write(0x64, 0x60)
    write(0x60, 0x45)  # QEMU's power-on command byte is not the firmware's
    for step in range(400):
        action = rng.randrange(8)
        mask = 0xFF
        if action == 0:
            write(0x64, 0x60)
            write(0x60, rng.choice((0x45, 0x44, 0x05, 0x04)))
            sent = "command byte"
        elif action == 1:
            write(0x64, 0x20)
            sent, mask = "read command byte", 0xDF  # QEMU has an auxiliary device to disable
        elif action == 2:
            write(0x64, command := rng.choice((0xAA, 0xAB, 0xAD, 0xAE)))
            sent = f"controller {command:#x}"
        elif action == 3:
            write(0x64, 0xD1)
            write(0x60, rng.choice((0xC1, 0xC3)))
            write(0x64, 0xD0)
            sent, mask = "output port", 0x03  # QEMU keeps the other bits as they were written
        elif action == 4:
            write(0x64, 0xD2)
            write(0x60, rng.randrange(256))
            sent = "write output buffer"
        elif action == 5:
            write(0x60, command := rng.choice((0xED, 0xF3)))
            take()
            write(0x60, option := rng.randrange(8))
            sent = f"keyboard {command:#x} {option:#x}"
        elif action == 6:
            write(0x60, 0xF0)
            take()
            write(0x60, option := rng.choice((0, 1, 2, 3)))
            sent = f"scan code set {option}"
        else:
            write(0x60, command := rng.choice((0xEE, 0xF2, 0xF4, 0xF5, 0xF6, 0xFF)))
            sent = f"keyboard {command:#x}"
        ours, theirs = take()
        assert [byte & mask for byte in ours] == [byte & mask for byte in theirs], f"step {step}: {sent}"


class VgaBench:
    """The registers of the adapter, here and in QEMU."""

    def __init__(self, qtest: Qtest) -> None:
        self.qtest = qtest
        self.board = fresh_board()

    def write(self, port: int, *values: int) -> None:
        for value in values:
            self.board.write_port(Port(port), 1, value)
            self.qtest.write(port, value)

    def same(self, port: int) -> bool:
        return self.board.read_port(Port(port), 1) == self.qtest.read(port)

    def begin_with_attribute_index(self) -> None:
        self.board.read_port(Port(0x3DA), 1)
        self.qtest.read(0x3DA)

    def compare(self) -> None:
        for port, count in VGA_REGISTERS:
            for index in range(count):
                self.write(port, index)
                assert self.same(port + 1), f"{port:#x} register {index:#x}"
        for index in range(21):
            self.begin_with_attribute_index()
            self.write(0x3C0, index)
            assert self.same(0x3C1), f"attribute register {index:#x}"
        for port in (0x3C4, 0x3C8, 0x3CC, 0x3CE, 0x3D4):
            assert self.same(port), f"port {port:#x}"


VGA_REGISTERS: Final = ((0x3C4, 5), (0x3CE, 9), (0x3D4, 25))


@pytest.fixture
def vga() -> Iterator[VgaBench]:
    connection = Qtest("-vga", "std")
    yield VgaBench(connection)
    connection.close()


@pytest.mark.parametrize("seed", range(3))
def test_vga_registers(vga: VgaBench, seed: int) -> None:
    rng = random.Random(seed)
    vga.write(0x3C2, 0x67)
    vga.write(0x3D4, 0x11)
    vga.write(0x3D5, 0x0E)  # nothing is protected
    for port, count in VGA_REGISTERS:
        for index in range(count):
            vga.write(port, index)
            vga.write(port + 1, rng.randrange(256) & (0x7F if index == 0x11 else 0xFF))
    for index in range(21):
        vga.begin_with_attribute_index()
        vga.write(0x3C0, index, rng.randrange(256))
    vga.compare()
    vga.write(0x3D4, 0x11)
    vga.write(0x3D5, 0x80)
    for index in range(8):
        vga.write(0x3D4, index)
        vga.write(0x3D5, rng.randrange(256))
    vga.compare()
    vga.write(0x3C8, start := rng.randrange(256))
    vga.write(0x3C9, *(rng.randrange(64) for _ in range(400)))  # QEMU keeps eight bits, the adapter has six
    vga.write(0x3C7, start)
    assert all(vga.same(0x3C9) for _ in range(300))
    vga.write(0x3C2, 0x66)  # the monochrome ports
    vga.write(0x3B4, 0x0E)
    vga.write(0x3B5, 0x12)
    assert all(vga.same(port) for port in (0x3B5, 0x3D5, 0x3D4))


def find_pics() -> list[str]:
    """The QOM paths of master and slave: of the same machine, asked of QEMU's monitor. The master is made first."""
    assert QEMU is not None
    arguments = [*MACHINE.split(), "-monitor", "stdio"]
    tree = subprocess.run([QEMU, *arguments], input="info qom-tree\nquit\n", capture_output=True, text=True, check=True)
    numbers = re.findall(r"device\[(\d+)\] \(isa-i8259\)", tree.stdout)
    return [f"/machine/unattached/device[{number}]" for number in sorted(numbers, key=int)]


class PicBench:
    """One chip of the pair, here and in QEMU: 0 the master, 1 the slave."""

    def __init__(self, qtest: Qtest, chip: int) -> None:
        self.qtest = qtest
        self.path = find_pics()[chip]
        self.port = (0x20, 0xA0)[chip]
        self.chip = chip
        self.board = fresh_board()
        pic = self.board.devices["pic"]
        assert isinstance(pic, PicPair)
        self.pic = pic
        self.model = (pic.master, pic.slave)[chip]

    def write(self, a0: int, value: int) -> None:
        self.board.write_port(Port(self.port + a0), 1, value)
        self.qtest.write(self.port + a0, value)

    def read(self, a0: int) -> tuple[int, int]:
        return self.board.read_port(Port(self.port + a0), 1), self.qtest.read(self.port + a0)

    def set_line(self, level: int, high: bool) -> None:
        self.model.set_line(level, high)
        self.qtest.command("set_irq_in", self.path, "unnamed-gpio-in", level, int(high))

    def initialize(self, icw4: int | None) -> None:
        """QEMU forgets at ICW1 which lines are high and takes the next report for an edge: lower them all first."""
        for level in range(8):
            self.set_line(level, False)
        self.write(0, 0x10 | (icw4 is not None))
        self.write(1, 0x20)
        self.write(1, 0x04 if self.chip == 0 else 0x02)
        if icw4 is not None:
            self.write(1, icw4)


@pytest.mark.parametrize("chip", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_pic_priorities_commands_and_polling(qtest: Qtest, chip: int, seed: int) -> None:
    rng = random.Random(seed)
    bench = PicBench(qtest, chip)
    bench.initialize(0x01)
    levels = [
        level for level in range(8) if chip or level not in {0, 2}
    ]  # the master's 0 and 2 have owners on the board
    for step in range(STEPS):
        state = bench.model.save()
        action = rng.randrange(16)
        if action == 0 and rng.random() < 0.2:
            bench.initialize(rng.choice((0x01, 0x03, 0x01, None)))
        elif action <= 3:
            bench.set_line(rng.choice(levels), True)
        elif action <= 5:
            level = rng.choice(levels)
            if not state.irr >> level & 1:  # QEMU latches an edge for good; the data sheet has the request withdrawn
                bench.set_line(level, False)
        elif action == 6:
            bench.write(1, rng.choice((0, rng.randrange(256) & rng.randrange(256))))
        elif action <= 9:
            command = rng.choice((0, 1, 1, 3, 3, 4, 5, 6, 7))
            if command in {1, 5} and state.special_mask:
                continue  # QEMU's non-specific EOI takes masked levels too ("Special Mask Mode" forbids it)
            bench.write(0, command << 5 | rng.randrange(8))
        elif action == 10:
            bench.write(0, 0x08 | rng.choice((0x00, 0x40, 0x60, 0x02, 0x03)))
        elif action <= 13:
            bench.write(0, 0x0C)
            ours, theirs = bench.read(0)
            assert ours == theirs, f"poll at step {step}, {state}"
        for select in (0x0A, 0x0B):
            bench.write(0, select)
            ours, theirs = bench.read(0)
            assert ours == theirs, f"register by OCW3 {select:#x} after step {step}, {state}"
        ours, theirs = bench.read(1)
        assert ours == theirs
