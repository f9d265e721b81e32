"""State that a VM entry may load and a VM exit may save, or not: DR7, IA32_PAT, IA32_EFER.

Sources: SDM Vol. 3C §27.3.2.1, §28.3.1, §28.5.1.

With its controls all 1 such a register is the guest's own, and stays in the processor like the rest of its state. With
one of them 0 the field of the VMCS and the register are two things: the field keeps what was written to it, or the
guest begins with what the host has left in the register.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.guest_fields import GUEST_FIELDS
from simvirt.x86.flags import DR7_ALWAYS_ONE, Cr0, Efer
from simvirt.x86.vmx import EntryControls, ExitControls, VmcsField

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.cpu import Cpu
    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_LONG: Final = int(Efer.LME | Efer.LMA)


@dataclass(frozen=True, slots=True)
class Transition:
    """What entry and exit do with one register.

    :ivar load: the VM-entry control that loads it from `field`; `save`: the VM-exit control that saves it there.
    :ivar host: what a VM exit leaves in the register, in which the guest had `value`.
    :ivar unloaded: what a VM entry that does not load it makes of the register.
    """

    field: VmcsField
    load: EntryControls
    save: ExitControls
    host: Callable[[Vmcs, int], int]
    unloaded: Callable[[Vmcs, int], int] = lambda _vmcs, value: value

    def is_guests_own(self, vmcs: Vmcs) -> bool:
        """Is it loaded and saved?"""
        loads = vmcs.fields.get(_F.ENTRY_CONTROLS, 0) & self.load
        return bool(loads and vmcs.fields.get(_F.EXIT_CONTROLS, 0) & self.save)

    def enter(self, cpu: Cpu, vmcs: Vmcs, *, after_exit: bool) -> None:
        """VM entry. What the last VM exit did to the register is made up for here: nothing of the host looks at it."""
        register = GUEST_FIELDS[self.field]
        before = register.read(cpu)
        if vmcs.fields.get(_F.ENTRY_CONTROLS, 0) & self.load:
            value = vmcs.fields.get(self.field, 0)
        else:
            value = self.unloaded(vmcs, self.host(vmcs, before) if after_exit else before)
        if value != before:
            register.write(cpu, value)

    def leave(self, cpu: Cpu, vmcs: Vmcs) -> None:
        """VM exit."""
        if vmcs.fields.get(_F.EXIT_CONTROLS, 0) & self.save:
            vmcs.fields[self.field] = GUEST_FIELDS[self.field].read(cpu)


def _exits_with(vmcs: Vmcs, control: ExitControls) -> bool:
    return bool(vmcs.fields.get(_F.EXIT_CONTROLS, 0) & control)


def _host_pat(vmcs: Vmcs, value: int) -> int:
    return vmcs.fields.get(_F.HOST_IA32_PAT, 0) if _exits_with(vmcs, ExitControls.LOAD_IA32_PAT) else value


def _host_efer(vmcs: Vmcs, value: int) -> int:
    if _exits_with(vmcs, ExitControls.LOAD_IA32_EFER):
        return vmcs.fields.get(_F.HOST_IA32_EFER, 0)
    return value | _LONG if _exits_with(vmcs, ExitControls.HOST_ADDRESS_SPACE_SIZE) else value & ~_LONG


def _unloaded_efer(vmcs: Vmcs, value: int) -> int:
    """LMA becomes the control "IA-32e mode guest", and so does LME where the guest has paging on."""
    bits = _LONG if vmcs.read(_F.GUEST_CR0) & Cr0.PG else int(Efer.LMA)
    return value | bits if vmcs.fields.get(_F.ENTRY_CONTROLS, 0) & EntryControls.IA32E_MODE_GUEST else value & ~bits


TRANSITIONS: Final = (
    Transition(
        _F.GUEST_DR7,
        EntryControls.LOAD_DEBUG_CONTROLS,
        ExitControls.SAVE_DEBUG_CONTROLS,
        lambda _vmcs, _value: DR7_ALWAYS_ONE,
    ),
    Transition(_F.GUEST_IA32_PAT, EntryControls.LOAD_IA32_PAT, ExitControls.SAVE_IA32_PAT, _host_pat),
    Transition(
        _F.GUEST_IA32_EFER,
        EntryControls.LOAD_IA32_EFER,
        ExitControls.SAVE_IA32_EFER,
        _host_efer,
        _unloaded_efer,
    ),
)


def chosen(vmcs: Vmcs) -> tuple[Transition, ...]:
    """Those registers whose field is a thing of its own, by the controls."""
    return tuple(transition for transition in TRANSITIONS if not transition.is_guests_own(vmcs))
