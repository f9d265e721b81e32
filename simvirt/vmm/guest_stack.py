"""The guest's stack, as PUSH and POP of the instructions that the VMM interprets see it (SDM Vol. 1 §6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simvirt.machine.linear_memory import LinearMemory
    from simvirt.vmm.virtual_cpu import VirtualCpu


class GuestStack:
    """The stack that SS and ESP name now. Limits are not checked, as nothing on this PC checks those of data."""

    def __init__(self, cpu: VirtualCpu) -> None:
        self._cpu = cpu

    @property
    def width(self) -> int:
        """Bytes of the stack pointer: 4, or 2 while the B flag of SS is 0."""
        return 4 if self._cpu.state.segment(SegmentRegister.SS).default_size else 2

    @property
    def pointer(self) -> int:
        """ESP or SP."""
        return self._cpu.state.register(GeneralRegister.RSP, self.width)

    def set_pointer(self, value: int, width: int | None = None) -> None:
        """Write ESP or SP; `width` is given when it is that of another stack segment than SS now names."""
        self._cpu.state.set_register(GeneralRegister.RSP, width or self.width, value)

    def peek(self, offset: int, size: int) -> int:
        """`size` bytes at `offset` above the stack pointer, which wraps at its width."""
        state = self._cpu.state
        at = self.pointer + offset & (1 << 8 * self.width) - 1
        return self._cpu.memory.read_integer(
            state.segment_base(SegmentRegister.SS) + at, size, user=state.cpl == 3, explicit=True
        )

    def pushed(self, values: Iterable[int], size: int) -> int:
        """Write `values` below the stack pointer, the first one highest; the new stack pointer, which is not loaded."""
        state = self._cpu.state
        base = state.segment_base(SegmentRegister.SS)
        return push(self._cpu.memory, base, self.pointer, values, width=self.width, size=size)


def push(memory: LinearMemory, base: int, pointer: int, values: Iterable[int], *, width: int, size: int) -> int:
    """Push `values` of `size` bytes each on the stack at `base`; the stack pointer behind them, of `width` bytes."""
    mask = (1 << 8 * width) - 1
    for value in values:
        pointer = pointer - size & mask
        memory.write_integer(base + pointer, size, value)
    return pointer
