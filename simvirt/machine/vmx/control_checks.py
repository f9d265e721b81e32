"""The checks of VM entry on the VM-execution, VM-exit and VM-entry control fields (SDM Vol. 3C §27.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.capabilities import CR3_TARGETS, EPTP_SWITCHING, PHYSICAL_BITS, REQUIRED
from simvirt.machine.vmx.entry_rule import CheckKind, EntryCheck, implies, pin, primary, secondary
from simvirt.x86.flags import Cr0
from simvirt.x86.vmx import (
    CONTROL_WORDS,
    EntryControls,
    ExitControls,
    InterruptionType,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from enum import IntFlag

    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_PAGE_OR_WIDTH: Final = 0xFFF | ((1 << 64) - 1 & ~((1 << PHYSICAL_BITS) - 1))

_TRAP_FLAG: Final = PrimaryControls.MONITOR_TRAP_FLAG
_VTPR: Final = 0x80
"""Offset of the virtual task-priority register in the virtual-APIC page (SDM Vol. 3C §30.1.1)."""
_CONTROL_FIELDS: Final[dict[type[IntFlag], VmcsField]] = {
    PinControls: _F.PIN_BASED_CONTROLS,
    PrimaryControls: _F.PRIMARY_CONTROLS,
    SecondaryControls: _F.SECONDARY_CONTROLS,
    ExitControls: _F.EXIT_CONTROLS,
    EntryControls: _F.ENTRY_CONTROLS,
}


def _control_words() -> Iterator[EntryCheck]:
    for flags, field in _CONTROL_FIELDS.items():
        word = CONTROL_WORDS[flags]

        def holds(vmcs: Vmcs, field: VmcsField = field, flags: type[IntFlag] = flags) -> bool:
            value = secondary(vmcs) if field is _F.SECONDARY_CONTROLS else vmcs.read(field)
            required = REQUIRED[flags]
            return value & required == required and not value & ~vmcs.capabilities.allowed(flags)

        yield EntryCheck(
            f"{word.title}: reserved bits are set properly, and nothing is set that the processor does not offer",
            CheckKind.CONTROLS,
            "SDM Vol. 3C §27.2.1",
            holds,
        )


def _aligned(field: VmcsField) -> Callable[[Vmcs], bool]:
    return lambda vmcs: not vmcs.read(field) & _PAGE_OR_WIDTH


def _eptp(vmcs: Vmcs) -> bool:
    """Memory type 0 or 6, a walk of four levels, reserved bits clear (SDM Vol. 3C Table 25-9)."""
    return is_ept_pointer(vmcs, vmcs.read(_F.EPT_POINTER))


def is_ept_pointer(vmcs: Vmcs, value: int) -> bool:
    """Would VM entry take this EPT pointer?"""
    if value & 1 << 6 and not vmcs.capabilities.ept_accessed_dirty:
        return False
    return value & 7 in (0, 6) and value >> 3 & 7 == 3 and not value & 0xF80 and not value >> PHYSICAL_BITS


def _msr_areas(vmcs: Vmcs) -> bool:
    """16-byte aligned, and no byte beyond the width of an address (SDM Vol. 3C §27.2.1.2, §27.2.1.3)."""
    for address, count in (
        (_F.EXIT_MSR_STORE_ADDRESS, _F.EXIT_MSR_STORE_COUNT),
        (_F.EXIT_MSR_LOAD_ADDRESS, _F.EXIT_MSR_LOAD_COUNT),
        (_F.ENTRY_MSR_LOAD_ADDRESS, _F.ENTRY_MSR_LOAD_COUNT),
    ):
        start, entries = vmcs.read(address), vmcs.read(count)
        if entries and (start & 0xF or (start + 16 * entries - 1) >> PHYSICAL_BITS):
            return False
    return True


def _tpr_threshold(vmcs: Vmcs) -> bool:
    """Bits 3:0 of the TPR threshold are not greater than bits 7:4 of VTPR."""
    if not primary(vmcs) & PrimaryControls.USE_TPR_SHADOW:
        return True
    priority = vmcs.physical_byte(vmcs.read(_F.VIRTUAL_APIC_ADDRESS) + _VTPR) >> 4
    return vmcs.read(_F.TPR_THRESHOLD) & 0xF <= priority


def event_injection(vmcs: Vmcs) -> bool:
    """The VM-entry interruption-information field is consistent (SDM Vol. 3C §27.2.1.3)."""
    value = vmcs.read(_F.ENTRY_INTERRUPTION_INFORMATION)
    if not value >> 31:
        return True
    vector, kind = value & 0xFF, InterruptionType(value >> 8 & 7)
    if value & 0x7FFF_F000 or kind is InterruptionType.RESERVED:
        return False
    if kind is InterruptionType.NMI and vector != 2:
        return False
    if kind is InterruptionType.HARDWARE_EXCEPTION and vector > 31:
        return False
    if kind is InterruptionType.OTHER_EVENT and (vector or not vmcs.capabilities.offers(_TRAP_FLAG)):
        return False
    has_error_code = vector in (8, 10, 11, 12, 13, 14, 17)
    protected = vmcs.read(_F.GUEST_CR0) & Cr0.PE or not secondary(vmcs) & SecondaryControls.UNRESTRICTED_GUEST
    expected = kind is InterruptionType.HARDWARE_EXCEPTION and has_error_code and bool(protected)
    if bool(value & 1 << 11) != expected:
        return False
    if value & 1 << 11 and vmcs.read(_F.ENTRY_EXCEPTION_ERROR_CODE) >> 16:
        return False
    return not kind.needs_instruction_length or 0 < vmcs.read(_F.ENTRY_INSTRUCTION_LENGTH) <= 15


CONTROL_CHECKS: Final = (
    *_control_words(),
    EntryCheck(
        "the CR3-target count is not greater than 4",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: v.read(_F.CR3_TARGET_COUNT) <= CR3_TARGETS,
    ),
    EntryCheck(
        "the I/O-bitmap addresses are 4-KByte aligned and no wider than a physical address",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(
            primary(v) & PrimaryControls.USE_IO_BITMAPS,
            _aligned(_F.IO_BITMAP_A_ADDRESS)(v) and _aligned(_F.IO_BITMAP_B_ADDRESS)(v),
        ),
    ),
    EntryCheck(
        "the MSR-bitmap address is 4-KByte aligned and no wider than a physical address",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(primary(v) & PrimaryControls.USE_MSR_BITMAPS, _aligned(_F.MSR_BITMAPS_ADDRESS)(v)),
    ),
    EntryCheck(
        "the virtual-APIC address is 4-KByte aligned and no wider than a physical address",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(primary(v) & PrimaryControls.USE_TPR_SHADOW, _aligned(_F.VIRTUAL_APIC_ADDRESS)(v)),
    ),
    EntryCheck(
        "bits 31:4 of the TPR threshold are 0",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(primary(v) & PrimaryControls.USE_TPR_SHADOW, not v.read(_F.TPR_THRESHOLD) >> 4),
    ),
    EntryCheck(
        "the TPR threshold is not greater than the virtual task priority",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        _tpr_threshold,
    ),
    EntryCheck(
        "virtual NMIs need NMI exiting",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(pin(v) & PinControls.VIRTUAL_NMIS, pin(v) & PinControls.NMI_EXITING),
    ),
    EntryCheck(
        "NMI-window exiting needs virtual NMIs",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(primary(v) & PrimaryControls.NMI_WINDOW_EXITING, pin(v) & PinControls.VIRTUAL_NMIS),
    ),
    EntryCheck(
        "with VPIDs the guest's is not 0",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(secondary(v) & SecondaryControls.ENABLE_VPID, v.read(_F.VIRTUAL_PROCESSOR_ID)),
    ),
    EntryCheck(
        "the VM functions that are enabled exist",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(
            secondary(v) & SecondaryControls.ENABLE_VM_FUNCTIONS,
            not v.read(_F.VM_FUNCTION_CONTROLS) & ~v.capabilities.vm_functions,
        ),
    ),
    EntryCheck(
        "EPTP switching needs EPT and a list that is 4-KByte aligned",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(
            secondary(v) & SecondaryControls.ENABLE_VM_FUNCTIONS and v.read(_F.VM_FUNCTION_CONTROLS) & EPTP_SWITCHING,
            secondary(v) & SecondaryControls.ENABLE_EPT and _aligned(_F.EPTP_LIST_ADDRESS)(v),
        ),
    ),
    EntryCheck(
        "the preemption timer is saved only while it is active",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.2",
        lambda v: implies(
            v.read(_F.EXIT_CONTROLS) & ExitControls.SAVE_PREEMPTION_TIMER,
            pin(v) & PinControls.ACTIVATE_PREEMPTION_TIMER,
        ),
    ),
    EntryCheck(
        "the MSR areas are 16-byte aligned and no wider than a physical address",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.2, §27.2.1.3",
        _msr_areas,
    ),
    EntryCheck(
        "unrestricted guest needs EPT",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(
            secondary(v) & SecondaryControls.UNRESTRICTED_GUEST, secondary(v) & SecondaryControls.ENABLE_EPT
        ),
    ),
    EntryCheck(
        "page-modification logging needs EPT and a log that is 4-KByte aligned",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(
            secondary(v) & SecondaryControls.ENABLE_PML,
            secondary(v) & SecondaryControls.ENABLE_EPT and _aligned(_F.PML_ADDRESS)(v),
        ),
    ),
    EntryCheck(
        "the virtualization-exception information address is 4-KByte aligned",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: implies(
            secondary(v) & SecondaryControls.EPT_VIOLATION_VE,
            _aligned(_F.VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS)(v),
        ),
    ),
    EntryCheck(
        "the EPT pointer is well formed",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1, Table 25-9",
        lambda v: implies(secondary(v) & SecondaryControls.ENABLE_EPT, _eptp(v)),
    ),
    EntryCheck(
        "the VM-entry interruption information is consistent",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.3",
        event_injection,
        on_injection=True,
    ),
)
