"""The virtual-machine control structure: what a VMM sets before a VM entry and reads after a VM exit.

Source: SDM Vol. 3C Chapter 25.

One `Vmcs` belongs to one virtual processor. Its fields are reached by their encodings, `VmcsField`, with `read`
(VMREAD) and `write` (VMWRITE); the exit-information fields are read-only to the VMM. While a VMCS is current on a
processor, guest-state fields live in the processor (`machine.vmx.guest_fields`); `leave` brings them home.

>>> vmcs = Vmcs()
>>> vmcs.write(VmcsField.EXCEPTION_BITMAP, 1 << 6)
>>> vmcs.read(VmcsField.EXCEPTION_BITMAP)
64
>>> vmcs.write(VmcsField.EXIT_REASON, 0)
Traceback (most recent call last):
...
simvirt.machine.vmx.vmcs.VmcsError: VMWRITE of EXIT_REASON failed: the field is read-only (VM-instruction error 13)
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError
from simvirt.machine.vmx.capabilities import CR4_FIXED_1, THIS_PC
from simvirt.machine.vmx.guest_fields import GUEST_FIELDS
from simvirt.x86.cpuid import CR4_FEATURES
from simvirt.x86.vmx import FieldKind, PrimaryControls, VmcsField

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simvirt.machine.cpu import Cpu
    from simvirt.machine.vmx.capabilities import Capabilities
    from simvirt.machine.vmx.guest_fields import GuestField


class VmInstructionError(IntEnum):
    """VM-instruction error numbers (SDM Vol. 3C §31.4, Table 31-1), those that can arise here."""

    VMCLEAR_INVALID_ADDRESS = 2
    VMCLEAR_VMXON_POINTER = 3
    VMLAUNCH_NON_CLEAR_VMCS = 4
    VMRESUME_NON_LAUNCHED_VMCS = 5
    ENTRY_INVALID_CONTROL_FIELDS = 7
    ENTRY_INVALID_HOST_STATE = 8
    VMPTRLD_INVALID_ADDRESS = 9
    VMPTRLD_VMXON_POINTER = 10
    VMPTRLD_INCORRECT_REVISION = 11
    UNSUPPORTED_FIELD = 12
    WRITE_TO_READ_ONLY_FIELD = 13
    VMXON_IN_ROOT_OPERATION = 15
    INVALID_OPERAND_TO_INVEPT_INVVPID = 28


class VmcsError(MonitorError):
    """VMREAD or VMWRITE failed: VMfailValid with a VM-instruction error."""

    def __init__(self, what: str, why: str, error: VmInstructionError) -> None:
        self.error = error
        super().__init__(f"{what} failed: {why} (VM-instruction error {error.value})")


_ACCESS_HIGH: Final = 1
_LINK_POINTER_NONE: Final = (1 << 64) - 1
_CONTROLS_CHANGE: Final = frozenset(
    {
        VmcsField.GUEST_CR0,
        VmcsField.GUEST_CR4,
        *(field for field in VmcsField if field.kind in (FieldKind.CONTROL, FieldKind.HOST_STATE)),
    }
    - {
        VmcsField.ENTRY_INTERRUPTION_INFORMATION,
        VmcsField.ENTRY_EXCEPTION_ERROR_CODE,
        VmcsField.ENTRY_INSTRUCTION_LENGTH,
    }
)
_WINDOW: Final = int(PrimaryControls.INTERRUPT_WINDOW_EXITING)
_ALL: Final = (1 << 32) - 1
_GUEST_CHECKS_GO_BY: Final = {
    VmcsField.PRIMARY_CONTROLS: int(PrimaryControls.ACTIVATE_SECONDARY_CONTROLS),
    VmcsField.SECONDARY_CONTROLS: _ALL,
    VmcsField.ENTRY_CONTROLS: _ALL,
}
"""Bits of the controls on which the checks of the guest state depend."""
_HIDDEN_STATE_FIELDS: Final = frozenset(f for f in VmcsField if f.kind is FieldKind.GUEST_STATE) - GUEST_FIELDS.keys()

_SETS_CPL: Final = frozenset({VmcsField.GUEST_CR0, VmcsField.GUEST_RFLAGS})
"""Writing them may change CPL in the processor, whose place in a VMCS is the DPL of SS."""


class Vmcs:
    """The fields of one VMCS.

    :ivar capabilities: what the processor that it is for offers.
    :ivar fields: the values as the processor itself keeps them; a VMM uses `read` and `write`.
    :ivar controls_changed: set by `write` when what the controls mean has to be worked out again.
    :ivar window_changed: set by `write` when that is "interrupt-window exiting" alone, which a VMM changes often.
    :ivar guest_changed: set by `write` when the guest state has to be checked again.
    """

    __slots__ = (
        "_apart",
        "_cpu",
        "_unheld",
        "capabilities",
        "controls_changed",
        "fields",
        "guest_changed",
        "window_changed",
    )

    def __init__(self, capabilities: Capabilities = THIS_PC) -> None:
        self.capabilities = capabilities
        self.fields: dict[int, int] = {VmcsField.VMCS_LINK_POINTER: _LINK_POINTER_NONE}
        self._cpu: Cpu | None = None
        self._apart: frozenset[VmcsField] = frozenset()
        self._unheld: dict[int, int] = {}  # values that the processor's state has no room for, or none like that
        self.controls_changed = True
        self.guest_changed = True
        self.window_changed = False

    @property
    def is_current(self) -> bool:
        """Is it on a processor?"""
        return self._cpu is not None

    def read(self, field: VmcsField) -> int:
        """VMREAD."""
        if self._cpu is not None and (live := GUEST_FIELDS.get(field)) is not None and field not in self._apart:
            if self._unheld and field in self._unheld:
                return self._unheld[field]
            return live.read(self._cpu)
        return self.fields.get(field, 0)

    @property
    def cr4_may_be_1(self) -> int:
        """The bits of CR4 that the guest's processor has, by its CPU model while the VMCS is on one."""
        return CR4_FIXED_1 | (CR4_FEATURES if self._cpu is None else self._cpu.engine.cr4_features)

    def physical_byte(self, address: int) -> int:
        """A byte of the memory of the processor that the VMCS is on; ones where there is none."""
        view = None if self._cpu is None else self._cpu.engine.memory.view
        return 0xFF if view is None or address >= len(view) else view[address]

    def write(self, field: VmcsField, value: int) -> None:
        """VMWRITE. A value wider than the field is an error here, where the processor would drop the upper bits.

        :raises VmcsError: there is no such field, it is read-only, or `value` does not fit.
        """
        if type(field) is not VmcsField:
            raise VmcsError(f"VMWRITE of {field:#x}", "there is no such field", VmInstructionError.UNSUPPORTED_FIELD)
        if field.read_only:
            raise VmcsError(
                f"VMWRITE of {field.name}", "the field is read-only", VmInstructionError.WRITE_TO_READ_ONLY_FIELD
            )
        if value < 0 or value >> field.bits:
            raise VmcsError(
                f"VMWRITE of {field.name}",
                f"{value:#x} does not fit its {field.bits} bits",
                VmInstructionError.UNSUPPORTED_FIELD,
            )
        before = self.fields.get(field, 0)
        if field in _GUEST_CHECKS_GO_BY and (value ^ before) & _GUEST_CHECKS_GO_BY[field]:
            self.guest_changed = True
        live = GUEST_FIELDS.get(field)
        if live is not None and self._cpu is not None and field not in self._apart:
            self._load(self._cpu, field, live, value)
            self.guest_changed |= live.checked
        else:
            self.fields[field] = value
            self.guest_changed |= live is not None or field in _HIDDEN_STATE_FIELDS
        if field == VmcsField.PRIMARY_CONTROLS and (value ^ before) & ~_WINDOW == 0:
            self.window_changed = True
        else:
            self.controls_changed |= field in _CONTROLS_CHANGE

    def enter(self, cpu: Cpu) -> None:
        """Become current on `cpu`: the guest state is loaded.

        General, floating-point and debug registers are the VMM's to load.
        """
        if self._cpu is cpu:
            return
        self._cpu = cpu
        for field, live in GUEST_FIELDS.items():
            if field in self.fields:
                self._load(cpu, field, live, self.fields[field])
        self.controls_changed = self.guest_changed = True

    def _load(self, cpu: Cpu, field: VmcsField, live: GuestField, value: int) -> None:
        """Into the processor; what that cannot hold stays here, for the checks of VM entry to see."""
        stack = self.read(VmcsField.GUEST_SS_ACCESS_RIGHTS) if field in _SETS_CPL else None
        self._unheld.pop(field, None)
        live.write(cpu, value)
        if stack is not None and GUEST_FIELDS[VmcsField.GUEST_SS_ACCESS_RIGHTS].read(cpu) != stack:
            self._unheld[VmcsField.GUEST_SS_ACCESS_RIGHTS] = stack
        if live.checked and live.read(cpu) != value:
            self._unheld[field] = value

    def keep_apart(self, fields: frozenset[VmcsField]) -> None:
        """From now on these fields are not what the processor has in their registers, and all others are."""
        if fields != self._apart and self._cpu is not None:
            for field in fields - self._apart:
                self.fields[field] = self.read(field)
            for field in self._apart - fields:
                GUEST_FIELDS[field].write(self._cpu, self.fields[field])
            self._apart = fields

    def entered(self) -> None:
        """The guest state has passed the checks and is in the processor: what that made of it holds from now on."""
        self.guest_changed = False
        self._unheld.clear()

    def leave(self) -> None:
        """Stop being current: the guest state comes home (as VMCLEAR makes sure of)."""
        if self._cpu is not None:
            self.fields = self.save()
            self._unheld.clear()
            self._apart = frozenset()
            self._cpu = None

    def adopt(self, cpu: Cpu) -> None:
        """Become current on a processor that holds the guest's state already."""
        self._cpu = cpu
        self._unheld.clear()
        self.controls_changed = self.guest_changed = True

    def save(self) -> dict[int, int]:
        """All fields as a value, in the order of their encodings."""
        values = dict(self.fields)
        if self._cpu is not None:
            live = GUEST_FIELDS.keys() - self._apart
            values.update({field: GUEST_FIELDS[field].read(self._cpu) for field in live})
            values.update(self._unheld)
        return dict(sorted(values.items()))

    def restore(self, values: Mapping[int, int]) -> None:
        """Take up saved fields; while current, the processor's state is left to whoever restores the processor."""
        self.fields = dict(values)
        self._unheld.clear()
        self.controls_changed = self.guest_changed = True
