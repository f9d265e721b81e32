"""The debug-exit port: whatever is written, in any width, at any of its four ports, is the status."""

from __future__ import annotations

import pytest

from simvirt.machine.board import Board
from simvirt.machine.bus import AccessSize
from simvirt.x86.addresses import Port


@pytest.mark.parametrize(
    ("port", "size", "value"), [(0xF4, 1, 0x7F), (0xF5, 1, 3), (0xF4, 2, 0x1234), (0xF4, 4, 0xDEADBEEF)]
)
def test_a_write_ends_the_run_with_its_value(port: int, size: AccessSize, value: int) -> None:
    board = Board(retired=lambda: 0)
    assert board.exit_status is None
    assert board.read_port(Port(port), size) == 0
    board.write_port(Port(port), size, value)
    assert board.exit_status == value


def test_the_first_write_counts() -> None:
    board = Board(retired=lambda: 0)
    board.write_port(Port(0xF4), 1, 1)
    board.write_port(Port(0xF4), 1, 2)
    assert board.exit_status == 1
