"""The MSR areas of VM entry and VM exit: lists of MSRs in memory that transitions load and store.

An entry has 16 bytes: the number of the MSR, a reserved doubleword, the value (SDM Vol. 3C Tables 25-14 and 25-16).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError
from simvirt.machine.faults import ProcessorFault
from simvirt.machine.msrs import read_msr, write_msr
from simvirt.x86.msrs import Msr, name_of
from simvirt.x86.vmx import VmcsField

if TYPE_CHECKING:
    from simvirt.machine.vmx.non_root_operation import NonRootOperation

_F: Final = VmcsField
_ENTRY_SIZE: Final = 16
_X2APIC: Final = range(0x800, 0x900)
_NEVER_LOADED: Final = frozenset({int(Msr.IA32_FS_BASE), int(Msr.IA32_GS_BASE)})
"""They belong to segment registers, which have their fields (SDM Vol. 3C §27.4)."""


class VmxAbort(MonitorError):  # noqa: N818 - the manual's name for it
    """A VM exit failed so that the processor cannot go on: VMX abort (SDM Vol. 3C §28.7)."""


def load_on_entry(operation: NonRootOperation) -> int:
    """Load the VM-entry MSR-load area.

    :return: 0, or the number of the entry that failed, from 1: the qualification of exit reason 34 (§27.8).
    """
    fields = operation.vmcs.fields
    area, count = fields.get(_F.ENTRY_MSR_LOAD_ADDRESS, 0), fields.get(_F.ENTRY_MSR_LOAD_COUNT, 0)
    for number in range(count):
        if not _load(operation, area + number * _ENTRY_SIZE):
            return number + 1
    return 0


def leave(operation: NonRootOperation) -> None:
    """Store the VM-exit MSR-store area, then load the VM-exit MSR-load area.

    :raises VmxAbort: an entry names an MSR that cannot be stored or loaded.
    """
    fields = operation.vmcs.fields
    area = fields.get(_F.EXIT_MSR_STORE_ADDRESS, 0)
    for number in range(fields.get(_F.EXIT_MSR_STORE_COUNT, 0)):
        _store(operation, area + number * _ENTRY_SIZE, number + 1)
    area = fields.get(_F.EXIT_MSR_LOAD_ADDRESS, 0)
    for number in range(fields.get(_F.EXIT_MSR_LOAD_COUNT, 0)):
        if not _load(operation, area + number * _ENTRY_SIZE):
            raise VmxAbort(f"VMX abort: entry {number + 1} of the VM-exit MSR-load area cannot be loaded (§28.6)")


def _entry(operation: NonRootOperation, at: int) -> tuple[int, int, int]:
    """Number, reserved doubleword, value; ones where there is no memory."""
    data = bytes(operation.memory[at : at + _ENTRY_SIZE]).ljust(_ENTRY_SIZE, b"\xff")
    return int.from_bytes(data[:4], "little"), int.from_bytes(data[4:8], "little"), int.from_bytes(data[8:], "little")


def _load(operation: NonRootOperation, at: int) -> bool:
    msr, reserved, value = _entry(operation, at)
    if reserved or msr in _NEVER_LOADED or msr in _X2APIC:
        return False
    try:
        write_msr(operation.cpu, operation.bus, msr, value)
    except ProcessorFault:
        return False
    return True


def _store(operation: NonRootOperation, at: int, number: int) -> None:
    msr, reserved, _ = _entry(operation, at)
    try:
        if reserved or msr in _X2APIC:
            raise VmxAbort(f"VMX abort: entry {number} of the VM-exit MSR-store area is malformed (§28.4)")
        value = read_msr(operation.cpu, operation.bus, msr)
    except ProcessorFault:
        what = f"VMX abort: entry {number} of the VM-exit MSR-store area names {name_of(msr)}, which does not exist"
        raise VmxAbort(f"{what} (§28.4)") from None
    operation.memory[at + 8 : at + 16] = value.to_bytes(8, "little")
