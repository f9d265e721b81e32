"""Task switches: they always exit, and the VMM carries them out on the guest's own TSSs (SDM Vol. 3C §26.4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.delivery import Shutdown
from simvirt.machine.faults import ProcessorFault
from simvirt.machine.interrupts import Interruption, Source
from simvirt.machine.task_switch import TaskSwitch, switch_tasks
from simvirt.strategies.vtx import delivery
from simvirt.x86.exceptions import Escalation, Vector, escalate
from simvirt.x86.vmx import InterruptionInformation, InterruptionType, VmcsField
from simvirt.x86.vmx import TaskSwitch as TaskSwitchQualification

if TYPE_CHECKING:
    from simvirt.strategies.vtx.vcpu import Vcpu

_F: Final = VmcsField
_VALID: Final = 1 << 31
_SOFTWARE: Final = (InterruptionType.SOFTWARE_INTERRUPT, InterruptionType.SOFTWARE_EXCEPTION)


def switch(vcpu: Vcpu) -> None:
    """Do what the guest's processor would have done."""
    cpu, fields = vcpu.cpu, vcpu.vmcs.fields
    qualification = TaskSwitchQualification.decode(fields[_F.EXIT_QUALIFICATION])
    length = fields[_F.EXIT_INSTRUCTION_LENGTH]
    raw = fields[_F.IDT_VECTORING_INFORMATION]
    vectoring = InterruptionInformation.decode(raw) if raw & _VALID else None
    what = TaskSwitch(
        qualification.source,
        qualification.selector,
        cpu.state.rip + length & 0xFFFF_FFFF,
        length,
        fields[_F.IDT_VECTORING_ERROR_CODE] if vectoring is not None and vectoring.deliver_error_code else None,
        external=vectoring is not None and vectoring.type not in _SOFTWARE,
        resume_flag=vectoring is not None
        and vectoring.type is InterruptionType.HARDWARE_EXCEPTION
        and vectoring.vector != Vector.DB,
    )
    before = cpu.count
    try:
        with delivery.in_place_of_processor(vcpu):
            switch_tasks(cpu, what)
    except ProcessorFault as fault:
        _deliver(vcpu, vectoring, fault)
    vcpu.log.emulated_instructions += cpu.count - before
    vcpu.vmcs.guest_changed = True


def _deliver(vcpu: Vcpu, vectoring: InterruptionInformation | None, fault: ProcessorFault) -> None:
    """A fault of the switch; while an exception was being delivered, it may make a double fault of it.

    The processor may be in the new task already, with segments that no VM entry would take: the VMM delivers the fault.
    """
    cpu = vcpu.cpu
    rip, cr2 = cpu.state.rip, fault.cr2
    first = vectoring.vector if vectoring and vectoring.type is InterruptionType.HARDWARE_EXCEPTION else None
    outcome = escalate(first, fault.vector)
    if outcome is Escalation.SHUTDOWN:
        raise Shutdown
    what = Interruption(fault.vector, Source.EXCEPTION, rip, fault.error_code)
    if outcome is Escalation.DOUBLE_FAULT:
        what = Interruption(Vector.DF, Source.EXCEPTION, rip, 0)
    with delivery.in_place_of_processor(vcpu):
        if vectoring is None:
            cpu.deliver(what, cr2, condition=fault.condition)
        else:
            cpu.deliver_on_the_way(what, cr2)
