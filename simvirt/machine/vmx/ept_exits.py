"""What the EPT refuses: VM exits, and virtualization exceptions in place of some of them.

Sources: SDM Vol. 3C §26.5.7 (virtualization exceptions), §28.2.1 and Table 28-7, §29.3.3, §29.3.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.fills import Access
from simvirt.x86.addresses import PAGE_SIZE
from simvirt.x86.exceptions import Vector
from simvirt.x86.vmx import ExitReason, SecondaryControls, VmcsField
from simvirt.x86.vmx.ept import EPT_LEVELS, EPT_RIGHTS, EptEntry, ept_index

if TYPE_CHECKING:
    from simvirt.machine.events import EptMisconfigured, EptViolated, ModificationLogFull
    from simvirt.machine.vmx.non_root_operation import NonRootOperation

_F: Final = VmcsField
# `x86.vmx.EptViolation` by its bits, for this is a path that is taken often.
_ACCESS: Final = {Access.READ: 1 << 0, Access.WRITE: 1 << 1, Access.FETCH: 1 << 2}
_RIGHTS_SHIFT: Final = 3
_LINEAR_VALID: Final = 1 << 7
_TO_PAGE: Final = 1 << 8
_NMI_UNBLOCKING: Final = 1 << 12
_EXCEPTIONS: Final = int(SecondaryControls.EPT_VIOLATION_VE)
_ADDRESS: Final = (1 << 52) - PAGE_SIZE
_BUSY: Final = 0xFFFF_FFFF
"""At offset 4 of the information area: the guest has not dealt with the last virtualization exception yet."""
_BUSY_AT: Final = 4


def violation(non_root: NonRootOperation, event: EptViolated) -> ExitReason | None:
    """An EPT violation: a VM exit, or a virtualization exception of the guest's.

    With accessed and dirty flags in the EPT an access to a guest's paging structure counts as a write besides.
    """
    qualification = _ACCESS[event.access] | event.rights << _RIGHTS_SHIFT
    if event.gva is not None:
        qualification |= _LINEAR_VALID
    if event.to_page:
        qualification |= _TO_PAGE
    elif event.access is Access.WRITE:
        qualification |= _ACCESS[Access.READ]
    if non_root.secondary & _EXCEPTIONS and _is_convertible(non_root, event.gpa):
        _deliver(non_root, event, qualification)
        return None
    fields = non_root.vmcs.fields
    fields[_F.GUEST_PHYSICAL_ADDRESS] = event.gpa
    fields[_F.GUEST_LINEAR_ADDRESS] = event.gva or 0
    if non_root.cpu.struck_iret() and non_root.cpu.undelivered is None:
        qualification |= _NMI_UNBLOCKING
    return non_root.exit(ExitReason.EPT_VIOLATION, qualification, event.length)


def misconfiguration(non_root: NonRootOperation, event: EptMisconfigured) -> ExitReason:
    """An EPT misconfiguration always exits; there is no qualification."""
    non_root.vmcs.fields[_F.GUEST_PHYSICAL_ADDRESS] = event.gpa
    return non_root.exit(ExitReason.EPT_MISCONFIGURATION, 0, event.length)


def modification_log_full(non_root: NonRootOperation, event: ModificationLogFull) -> ExitReason:
    """The page-modification log is full: an exit before the access."""
    qualification = _NMI_UNBLOCKING if non_root.cpu.struck_iret() and non_root.cpu.undelivered is None else 0
    return non_root.exit(ExitReason.PAGE_MODIFICATION_LOG_FULL, qualification, event.length)


# -------------------------------------------------------------------------------------------- virtualization exceptions


def _is_convertible(non_root: NonRootOperation, gpa: int) -> bool:
    """Not in real-address mode, in the midst of a delivery, or while the last one is not dealt with (§26.5.7.1)."""
    cpu = non_root.cpu
    if cpu.undelivered is not None or not cpu.state.protected_mode:
        return False
    at = non_root.vmcs.fields.get(_F.VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 0)
    area = non_root.memory[at : at + PAGE_SIZE]
    busy = bytes(area[_BUSY_AT : _BUSY_AT + 4])
    return len(area) == PAGE_SIZE and not any(busy) and not _last_entry(non_root, gpa) & EptEntry.SUPPRESS_VE


def _last_entry(non_root: NonRootOperation, gpa: int) -> int:
    """The EPT entry that a walk ends with: that of the page, or one that is not present."""
    table = non_root.vmcs.fields.get(_F.EPT_POINTER, 0) & _ADDRESS
    entry = 0
    for level in range(EPT_LEVELS, 0, -1):
        at = table + ept_index(gpa, level) * 8
        entry = int.from_bytes(bytes(non_root.memory[at : at + 8]).ljust(8, b"\xff"), "little")
        if not entry & EPT_RIGHTS or entry & EptEntry.LARGE_PAGE:
            break
        table = entry & _ADDRESS
    return entry


def _deliver(non_root: NonRootOperation, event: EptViolated, qualification: int) -> None:
    """Tell of the violation in the information area (§26.5.7.2, Table 26-1), and raise #VE."""
    fields = non_root.vmcs.fields
    at = fields.get(_F.VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, 0)
    information = (
        (ExitReason.EPT_VIOLATION, 4),
        (_BUSY, 4),
        (qualification, 8),
        (event.gva or 0, 8),
        (event.gpa, 8),
        (fields.get(_F.EPTP_INDEX, 0), 2),
    )
    data = b"".join(int(value).to_bytes(size, "little") for value, size in information)
    non_root.memory[at : at + len(data)] = data
    non_root.cpu.engine.written(at, len(data))
    non_root.cpu.raise_exception(Vector.VE)
