"""Loading segment registers as instructions do, where the CPU completes them itself (SDM Vol. 3A §5.5 to §5.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.faults import general_protection, not_present, stack_fault
from simvirt.machine.segment_loading import accessed, mark_accessed, read_descriptor
from simvirt.machine.state import Segment
from simvirt.x86.registers import SegmentRegister
from simvirt.x86.segments import Descriptor, Selector

if TYPE_CHECKING:
    from simvirt.machine.core import Core


class SegmentLoads:
    """Checks, and the load itself."""

    def __init__(self, cpu: Core) -> None:
        self._cpu = cpu

    def rpl(self, selector: int, descriptor: Descriptor) -> int:
        """The privilege that a selector asks for; a VMM that de-privileges a guest sees it otherwise."""
        del descriptor
        return int(Selector(selector).rpl)

    def descriptor(self, selector: int) -> Descriptor:
        """The descriptor that a selector names.

        :raises ProcessorFault: #GP(selector) outside of its table.
        """
        return read_descriptor(self._cpu.state, self._cpu.memory, selector)

    def load(self, register: SegmentRegister, selector: int) -> None:
        """Load SS or a data segment register, as MOV does.

        :raises ProcessorFault: #GP, #NP, #SS, with the selector, or 0 for a null one in SS.
        """
        if register is SegmentRegister.SS:
            if Selector(selector).is_null:
                raise general_protection(0)
            descriptor = self.stack(selector, int(self._cpu.state.cpl))
        elif Selector(selector).is_null:
            self._cpu.state.set_segment(register, Segment(selector, 0, 0, 0))
            self._cpu.state.refresh()
            return
        else:
            descriptor = self.data(selector, int(self._cpu.state.cpl))
        self.commit(register, selector, descriptor)
        self._cpu.state.refresh()

    def touch(self, selector: int, descriptor: Descriptor) -> None:
        """Set the accessed flag of a descriptor that is about to be loaded with others, so that no load faults halfway.

        :raises ProcessorFault: #PF.
        """
        mark_accessed(self._cpu.state, self._cpu.memory, selector, descriptor)

    def commit(self, register: SegmentRegister, selector: int, descriptor: Descriptor) -> None:
        """Load a register with a descriptor that has passed its checks; `refresh` follows.

        :raises ProcessorFault: #PF while the accessed flag is set.
        """
        mark_accessed(self._cpu.state, self._cpu.memory, selector, descriptor)
        self._cpu.state.set_segment(register, accessed(Segment.from_descriptor(selector, descriptor)))

    def stack(self, selector: int, cpl: int) -> Descriptor:
        """The descriptor of a stack segment for ring `cpl`, checked."""
        stack = self.descriptor(selector)
        if self.rpl(selector, stack) != cpl or not stack.writable or stack.dpl != cpl:
            raise general_protection(selector)
        if not stack.present:
            raise stack_fault(selector)
        return stack

    def data(self, selector: int, cpl: int) -> Descriptor:
        """The descriptor of a data segment for ring `cpl`, checked."""
        descriptor = self.descriptor(selector)
        if not descriptor.readable:
            raise general_protection(selector)
        privilege = max(self.rpl(selector, descriptor), cpl)
        if not descriptor.conforming and privilege > descriptor.dpl:
            raise general_protection(selector)
        if not descriptor.present:
            raise not_present(selector)
        return descriptor
