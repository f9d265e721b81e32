"""Loading the guest's segment registers on its own descriptors (SDM Vol. 3A §5.5 to §5.7, Vol. 2B "MOV").

The real descriptor tables hold shadows, so a load that faults there is carried out here as the guest's machine would
carry it out; afterwards the shadow is installed, and the processor does it alone.

A selector with RPL 1 counts as one with RPL 0 while the guest believes in ring 0. The guest got it from the processor:
PUSH CS, MOV from SS and a far CALL show the ring that the code really runs in. Where the descriptor's shadow is
installed, the processor accepts such a selector in ring 1 without asking anybody, so the VMM does too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.faults import general_protection, not_present, stack_fault
from simvirt.machine.segment_loading import accessed, mark_accessed, read_descriptor
from simvirt.machine.state import Segment
from simvirt.vmm.deprivileged_state import GUEST_KERNEL_RING
from simvirt.x86.registers import SegmentRegister
from simvirt.x86.segments import Descriptor, Selector

if TYPE_CHECKING:
    from simvirt.vmm.virtual_cpu import VirtualCpu


class SegmentLoads:
    """Checks, and the load itself."""

    def __init__(self, cpu: VirtualCpu) -> None:
        self._cpu = cpu

    def rpl(self, selector: int, descriptor: Descriptor) -> int:
        """The privilege that a selector asks for, by f⁻¹, unless it names a descriptor of the guest's own ring 1."""
        rpl = int(Selector(selector).rpl)
        is_kernel_s = rpl == GUEST_KERNEL_RING != descriptor.dpl and self._cpu.state.cpl == 0
        return 0 if is_kernel_s else rpl

    def descriptor(self, selector: int) -> Descriptor:
        """The guest's descriptor.

        :raises ProcessorFault: #GP(selector) outside of its table.
        """
        return read_descriptor(self._cpu.state, self._cpu.memory, selector)

    def load(self, register: SegmentRegister, selector: int) -> None:
        """Load SS or a data segment register.

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
            descriptor = self._data(selector)
        mark_accessed(self._cpu.state, self._cpu.memory, selector, descriptor)
        self._cpu.state.set_segment(register, accessed(Segment.from_descriptor(selector, descriptor)))
        self._cpu.shadow.install(selector)
        self._cpu.state.refresh()

    def commit(self, register: SegmentRegister, selector: int, descriptor: Descriptor) -> None:
        """Load CS or SS as far transfers do: on this PC they leave the accessed flag as it is (docs/deviations.md)."""
        self._cpu.state.set_segment(register, Segment.from_descriptor(selector, descriptor))
        self._cpu.shadow.install(selector)

    def stack(self, selector: int, cpl: int) -> Descriptor:
        """The descriptor of a stack segment for ring `cpl`, checked."""
        stack = self.descriptor(selector)
        if self.rpl(selector, stack) != cpl or not stack.writable or stack.dpl != cpl:
            raise general_protection(selector)
        if not stack.present:
            raise stack_fault(selector)
        return stack

    def _data(self, selector: int) -> Descriptor:
        descriptor = self.descriptor(selector)
        if not descriptor.readable:
            raise general_protection(selector)
        privilege = max(self.rpl(selector, descriptor), int(self._cpu.state.cpl))
        if not descriptor.conforming and privilege > descriptor.dpl:
            raise general_protection(selector)
        if not descriptor.present:
            raise not_present(selector)
        return descriptor
