"""The interpreter of the strategy `vtx`: it does for the guest, on the VM's own resources, what an exit kept it from.

Privilege has been checked by the processor before an exit; what is left are the checks on values. A fault that an
instruction meets here is injected at the next VM entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from simvirt.errors import MonitorError
from simvirt.machine import device_access
from simvirt.machine.completion import complete_once, finish_port_access
from simvirt.machine.control_registers import TASK_PRIORITY, write_task_priority
from simvirt.machine.delivery import Shutdown
from simvirt.machine.events import (
    ControlRegisterAccess,
    DescriptorTableAccess,
    Event,
    ExceptionRaised,
    PhysicalAccess,
    PhysicalTarget,
    PortAccess,
)
from simvirt.machine.faults import ProcessorFault, general_protection
from simvirt.machine.fills import Access
from simvirt.machine.machine import Stop
from simvirt.machine.msrs import read_msr, write_msr
from simvirt.machine.string_io import further_iterations, runs_on
from simvirt.machine.vmx.control_registers import write_with_mask
from simvirt.strategies.vtx import controls, delivery
from simvirt.vmm.exit_log import Disposition, ResourceAttempt
from simvirt.x86.addresses import Gpa, Gva, Port
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr0
from simvirt.x86.msrs import name_of
from simvirt.x86.operations import Operation
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import CrAccess, CrAccessType, IoInstruction, VmcsField

if TYPE_CHECKING:
    from simvirt.strategies.vtx.vcpu import BoardVcpu, Vcpu

_F: Final = VmcsField
_QUALIFICATION: Final = int(_F.EXIT_QUALIFICATION)
_LENGTH: Final = int(_F.EXIT_INSTRUCTION_LENGTH)
_FAR_TRANSFERS: Final = frozenset({Operation.CALL_FAR, Operation.JMP_FAR, Operation.RET_FAR, Operation.IRET})
_VECTORING: Final = int(_F.IDT_VECTORING_INFORMATION)
_VALID: Final = 1 << 31
_TO_PAGE: Final = 1 << 8
"""Bit of an EPT violation's qualification: not an access to a guest's paging structure."""
_NMI_UNBLOCKING: Final = 1 << 12
"""It has struck an IRET that has ended blocking by NMI."""
_RAX, _RBX, _RCX, _RDX = GeneralRegister.RAX, GeneralRegister.RBX, GeneralRegister.RCX, GeneralRegister.RDX


def cpuid(vcpu: Vcpu) -> None:
    """CPUID: the model that the VM was given answers."""
    state = vcpu.cpu.state
    eax, ebx, ecx, edx = vcpu.bus.cpu_model.cpuid(state[_RAX] & 0xFFFFFFFF, state[_RCX] & 0xFFFFFFFF)
    state[_RAX], state[_RBX], state[_RCX], state[_RDX] = eax, ebx, ecx, edx
    vcpu.advance()


def halt(vcpu: Vcpu) -> Stop:
    """HLT: the virtual processor waits for a virtual interrupt."""
    sleeps = vcpu.cpu.can_halt
    vcpu.advance()
    return Stop.HALTED if sleeps else Stop.HANDLED


def cache(vcpu: Vcpu) -> None:
    """INVD: the caches are the host's, and must not lose what it wrote. There is nothing to do for the guest."""
    vcpu.advance()


def port(vcpu: BoardVcpu) -> Stop | None:
    """IN, OUT, INS, OUTS: the VM's own board answers."""
    cpu, vmcs, board = vcpu.cpu, vcpu.vmcs, vcpu.board
    qualification = vmcs.fields[_QUALIFICATION]
    size, number = (qualification & 7) + 1, Port(qualification >> 16)
    is_out, is_string = not qualification & 8, bool(qualification & 16)
    state = cpu.state
    if vcpu.log.keeps_attempts and not board.bus.answers(number, size):
        vcpu.log.unclaimed_port(vcpu.count, number, size, is_out=is_out)
    if not is_string:
        if is_out:
            board.write_port(number, size, state.register(_RAX, size))  # type: ignore[arg-type]  # 1, 2 or 4
        else:
            state.set_register(_RAX, size, board.read_port(number, size))  # type: ignore[arg-type]  # likewise
        vcpu.advance()
        return _if_interrupt_waits(vcpu)
    try:
        with delivery.in_place_of_processor(vcpu):
            _string_port(vcpu, IoInstruction.decode(qualification))
    except ProcessorFault as fault:
        inject_fault(vcpu, fault)
    return _if_interrupt_waits(vcpu)


def _string_port(vcpu: BoardVcpu, io: IoInstruction) -> None:
    """INS, OUTS: an iteration, and those behind it that nothing can come between.

    :raises ProcessorFault: the operand in memory faults.
    """
    cpu, fields, board = vcpu.cpu, vcpu.vmcs.fields, vcpu.board
    size: Any = io.size  # 1, 2 or 4 by construction
    address_size = 2 << (fields[_F.EXIT_INSTRUCTION_INFORMATION] >> 7 & 7)
    if io.is_in:
        value = board.read_port(io.port, size)
    else:
        value = cpu.memory.read_integer(fields[_F.GUEST_LINEAR_ADDRESS], size, user=cpu.state.cpl == 3)
        board.write_port(io.port, size, value)
    event = PortAccess(io.port, size, not io.is_in, value, fields[_LENGTH], False, True, io.rep, address_size)
    vcpu.log.emulated_instructions += 1
    goes_on = runs_on(cpu, event)
    finish_port_access(cpu, event, value)
    if goes_on:
        vcpu.log.emulated_instructions += further_iterations(cpu, vcpu.bus, event)


def _if_interrupt_waits(vcpu: Vcpu) -> Stop | None:
    """After an access to a device: let the machine's loop inject an interrupt that waits, if it can be taken now."""
    return Stop.HANDLED if vcpu.window else None


def read_msr_(vcpu: Vcpu) -> None:
    """RDMSR of what is not passed through: the VM's own register, if it has it, or one of the VMM's interface."""
    state = vcpu.cpu.state
    number = state[_RCX] & 0xFFFFFFFF
    paravirtual = vcpu.paravirtual
    if paravirtual is not None and paravirtual.has_msr(number):
        value = paravirtual.read_msr(number)
        state[_RAX], state[_RDX] = value & 0xFFFFFFFF, value >> 32
        vcpu.advance()
        return
    try:
        value = read_msr(vcpu.cpu, vcpu.bus, number)
    except ProcessorFault as fault:
        _deny_msr(vcpu, "RDMSR", number, fault)
        return
    state[_RAX], state[_RDX] = value & 0xFFFFFFFF, value >> 32
    vcpu.advance()


def write_msr_(vcpu: Vcpu) -> None:
    """WRMSR of what is not passed through."""
    state = vcpu.cpu.state
    number = state[_RCX] & 0xFFFFFFFF
    value = (state[_RDX] & 0xFFFFFFFF) << 32 | state[_RAX] & 0xFFFFFFFF
    paravirtual = vcpu.paravirtual
    try:
        if paravirtual is not None and paravirtual.has_msr(number):
            paravirtual.write_msr(number, value)
        else:
            write_msr(vcpu.cpu, vcpu.bus, number, value)
    except ProcessorFault as fault:
        _deny_msr(vcpu, "WRMSR", number, fault)
        return
    vcpu.non_root.operation.long_mode_changed()
    vcpu.advance()


def _deny_msr(vcpu: Vcpu, what: str, number: int, fault: ProcessorFault) -> None:
    vcpu.log.attempt(ResourceAttempt(vcpu.count, f"{what} {name_of(number)}", Disposition.DENIED))
    inject_fault(vcpu, fault)


def control_register(vcpu: Vcpu) -> None:
    """CR8; or a write to CR0 or CR4 that touches a bit of the VMM's, whose value goes to the shadow."""
    cpu, vmcs = vcpu.cpu, vcpu.vmcs
    access = CrAccess.decode(vmcs.fields[_QUALIFICATION])
    if access.register == TASK_PRIORITY:
        _task_priority(vcpu, access)
        return
    if access.access is not CrAccessType.MOV_TO_CR or access.register not in _CR_FIELDS:
        raise MonitorError(f"the VMM did not ask for this access to a control register: {access}")
    state = cpu.state
    number = int(access.register)
    value = state[access.general_register]
    if not state.code_64:
        value &= 0xFFFFFFFF
    mask, shadow_field = _CR_FIELDS[number]
    try:
        check_control_register(number, value, cpu.engine.cr4_features)
        with delivery.in_place_of_processor(vcpu):  # which reads the PDPTEs
            write_with_mask(vcpu.non_root.operation, number, value, mask)
    except ProcessorFault as fault:
        inject_fault(vcpu, fault)
        return
    vmcs.write(shadow_field, value | int(Cr0.ET) if number == 0 else value)
    vcpu.advance()


def _task_priority(vcpu: Vcpu, access: CrAccess) -> None:
    """CR8: the VM's own local APIC has it."""
    state, local_apic = vcpu.cpu.state, vcpu.bus.local_apic
    try:
        if access.access is CrAccessType.MOV_TO_CR:
            write_task_priority(vcpu.bus, state[access.general_register])
        else:
            state[access.general_register] = 0 if local_apic is None else local_apic.task_priority
    except ProcessorFault as fault:
        inject_fault(vcpu, fault)
        return
    vcpu.advance()


def task_priority_fell(vcpu: BoardVcpu) -> Stop:
    """The guest's CR8 is below the TPR threshold: an interrupt that was held back may come now."""
    assert vcpu.local_apic is not None  # it has set the threshold
    vcpu.local_apic.look_at_task_priority()
    return Stop.HANDLED


_CR_FIELDS: Final = {
    0: (controls.CR0_MASK, _F.CR0_READ_SHADOW),
    4: (controls.CR4_MASK, _F.CR4_READ_SHADOW),
}


def check_control_register(number: int, value: int, cr4_features: int) -> None:
    """The checks on the bits that the VMM keeps: CR0.NW needs CD, and CR4 has no VMXE in a VM without VMX.

    :raises ProcessorFault: #GP(0).
    """
    if number == 0 and value & int(Cr0.NW) and not value & int(Cr0.CD):
        raise general_protection(0)
    if number == 4 and value & ~cr4_features:
        raise general_protection(0)


def undefined(vcpu: Vcpu) -> None:
    """An instruction of VMX: this VM's processor has none, so it is #UD as on the bare PC."""
    vcpu.log.attempt(ResourceAttempt(vcpu.count, f"{vcpu.reason.name}: VMX operation of the host", Disposition.DENIED))
    vcpu.inject_exception(Vector.UD)


def hypercall(vcpu: Vcpu) -> None:
    """VMCALL: a call of the VMM, where it offers an interface to guests that know of it; #UD otherwise."""
    paravirtual, state = vcpu.paravirtual, vcpu.cpu.state
    if paravirtual is None:
        undefined(vcpu)
        return
    mask = (1 << 64) - 1 if state.code_64 else 0xFFFFFFFF
    result = paravirtual.call(state[_RAX] & mask, state[_RBX] & mask, state[_RCX] & mask, state.cpl)
    state[_RAX] = result & mask
    vcpu.advance()


def memory(vcpu: Vcpu) -> None:
    """An EPT violation: no memory of the VM's lies there. The access is done on the VM's own bus."""
    cpu, fields = vcpu.cpu, vcpu.vmcs.fields
    qualification = fields[_QUALIFICATION]
    gpa = Gpa(fields[_F.GUEST_PHYSICAL_ADDRESS])
    if not qualification & _TO_PAGE:
        vcpu.memory.serve_page_table(gpa)
        if qualification & _NMI_UNBLOCKING:  # the IRET begins anew, and no NMI comes before it
            cpu.engine.block_nmi(True)
        return
    if fields[_VECTORING] & _VALID:
        delivery.deliver_vectored(vcpu, fields[_VECTORING])
        return
    access = Access.FETCH if qualification & 4 else Access.WRITE if qualification & 2 else Access.READ
    before = cpu.engine.count
    instruction = cpu.instruction()
    if instruction.operation in _FAR_TRANSFERS:  # the processor's own accesses: to a stack, a descriptor table, a TSS
        with delivery.in_place_of_processor(vcpu):
            settle(vcpu, cpu.transfer_far(instruction), before)
        return
    target = device_access.target_of(vcpu.bus.region(gpa))
    if target is PhysicalTarget.HOLE and vcpu.log.keeps_attempts:
        what = f"guest-physical address {gpa:#x} ({access.name.lower()})"
        vcpu.log.attempt(ResourceAttempt(vcpu.count, what, Disposition.ABSORBED))
    event = PhysicalAccess(target, gpa, Gva(fields[_F.GUEST_LINEAR_ADDRESS]), access, fields[_LENGTH])
    settle(vcpu, device_access.complete(cpu, vcpu.bus, event), before)


def settle(vcpu: Vcpu, met: Event | None, before: int) -> None:
    """The guest's instruction has been run, and met this; `before` is what the count was."""
    if met is not None and type(met) in _READ_OPERANDS:
        met = _finish(vcpu, met)
    vcpu.log.emulated_instructions += vcpu.cpu.engine.count - before
    if type(met) is ExceptionRaised:
        vcpu.inject_exception(met.vector, met.error_code, met.cr2, met.condition)
    elif met is not None:
        vcpu.non_root.meet(met)


_READ_OPERANDS: Final = frozenset({ControlRegisterAccess, DescriptorTableAccess})
"""What the processor completes itself, operand included: it would meet the same EPT violation again."""


def _finish(vcpu: Vcpu, met: Event) -> Event | None:
    """LTR, LMSW, SMSW and their like, whose operand lies where the VM has no memory: in place of the processor."""
    try:
        with delivery.in_place_of_processor(vcpu):
            return complete_once(vcpu.cpu, vcpu.bus, met)
    except ProcessorFault as fault:
        inject_fault(vcpu, fault)
        return None


def triple_fault(_vcpu: Vcpu) -> None:
    """The guest's processor shuts down: the end of the VM."""
    raise Shutdown


def inject_fault(vcpu: Vcpu, fault: ProcessorFault) -> None:
    """Give the guest a fault that its instruction met in the VMM's hands."""
    vcpu.inject_exception(fault.vector, fault.error_code, fault.cr2, fault.condition)
