"""Reading descriptors and loading segment registers, as the processor does when it delivers an interrupt or loads TR.

Segment loads by the guest's own MOV, POP and far transfers run in the engine; this is for what the CPU completes
itself. Sources: SDM Vol. 3A §3.4.5 (descriptors), §5.5 (privilege checks), §7.2.4 (task register).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from simvirt.machine.faults import general_protection, not_present
from simvirt.machine.state import Segment
from simvirt.x86.segments import Descriptor, Selector, SystemDescriptorType

if TYPE_CHECKING:
    from simvirt.machine.linear_memory import LinearMemory
    from simvirt.machine.state import ProcessorState

_ACCESSED = 1
_BUSY = 2
_SECOND_TYPE = 13
_TYPE_BITS = 0x1F
"""S and type of the upper half of a system descriptor of 16 bytes."""


def descriptor_address(state: ProcessorState, selector: int, size: int = 8) -> int | None:
    """Linear address of the descriptor that `selector` names, or None when it lies outside its table's limit."""
    named = Selector(selector)
    if named.in_ldt:
        ldtr = state.ldtr
        base, limit = ldtr.base, ldtr.limit if ldtr.present else -1
    else:
        gdtr = state.gdtr
        base, limit = gdtr.base, gdtr.limit
    return None if named.offset + size - 1 > limit else base + named.offset


def read_descriptor(
    state: ProcessorState, memory: LinearMemory, selector: int, *, external: bool = False
) -> Descriptor:
    """The 8-byte descriptor that `selector` names.

    :raises ProcessorFault: #GP(selector) outside the table's limit, #PF.
    """
    address = descriptor_address(state, selector)
    if address is None:
        raise general_protection(selector, external=external)
    return Descriptor.from_bytes(memory.read(address, 8))


def mark_accessed(state: ProcessorState, memory: LinearMemory, selector: int, descriptor: Descriptor) -> None:
    """Set the accessed flag of a code or data descriptor in its table."""
    address = descriptor_address(state, selector)
    if not descriptor.accessed and address is not None:
        memory.write_integer(address + 5, 1, descriptor.flags >> 8 & 0xFF | _ACCESSED)


@lru_cache(maxsize=4096)
def accessed(segment: Segment) -> Segment:
    """`segment` with the accessed flag set in its hidden part."""
    return Segment(segment.selector, segment.base, segment.limit, segment.flags | _ACCESSED << 8)


def load_local_descriptor_table(state: ProcessorState, memory: LinearMemory, selector: int) -> None:
    """LLDT (SDM Vol. 2A "LLDT"): the LDT must be present and described in the GDT; a null selector leaves none.

    :raises ProcessorFault: #GP(selector), #NP(selector), #PF.
    """
    if Selector(selector).is_null:
        state.ldtr = Segment(selector, 0, 0, 0)
        return
    _, descriptor = _system_descriptor(state, memory, selector)
    if descriptor.system_type is not SystemDescriptorType.LDT:
        raise general_protection(selector)
    if not descriptor.present:
        raise not_present(selector)
    state.ldtr = Segment.from_descriptor(selector, descriptor)


def _system_descriptor(state: ProcessorState, memory: LinearMemory, selector: int) -> tuple[int, Descriptor]:
    """The address and the contents of a descriptor of the GDT; in IA-32e mode it has 16 bytes, with no second type.

    :raises ProcessorFault: #GP(selector), #PF.
    """
    size = 16 if state.long_mode else 8
    address = None if Selector(selector).in_ldt else descriptor_address(state, selector, size)
    if address is None:
        raise general_protection(selector)
    data = memory.read(address, size)
    if size == 16 and data[_SECOND_TYPE] & _TYPE_BITS:
        raise general_protection(selector)
    return address, Descriptor.from_bytes(data)


def load_task_register(state: ProcessorState, memory: LinearMemory, selector: int) -> None:
    """LTR (SDM Vol. 2A "LTR"): the TSS must be present, available and in the GDT; it becomes busy.

    :raises ProcessorFault: #GP(0) for a null selector, #GP(selector), #NP(selector), #PF.
    """
    if Selector(selector).is_null:
        raise general_protection(0)
    address, descriptor = _system_descriptor(state, memory, selector)
    allowed = {SystemDescriptorType.AVAILABLE_TSS_32}
    if not state.long_mode:
        allowed.add(SystemDescriptorType.AVAILABLE_TSS_16)
    if descriptor.system_type not in allowed:
        raise general_protection(selector)
    if not descriptor.present:
        raise not_present(selector)
    memory.write_integer(address + 5, 1, descriptor.flags >> 8 & 0xFF | _BUSY)
    state.tr = Segment.from_descriptor(selector, descriptor)
