"""Control registers in VMX non-root operation: guest/host masks, read shadows, CR3 targets.

Sources: SDM Vol. 3C §25.6.6, §25.6.7, §26.1.3, §26.3.

A bit of CR0 or CR4 whose mask bit is 1 belongs to the VMM: the guest reads its shadow, and exits when it would write
something else than the shadow. The other bits are the guest's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.completion import complete_once
from simvirt.machine.control_registers import (
    finish_machine_status_word,
    machine_status_word_operand,
    write_control_register,
    write_task_priority,
)
from simvirt.machine.events import ControlRegisterAccess, ControlRegisterOperation
from simvirt.machine.faults import general_protection
from simvirt.x86.flags import Cr0
from simvirt.x86.registers import ControlRegister, GeneralRegister
from simvirt.x86.vmx import CrAccess, CrAccessType, ExitReason, PrimaryControls, VmcsField

if TYPE_CHECKING:
    from simvirt.machine.vmx.non_root_operation import NonRootOperation
    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_TS: Final = int(Cr0.TS)
_MSW: Final = 0xF
_CR3_TARGETS: Final = (_F.CR3_TARGET_VALUE_0, _F.CR3_TARGET_VALUE_1, _F.CR3_TARGET_VALUE_2, _F.CR3_TARGET_VALUE_3)
_MASKS: Final = {
    0: (_F.CR0_GUEST_HOST_MASK, _F.CR0_READ_SHADOW),
    4: (_F.CR4_GUEST_HOST_MASK, _F.CR4_READ_SHADOW),
}


def guest_view(vmcs: Vmcs, number: int, value: int) -> int:
    """What the guest reads from CR0 or CR4 whose real value is `value`."""
    mask_field, shadow_field = _MASKS[number]
    mask = vmcs.fields.get(mask_field, 0)
    return value & ~mask | vmcs.fields.get(shadow_field, 0) & mask


def access(non_root: NonRootOperation, event: ControlRegisterAccess) -> ExitReason | None:
    """The event's answer: a VM exit with reason 28, or completion through masks and shadows."""
    return _ANSWERS[event.operation](non_root, event)


def _exit(
    non_root: NonRootOperation,
    event: ControlRegisterAccess,
    kind: CrAccessType,
    *,
    memory: bool = False,
    data: int = 0,
) -> ExitReason:
    mov = kind in (CrAccessType.MOV_TO_CR, CrAccessType.MOV_FROM_CR)
    qualification = CrAccess(
        ControlRegister(event.number) if mov else ControlRegister.CR0,
        kind,
        event.register if mov else GeneralRegister.RAX,
        memory,
        data,
    )
    return non_root.exit(ExitReason.CR_ACCESS, qualification.encode(), event.length)


def _to_cr(non_root: NonRootOperation, event: ControlRegisterAccess) -> ExitReason | None:
    cpu, vmcs = non_root.cpu, non_root.vmcs
    state = cpu.state
    number = event.number
    value = state[event.register] if state.code_64 else state.register(event.register, 4)
    if number in _MASKS:
        mask_field, shadow_field = _MASKS[number]
        mask = vmcs.fields.get(mask_field, 0)
        if (value ^ vmcs.fields.get(shadow_field, 0)) & mask:
            return _exit(non_root, event, CrAccessType.MOV_TO_CR)
        write_with_mask(non_root, number, value, mask)
    elif number == 3:
        if non_root.primary & PrimaryControls.CR3_LOAD_EXITING and not _is_target(vmcs, value):
            return _exit(non_root, event, CrAccessType.MOV_TO_CR)
        write_control_register(cpu, 3, value)
    elif number == 8 and non_root.primary & PrimaryControls.CR8_LOAD_EXITING:
        return _exit(non_root, event, CrAccessType.MOV_TO_CR)
    elif number == 8 and non_root.primary & PrimaryControls.USE_TPR_SHADOW:
        return _write_virtual_task_priority(non_root, value, event.length)
    elif number == 8:
        write_task_priority(non_root.bus, value)
    else:
        write_control_register(cpu, number, value)
    cpu.advance(event.length)
    return None


VTPR: Final = 0x80
"""Offset of the virtual task-priority register in the virtual-APIC page (SDM Vol. 3C §30.1.1)."""


def virtual_task_priority(non_root: NonRootOperation) -> int:
    """Bits 7:4 of VTPR, which CR8 is under a TPR shadow; all ones where the page lies outside memory."""
    at = non_root.vmcs.fields.get(_F.VIRTUAL_APIC_ADDRESS, 0) + VTPR
    return non_root.memory[at] >> 4 if at < len(non_root.memory) else 0xF


def _write_virtual_task_priority(non_root: NonRootOperation, value: int, length: int) -> ExitReason | None:
    """MOV to CR8 under a TPR shadow: below the threshold a VM exit follows, behind the instruction (§30.1.2, §30.3)."""
    if value > 0xF:
        raise general_protection(0)
    fields = non_root.vmcs.fields
    at = fields.get(_F.VIRTUAL_APIC_ADDRESS, 0) + VTPR
    if at < len(non_root.memory):
        non_root.memory[at] = value << 4
    non_root.cpu.advance(length)
    if value < fields.get(_F.TPR_THRESHOLD, 0) & 0xF:
        return non_root.exit(ExitReason.TPR_BELOW_THRESHOLD)
    return None


def write_with_mask(non_root: NonRootOperation, number: int, value: int, mask: int) -> None:
    """MOV to CR0 or CR4 in which the bits of `mask` stay; the processor checks the bits that change.

    :raises ProcessorFault: #GP(0).
    """
    cpu = non_root.cpu
    state = cpu.state
    real = state.control_register(number)
    if number == 4:
        kept = real & mask & ~cpu.engine.cr4_features
        write_control_register(cpu, 4, (value & ~mask | real & mask) & ~kept)
        state.set_control_register(4, state.cr4 | kept)
    else:
        write_control_register(cpu, 0, value & ~mask | real & mask)
        non_root.long_mode_changed()


def _is_target(vmcs: Vmcs, value: int) -> bool:
    """Is it among the first n CR3-target values?"""
    count = vmcs.fields.get(_F.CR3_TARGET_COUNT, 0)
    return any(vmcs.fields.get(field, 0) == value for field in _CR3_TARGETS[:count])


def _from_cr(non_root: NonRootOperation, event: ControlRegisterAccess) -> ExitReason | None:
    cpu = non_root.cpu
    state = cpu.state
    number = event.number
    stores = {3: PrimaryControls.CR3_STORE_EXITING, 8: PrimaryControls.CR8_STORE_EXITING}.get(number)
    if stores is not None and non_root.primary & stores:
        return _exit(non_root, event, CrAccessType.MOV_FROM_CR)
    if number == 8 and non_root.primary & PrimaryControls.USE_TPR_SHADOW:
        state[event.register] = virtual_task_priority(non_root)
        cpu.advance(event.length)
        return None
    if number not in _MASKS:
        complete_once(cpu, non_root.bus, event)
        return None
    state[event.register] = guest_view(non_root.vmcs, number, state.control_register(number))
    cpu.advance(event.length)
    return None


def _clts(non_root: NonRootOperation, event: ControlRegisterAccess) -> ExitReason | None:
    """CLTS exits when TS is the VMM's and its shadow is 1; with shadow 0 it does nothing."""
    fields = non_root.vmcs.fields
    if fields.get(_F.CR0_GUEST_HOST_MASK, 0) & _TS:
        if fields.get(_F.CR0_READ_SHADOW, 0) & _TS:
            return _exit(non_root, event, CrAccessType.CLTS)
    else:
        write_control_register(non_root.cpu, 0, non_root.cpu.state.cr0 & ~_TS)
    non_root.cpu.advance(event.length)
    return None


def _lmsw(non_root: NonRootOperation, event: ControlRegisterAccess) -> ExitReason | None:
    """LMSW exits when it would set the VMM's PE, or write another value than the shadow's to the VMM's MP, EM or TS."""
    cpu = non_root.cpu
    operand = cpu.memory_operand()
    data = machine_status_word_operand(cpu, event)
    mask = non_root.vmcs.fields.get(_F.CR0_GUEST_HOST_MASK, 0)
    shadow = non_root.vmcs.fields.get(_F.CR0_READ_SHADOW, 0)
    sets_pe = data & mask & ~shadow & Cr0.PE
    if sets_pe or (data ^ shadow) & mask & _MSW & ~int(Cr0.PE):
        if operand is not None:
            non_root.vmcs.fields[_F.GUEST_LINEAR_ADDRESS] = operand[0]
        return _exit(non_root, event, CrAccessType.LMSW, memory=operand is not None, data=data)
    real = cpu.state.cr0
    loaded = real & ~(_MSW & ~int(Cr0.PE)) | data & _MSW
    write_with_mask(non_root, 0, loaded, mask)
    cpu.advance(event.length)
    return None


def _smsw(non_root: NonRootOperation, event: ControlRegisterAccess) -> ExitReason | None:
    """SMSW never exits; it shows the shadow."""
    finish_machine_status_word(non_root.cpu, event, guest_view(non_root.vmcs, 0, non_root.cpu.state.cr0))
    return None


_ANSWERS: Final = {
    ControlRegisterOperation.MOV_TO_CR: _to_cr,
    ControlRegisterOperation.MOV_FROM_CR: _from_cr,
    ControlRegisterOperation.CLTS: _clts,
    ControlRegisterOperation.LMSW: _lmsw,
    ControlRegisterOperation.SMSW: _smsw,
}
