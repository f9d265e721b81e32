"""Loading the guest's segment registers on its own descriptors.

The real descriptor tables hold shadows, so a load that faults there is carried out here as the guest's machine would
carry it out; afterwards the shadow is installed, and the processor does it alone.

A selector with RPL 1 counts as one with RPL 0 while the guest believes in ring 0. The guest got it from the processor:
PUSH CS, MOV from SS and a far CALL show the ring that the code really runs in. Where the descriptor's shadow is
installed, the processor accepts such a selector in ring 1 without asking anybody, so the VMM does too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.segment_loads import SegmentLoads
from simvirt.vmm.deprivileged_state import GUEST_KERNEL_RING

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.core import Core
    from simvirt.x86.registers import SegmentRegister
    from simvirt.x86.segments import Descriptor


class GuestSegmentLoads(SegmentLoads):
    """The loads of the guest's machine, which the shadow descriptors follow."""

    def __init__(self, cpu: Core, install: Callable[[int], None]) -> None:
        super().__init__(cpu)
        self._install = install

    def rpl(self, selector: int, descriptor: Descriptor) -> int:
        """The privilege that a selector asks for, by f⁻¹, unless it names a descriptor of the guest's own ring 1."""
        rpl = super().rpl(selector, descriptor)
        is_kernel_s = rpl == GUEST_KERNEL_RING != descriptor.dpl and self._cpu.state.cpl == 0
        return 0 if is_kernel_s else rpl

    def commit(self, register: SegmentRegister, selector: int, descriptor: Descriptor) -> None:
        """As on any machine; then the shadow is installed."""
        super().commit(register, selector, descriptor)
        self._install(selector)
