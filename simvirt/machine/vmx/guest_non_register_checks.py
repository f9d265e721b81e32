"""The checks of VM entry on what is no register of the guest's: activity, interruptibility, what is pending, PDPTEs.

Sources: SDM Vol. 3C §27.3.1.5, §27.3.1.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.capabilities import ACTIVITY_STATES, PHYSICAL_BITS
from simvirt.machine.vmx.entry_rule import (
    LINK_POINTER_FAILED,
    PDPTE_LOADING_FAILED,
    CheckKind,
    EntryCheck,
    implies,
    is_ia32e_mode,
    pin,
    secondary,
)
from simvirt.machine.vmx.guest_fields import PDPTE_FIELDS
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr0, Cr4, Eflags
from simvirt.x86.paging import PAGING_PAE, PageEntry
from simvirt.x86.vmx import (
    ActivityState,
    Interruptibility,
    InterruptionType,
    PendingDebugExceptions,
    PinControls,
    SecondaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_NONE_LINKED: Final = (1 << 64) - 1
_PRESENT: Final = int(PageEntry.PRESENT)
_PDPTE_RESERVED: Final = PAGING_PAE.reserved_mask(
    PAGING_PAE.levels[0], maps_page=False, physical_bits=PHYSICAL_BITS, nxe=False
)
_STI: Final = int(Interruptibility.BLOCKING_BY_STI)
_MOV_SS: Final = int(Interruptibility.BLOCKING_BY_MOV_SS)
_NMI: Final = int(Interruptibility.BLOCKING_BY_NMI)
_POSSIBLE: Final = _STI | _MOV_SS | _NMI
"""There is no SMM, in which SMIs are blocked, and no enclave."""
_DEBUG_EXCEPTIONS: Final = int(
    PendingDebugExceptions.B0
    | PendingDebugExceptions.B1
    | PendingDebugExceptions.B2
    | PendingDebugExceptions.B3
    | PendingDebugExceptions.ENABLED_BREAKPOINT
    | PendingDebugExceptions.BS
)
_DPL: Final = 3 << 5
_WAKES: Final = frozenset(
    {
        *((InterruptionType.EXTERNAL_INTERRUPT, vector) for vector in range(256)),
        (InterruptionType.NMI, 2),
        (InterruptionType.HARDWARE_EXCEPTION, int(Vector.DB)),
        (InterruptionType.HARDWARE_EXCEPTION, int(Vector.MC)),
        (InterruptionType.OTHER_EVENT, 0),
    }
)
"""What can be injected into a processor that sleeps in HLT."""


def _state(vmcs: Vmcs) -> int:
    return vmcs.read(_F.GUEST_INTERRUPTIBILITY_STATE)


def _injected(vmcs: Vmcs) -> tuple[int, int] | None:
    """Type and vector of the event that the entry injects."""
    info = vmcs.read(_F.ENTRY_INTERRUPTION_INFORMATION)
    return (info >> 8 & 7, info & 0xFF) if info >> 31 else None


def _sleeps_in_ring_0(vmcs: Vmcs) -> bool:
    asleep = vmcs.read(_F.GUEST_ACTIVITY_STATE) == ActivityState.HLT
    return implies(asleep, not vmcs.read(_F.GUEST_SS_ACCESS_RIGHTS) & _DPL)


def _injection_into_activity(vmcs: Vmcs) -> bool:
    event = _injected(vmcs)
    asleep = vmcs.read(_F.GUEST_ACTIVITY_STATE) == ActivityState.HLT
    return implies(asleep and event is not None, event in _WAKES)


def _is_injectable(vmcs: Vmcs) -> bool:
    """No external interrupt behind STI or MOV SS, no NMI behind MOV SS, no virtual NMI while another is handled."""
    event = _injected(vmcs)
    if event is None:
        return True
    match event[0]:
        case InterruptionType.EXTERNAL_INTERRUPT:
            return not _state(vmcs) & (_STI | _MOV_SS)
        case InterruptionType.NMI:
            blocked = _MOV_SS | (_NMI if pin(vmcs) & PinControls.VIRTUAL_NMIS else 0)
            return not _state(vmcs) & blocked
        case _:
            return True


def _single_step(vmcs: Vmcs) -> bool:
    """Behind STI and MOV SS and in HLT a single-step trap is pending if TF is set, and only then."""
    asleep = vmcs.read(_F.GUEST_ACTIVITY_STATE) == ActivityState.HLT
    if not (asleep or _state(vmcs) & (_STI | _MOV_SS)):
        return True
    pending = vmcs.read(_F.GUEST_PENDING_DEBUG_EXCEPTIONS) & PendingDebugExceptions.BS
    return bool(pending) == bool(vmcs.read(_F.GUEST_RFLAGS) & Eflags.TF)


def _pdptes(vmcs: Vmcs) -> bool:
    """With EPT they come from the VMCS; without, VM entry loads them from the table that CR3 names."""
    if not secondary(vmcs) & SecondaryControls.ENABLE_EPT or is_ia32e_mode(vmcs):
        return True
    if not (vmcs.read(_F.GUEST_CR0) & Cr0.PG and vmcs.read(_F.GUEST_CR4) & Cr4.PAE):
        return True
    return not any(vmcs.read(field) & _PRESENT and vmcs.read(field) & _PDPTE_RESERVED for field in PDPTE_FIELDS)


_K: Final = CheckKind.GUEST_STATE
_SECTION: Final = "SDM Vol. 3C §27.3.1.5"

GUEST_NON_REGISTER_CHECKS: Final = (
    EntryCheck(
        "the activity state is one that the processor supports",
        _K,
        _SECTION,
        lambda v: v.read(_F.GUEST_ACTIVITY_STATE) in ACTIVITY_STATES,
    ),
    EntryCheck("a processor sleeps in HLT only in ring 0", _K, _SECTION, _sleeps_in_ring_0),
    EntryCheck(
        "behind STI and MOV SS the processor is active",
        _K,
        _SECTION,
        lambda v: implies(_state(v) & (_STI | _MOV_SS), v.read(_F.GUEST_ACTIVITY_STATE) == ActivityState.ACTIVE),
    ),
    EntryCheck(
        "what is injected can reach a processor that sleeps", _K, _SECTION, _injection_into_activity, on_injection=True
    ),
    EntryCheck(
        "the interruptibility state has no reserved bits, SMM or enclave",
        _K,
        _SECTION,
        lambda v: not _state(v) & ~_POSSIBLE,
    ),
    EntryCheck(
        "the interruptibility state has not both blocking by STI and by MOV SS",
        _K,
        _SECTION,
        lambda v: _state(v) & (_STI | _MOV_SS) != _STI | _MOV_SS,
    ),
    EntryCheck(
        "blocking by STI needs RFLAGS.IF",
        _K,
        _SECTION,
        lambda v: implies(_state(v) & _STI, v.read(_F.GUEST_RFLAGS) & Eflags.IF),
    ),
    EntryCheck(
        "nothing is injected that STI, MOV SS or an NMI holds back", _K, _SECTION, _is_injectable, on_injection=True
    ),
    EntryCheck(
        "the pending debug exceptions have no reserved bits",
        _K,
        _SECTION,
        lambda v: not v.read(_F.GUEST_PENDING_DEBUG_EXCEPTIONS) & ~_DEBUG_EXCEPTIONS,
    ),
    EntryCheck("a pending single step agrees with RFLAGS.TF", _K, _SECTION, _single_step),
    EntryCheck(
        "the VMCS link pointer is all ones",
        _K,
        _SECTION,
        lambda v: v.read(_F.VMCS_LINK_POINTER) == _NONE_LINKED,
        qualification=LINK_POINTER_FAILED,
    ),
    EntryCheck(
        "present PDPTEs have their reserved bits clear",
        _K,
        "SDM Vol. 3C §27.3.1.6",
        _pdptes,
        qualification=PDPTE_LOADING_FAILED,
    ),
)
