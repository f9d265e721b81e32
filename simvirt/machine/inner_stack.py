"""The stack of an inner ring as the TSS names it, for interrupts and call gates (SDM Vol. 3A §5.8.5, §6.12.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.machine.faults import ProcessorFault, invalid_tss, stack_fault
from simvirt.machine.segment_loading import read_descriptor
from simvirt.x86.exceptions import Vector
from simvirt.x86.segments import Descriptor, Selector
from simvirt.x86.tss import inner_stack_offsets

if TYPE_CHECKING:
    from simvirt.machine.linear_memory import LinearMemory
    from simvirt.machine.state import ProcessorState, Segment

_TSS_32_TYPES = (9, 11)
_EXPAND_DOWN_DATA = 0x4


@dataclass(frozen=True, slots=True)
class InnerStack:
    """A stack pointer of the TSS whose stack segment has passed the checks."""

    selector: int
    pointer: int
    descriptor: Descriptor


def inner_stack(state: ProcessorState, memory: LinearMemory, cpl: int, *, external: bool) -> InnerStack:
    """SS and ESP for ring `cpl`: the segment is writable data, its RPL and DPL equal to the new CPL.

    `external` is the EXT bit of the error codes.

    :raises ProcessorFault: #TS, #SS, #PF.
    """
    task = state.tr
    is_32_bit = task.flags >> 8 & 0xF in _TSS_32_TYPES
    pointer_at, selector_at = inner_stack_offsets(cpl, is_32_bit=is_32_bit)
    if selector_at + 1 > task.limit:
        raise invalid_tss(task.selector, external=external)
    pointer = memory.read_integer(task.base + pointer_at, 4 if is_32_bit else 2)
    selector = memory.read_integer(task.base + selector_at, 2)
    return InnerStack(selector, pointer, _checked(state, memory, selector, cpl, external=external))


def _checked(state: ProcessorState, memory: LinearMemory, selector: int, cpl: int, *, external: bool) -> Descriptor:
    named = Selector(selector)
    if named.is_null:
        raise invalid_tss(0, external=external)
    try:
        stack = read_descriptor(state, memory, selector, external=external)
    except ProcessorFault as fault:
        if fault.vector is Vector.GP:
            raise invalid_tss(selector, external=external) from None
        raise
    if named.rpl != cpl or stack.dpl != cpl or not stack.writable:
        raise invalid_tss(selector, external=external)
    if not stack.present:
        raise stack_fault(selector, external=external)
    return stack


def fits(stack: Segment, bottom: int, size: int) -> bool:
    """Do `size` bytes from `bottom` lie inside the stack segment? (SDM Vol. 3A §5.3)."""
    last = bottom + size - 1
    if stack.flags >> 8 & 0xC == _EXPAND_DOWN_DATA:
        return bottom > stack.limit and last <= (0xFFFFFFFF if stack.default_size else 0xFFFF)
    return last <= stack.limit
