"""The stack, as the pushes and pops of the instructions that the CPU completes itself see it (SDM Vol. 1 §6.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.faults import ProcessorFault, stack_fault
from simvirt.machine.inner_stack import fits
from simvirt.x86.exceptions import Vector
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simvirt.machine.core import Core
    from simvirt.machine.linear_memory import LinearMemory


class Stack:
    """The stack that SS and RSP name now."""

    def __init__(self, cpu: Core) -> None:
        self._cpu = cpu

    @property
    def width(self) -> int:
        """Bytes of the stack pointer: 8 in 64-bit mode, else 4, or 2 while the B flag of SS is 0."""
        if self._cpu.state.code_64:
            return 8
        return 4 if self._cpu.state.segment(SegmentRegister.SS).default_size else 2

    @property
    def base(self) -> int:
        """Base of SS; 0 in 64-bit mode."""
        return 0 if self._cpu.state.code_64 else self._cpu.state.segment_base(SegmentRegister.SS)

    @property
    def pointer(self) -> int:
        """RSP, ESP or SP."""
        return self._cpu.state.register(GeneralRegister.RSP, self.width)

    def set_pointer(self, value: int, width: int | None = None) -> None:
        """Write RSP, ESP or SP; `width` is given when it is that of another stack segment than SS now names."""
        self._cpu.state.set_register(GeneralRegister.RSP, width or self.width, value)

    def peek(self, offset: int, size: int) -> int:
        """`size` bytes at `offset` above the stack pointer, which wraps at its width.

        :raises ProcessorFault: #PF, #SS(0) at an address that is not canonical.
        """
        at = self.pointer + offset & (1 << 8 * self.width) - 1
        try:
            return self._cpu.memory.read_integer(self.base + at, size, user=self._cpu.state.cpl == 3, explicit=True)
        except ProcessorFault as fault:
            if fault.vector is Vector.GP:
                raise stack_fault(0) from None
            raise

    def require(self, size: int) -> None:
        """The manual's "top bytes of stack within stack limits".

        :raises ProcessorFault: #SS(0).
        """
        if not self._cpu.state.code_64 and not fits(self._cpu.state.segment(SegmentRegister.SS), self.pointer, size):
            raise stack_fault(0)

    def require_room(self, size: int) -> None:
        """The manual's "stack large enough for return address".

        :raises ProcessorFault: #SS(0).
        """
        if self._cpu.state.code_64:
            return
        bottom = self.pointer - size & (1 << 8 * self.width) - 1
        if not fits(self._cpu.state.segment(SegmentRegister.SS), bottom, size):
            raise stack_fault(0)

    def pushed(self, values: Iterable[int], size: int) -> int:
        """Write `values` below the stack pointer, the first one highest; the new stack pointer, which is not loaded."""
        user = self._cpu.state.cpl == 3
        return push(self._cpu.memory, self.base, self.pointer, values, width=self.width, size=size, user=user)


def push(
    memory: LinearMemory, base: int, pointer: int, values: Iterable[int], *, width: int, size: int, user: bool = False
) -> int:
    """Push `values` of `size` bytes each on the stack at `base`; the stack pointer behind them, of `width` bytes."""
    mask = (1 << 8 * width) - 1
    for value in values:
        pointer = pointer - size & mask
        try:
            memory.write_integer(base + pointer, size, value, user=user, explicit=True)
        except ProcessorFault as fault:
            if fault.vector is Vector.GP:
                raise stack_fault(0) from None
            raise
    return pointer
