"""PCI configuration space: mechanism 1 (PCI 2.1, section 3.7.4.1), a host bridge, and nothing else."""

from __future__ import annotations

import pytest

from simvirt.machine.board import Board
from simvirt.machine.bus import AccessSize
from simvirt.x86.addresses import Port
from tests.machine.devices.test_against_qemu import QEMU, Qtest


def read(board: Board, address: int, size: AccessSize = 4, byte: int = 0) -> int:
    board.write_port(Port(0xCF8), 4, address)
    return board.read_port(Port(0xCFC + byte), size)


def test_the_host_bridge() -> None:
    board = Board(retired=lambda: 0)
    assert read(board, 0x80000000) == 0x12378086
    assert board.read_port(Port(0xCF8), 4) == 0x80000000
    assert read(board, 0x80000008) >> 8 == 0x060000
    assert read(board, 0x80000000, 2, 2) == 0x1237
    assert read(board, 0x80000000, 1, 1) == 0x80
    assert read(board, 0x8000003C) == 0


@pytest.mark.parametrize("address", [0x00000000, 0x80000100, 0x80000800, 0x80010000, 0x80FFFF00])
def test_everything_else_is_absent(address: int) -> None:
    board = Board(retired=lambda: 0)
    assert read(board, address) == 0xFFFFFFFF
    board.write_port(Port(0xCFC), 4, 0)
    assert read(board, 0x80000000) == 0x12378086


def test_only_doublewords_reach_the_address_and_0xcf9_is_the_reset_register() -> None:
    board = Board(retired=lambda: 0)
    board.write_port(Port(0xCF8), 4, 0x80000000)
    board.write_port(Port(0xCF9), 1, 0x02)
    assert board.read_port(Port(0xCF8), 4) == 0x80000000
    assert board.read_port(Port(0xCF9), 1) == 0x02
    assert board.read_port(Port(0xCF8), 1) == 0xFF


def test_registers_of_the_bridge_are_kept_and_its_identity_is_not_changed() -> None:
    board = Board(retired=lambda: 0)
    for register in (0x00, 0x04, 0x08, 0x58):
        board.write_port(Port(0xCF8), 4, 0x80000000 | register)
        board.write_port(Port(0xCFC), 4, 0x31313131)
    assert read(board, 0x80000000) == 0x12378086
    assert read(board, 0x80000004, 2) == 6
    assert read(board, 0x80000058) == 0x31313131
    board.reset()
    assert read(board, 0x80000058) == 0


@pytest.mark.skipif(QEMU is None, reason="qemu-system-i386 is not installed")
def test_the_bridge_identifies_itself_as_qemus_does() -> None:
    board, qtest = Board(retired=lambda: 0), Qtest()
    try:
        for register in (0x00, 0x08, 0x0C, 0x10, 0x3C):
            qtest.command("outl", "0xcf8", hex(0x80000000 | register))
            assert read(board, 0x80000000 | register) == int(qtest.command("inl", "0xcfc"), 16), hex(register)
        qtest.command("outl", "0xcf8", "0x80001f00")
        assert read(board, 0x80001F00) == 0xFFFFFFFF
    finally:
        qtest.close()
