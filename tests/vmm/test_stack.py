"""The stack by hand: widths, wrapping, order."""

from __future__ import annotations

import pytest

from simvirt.machine.stack import Stack, push
from simvirt.x86.registers import GeneralRegister
from tests.support.twins import BASE_16, CS3, CS16, DATA, Twins, start

RSP = GeneralRegister.RSP


@pytest.mark.parametrize(("cs", "width", "base"), [(0x08, 4, 0), (CS16, 2, BASE_16), (CS3, 4, 0)])
def test_width_and_order(twins: Twins, cs: int, width: int, base: int) -> None:
    twins.begin(b"\xf4", start(cs=cs, esp=0x4000))
    stack = Stack(twins.virtual_cpu)
    assert (stack.width, stack.pointer) == (width, 0x4000)
    assert stack.pushed((1, 2, 3), 4) == 0x4000 - 12
    assert stack.pointer == 0x4000
    assert twins.virtual_cpu.memory.read(base + 0x4000 - 12, 12) == b"\3\0\0\0\2\0\0\0\1\0\0\0"
    assert [stack.peek(offset, 4) for offset in (-12, -8, -4)] == [3, 2, 1]


def test_a_16_bit_stack_keeps_the_upper_half_of_esp_and_wraps(twins: Twins) -> None:
    twins.begin(b"\xf4", start(cs=CS16, esp=0xABCD_0002))
    stack = Stack(twins.virtual_cpu)
    assert stack.pushed((0x1111, 0x2222), 2) == 0xFFFE
    memory = twins.virtual_cpu.memory
    assert (memory.read_integer(BASE_16, 2), memory.read_integer(BASE_16 + 0xFFFE, 2)) == (0x1111, 0x2222)
    stack.set_pointer(0xFFFE)
    assert twins.virtual_cpu.state[RSP] == 0xABCD_FFFE
    assert (stack.peek(0, 2), stack.peek(2, 2)) == (0x2222, 0x1111)
    stack.set_pointer(0x1234_5678, 4)
    assert twins.virtual_cpu.state[RSP] == 0x1234_5678


def test_push_onto_another_stack(twins: Twins) -> None:
    twins.begin(b"\xf4")
    memory = twins.virtual_cpu.memory
    assert push(memory, DATA, 2, (0xAABB_CCDD,), width=4, size=4) == 0xFFFF_FFFE
    assert memory.read_integer(DATA - 2, 4) == 0xAABB_CCDD
