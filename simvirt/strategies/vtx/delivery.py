"""Delivery of an event by the VMM itself, where the processor cannot deliver it.

There are two such cases. A handler's frame, the IDT or the TSS lies where the VM has no memory: the processor exits
with an EPT violation and IDT-vectoring information, and would exit again if the event were injected again (SDM Vol. 3C
§28.2.4). Or a task switch faulted so late that the guest's segments are in a state with which no VM entry succeeds.
Then the VMM does by the manual's pseudo-code what the processor would have done, on the VM's memory: reads of what is
not there give ones, and writes are dropped.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from simvirt.machine.events import EptViolated
from simvirt.machine.interrupts import Interruption, Source
from simvirt.x86.vmx import InterruptionInformation, InterruptionType, VmcsField

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simvirt.machine.events import EptRefusal
    from simvirt.strategies.vtx.vcpu import Vcpu

_F: Final = VmcsField
SOURCES: Final = {
    InterruptionType.EXTERNAL_INTERRUPT: Source.EXTERNAL,
    InterruptionType.NMI: Source.NMI,
    InterruptionType.HARDWARE_EXCEPTION: Source.EXCEPTION,
    InterruptionType.SOFTWARE_INTERRUPT: Source.SOFTWARE,
    InterruptionType.PRIVILEGED_SOFTWARE_EXCEPTION: Source.EXCEPTION,
    InterruptionType.SOFTWARE_EXCEPTION: Source.SOFTWARE,
}


@contextmanager
def in_place_of_processor(vcpu: Vcpu) -> Iterator[None]:
    """Within it the VMM works as the guest's processor: it finds ones where the VM has no memory, and nothing exits."""

    def serve(event: EptRefusal) -> bool:
        if not isinstance(event, EptViolated) or event.to_page:
            return False
        vcpu.memory.serve_page_table(event.gpa)
        return True

    cpu = vcpu.cpu
    filters = cpu.exception_filter, cpu.task_switch_filter
    cpu.exception_filter = cpu.task_switch_filter = None
    cpu.memory.on_ept_refusal = serve
    try:
        yield
    finally:
        cpu.exception_filter, cpu.task_switch_filter = filters
        cpu.memory.on_ept_refusal = None


def deliver_vectored(vcpu: Vcpu, information: int) -> None:
    """Deliver the event whose delivery an EPT violation ended, by its IDT-vectoring information.

    :raises Shutdown: a triple fault.
    """
    vmcs, state = vcpu.vmcs, vcpu.cpu.state
    vectoring = InterruptionInformation.decode(information)
    rip = state.rip
    if vectoring.type.needs_instruction_length:
        rip = rip + vmcs.fields[_F.EXIT_INSTRUCTION_LENGTH] & ((1 << 64) - 1 if state.code_64 else 0xFFFF_FFFF)
    error_code = vmcs.fields[_F.IDT_VECTORING_ERROR_CODE] if vectoring.deliver_error_code else None
    with in_place_of_processor(vcpu):
        delivered = vcpu.cpu.deliver_anew(Interruption(vectoring.vector, SOURCES[vectoring.type], rip, error_code))
    vmcs.guest_changed = True
    if delivered and vectoring.type.needs_instruction_length:
        vcpu.cpu.engine.count += 1
        vcpu.log.emulated_instructions += 1
