"""Guests that write anything to any port of any device: the host survives, and what is saved goes on alike."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from simvirt.machine.board import Board, BoardState
from simvirt.machine.bus import AccessSize
from simvirt.machine.disk import DiskImage, DiskOption
from simvirt.machine.hardware import Hardware
from simvirt.machine.memory import AddressSpace, Region, RegionKind
from simvirt.x86.addresses import Gpa, Hpa, Port

STEPS = 6000
RAM = 0x8000
SIZES: tuple[AccessSize, ...] = (1, 1, 1, 2, 4)


class Fuzzer:
    """A board with a disk, and a processor that runs from deadline to deadline between its accesses."""

    def __init__(self, disk: Path) -> None:
        self.time = 0
        self.hardware = Hardware(
            disk=DiskImage(DiskOption(disk)), virtio_disk=DiskImage(DiskOption(disk)), virtio_console=True
        )
        self.board = Board(lambda: self.time, self.hardware)
        self.memory = bytearray(RAM)
        space = AddressSpace([Region(Gpa(0), RAM, RegionKind.RAM, Hpa(0))])
        self.board.direct_memory.connect(memoryview(self.memory), space, self._written)
        self.registers = [span.start for span, _ in self.board.memory.ranges]
        self.ports = sorted(
            {port for row in self.hardware.rows for span in row.ports for port in span} - set(range(0xF4, 0xF8))
        )

    def run(self, rng: random.Random, steps: int) -> list[int]:
        board = self.board
        seen: list[int] = []
        for _ in range(steps):
            if rng.random() < 0.4:
                self._touch_memory(rng, seen)
                continue
            port, size = Port(rng.choice(self.ports)), rng.choice(SIZES)
            action = rng.randrange(8)
            if action < 4:
                value = rng.choice((rng.getrandbits(8 * size), rng.choice((0, 1, 0x20, 0x30, 0xEC, 0xC6, 0xFF, 0xF4))))
                board.write_port(port, size, value & (1 << 8 * size) - 1)
            elif action < 7:
                value = board.read_port(port, size)
                assert 0 <= value < 1 << 8 * size
                seen.append(value)
            else:
                self._wait(rng.choice((1, 1000, 10**6, 10**9)))
                if board.interrupt_pending() and rng.random() < 0.5:
                    seen.append(board.acknowledge())
            if rng.random() < 0.01:
                board.input(rng.randbytes(40))
            if rng.random() < 0.01:
                board.type_keys("aB<F5>")
        return seen

    def _touch_memory(self, rng: random.Random, seen: list[int]) -> None:
        """An access to a device's registers in memory, or to the rings that a virtio device is told of."""
        if rng.random() < 0.2:
            self.memory[(at := rng.randrange(RAM - 16)) : at + 16] = rng.randbytes(16)
            return
        size = rng.choice((1, 2, 4, 4, 4, 8))
        gpa = Gpa(rng.choice(self.registers) + rng.choice((rng.randrange(0, 0x400, 4), rng.randrange(0x1000 - 8))))
        if rng.random() < 0.6:
            some = (0, 1, 4, 15, rng.randrange(RAM) & ~0xFFF, 1 << 8, 0x20030, 0x40040, rng.getrandbits(8 * size))
            self.board.memory.write(gpa, size, rng.choice(some) & (1 << 8 * size) - 1)
        else:
            value = self.board.memory.read(gpa, size)
            assert 0 <= value < 1 << 8 * size
            seen.append(value)

    @staticmethod
    def _written(at: int, size: int) -> None:
        assert 0 <= at <= at + size <= RAM

    def _wait(self, nanoseconds: int) -> None:
        """Let time pass; a device must not keep the board busy at one moment, or for ever."""
        end, events = self.time + nanoseconds, 0
        while (deadline := self.board.next_deadline()) is not None and deadline <= end:
            assert deadline >= self.time
            self.time = max(deadline, self.time)
            self.board.run_due()
            events += 1
            if events > 500:  # a fast timer: less time will do
                return
        self.time = end
        self.board.run_due()


@pytest.mark.parametrize("seed", range(4))
def test_any_access_to_any_port_and_register(seed: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(random.Random(seed).randbytes(512 * 64))
    first, second = Fuzzer(disk), Fuzzer(disk)
    rng = random.Random(seed)
    first.run(rng, STEPS)
    second.time = first.time
    second.memory[:] = first.memory
    second.board.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.board.save()), type=BoardState))
    again = random.Random()
    again.setstate(rng.getstate())
    assert first.run(rng, STEPS // 4) == second.run(again, STEPS // 4)
    assert first.board.save() == second.board.save()
    first.board.screen(lambda _gpa, size: bytes(size))
    assert disk.read_bytes() == random.Random(seed).randbytes(512 * 64)
