"""The checks of VM entry, each with its name and its place in the manual (SDM Vol. 3C §27.2 and §27.3).

They come in two kinds, as the manual's: a bad control or host field makes VMLAUNCH or VMRESUME fail like any
instruction of VMX, with a VM-instruction error; a bad guest state looks like a VM exit with reason 33 and bit 31 set.
What is checked is what this PC models; the rest of the manual's list is a later matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.capabilities import CR0_FIXED_1, CR3_TARGETS, CR4_FIXED_1, OFFERED, PHYSICAL_BITS, REQUIRED
from simvirt.machine.vmx.guest_fields import SEGMENT_NAMES, UNUSABLE
from simvirt.x86.flags import EFLAGS_RESERVED_ZERO, Cr0, Cr4, Efer, Eflags
from simvirt.x86.vmx import (
    CONTROL_WORDS,
    ActivityState,
    EntryControls,
    ExitControls,
    Interruptibility,
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
_NONE_LINKED: Final = (1 << 64) - 1


class CheckKind(Enum):
    """What a check is about, and so how its failure shows."""

    CONTROLS = "VM-execution, VM-exit and VM-entry control fields"
    HOST_STATE = "host-state area"
    GUEST_STATE = "guest-state area"


@dataclass(frozen=True, slots=True)
class EntryCheck:
    """One rule that a VMCS has to keep."""

    name: str
    """The rule, in a sentence."""
    kind: CheckKind
    section: str
    holds: Callable[[Vmcs], bool]


def primary(vmcs: Vmcs) -> int:
    """The primary processor-based controls."""
    return vmcs.read(_F.PRIMARY_CONTROLS)


def secondary(vmcs: Vmcs) -> int:
    """The secondary processor-based controls as they count: all 0 unless they are activated."""
    return vmcs.read(_F.SECONDARY_CONTROLS) if primary(vmcs) & PrimaryControls.ACTIVATE_SECONDARY_CONTROLS else 0


def _implies(condition: int | bool, conclusion: int | bool) -> bool:
    return not condition or bool(conclusion)


def canonical(address: int) -> bool:
    """Bits 63:47 are all equal."""
    return address < 1 << 47 or address >= (1 << 64) - (1 << 47)


# -------------------------------------------------------------------------------------------- controls

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
        required, allowed = REQUIRED[flags], OFFERED[flags] | REQUIRED[flags] | word.default1

        def holds(vmcs: Vmcs, field: VmcsField = field, required: int = required, allowed: int = allowed) -> bool:
            value = secondary(vmcs) if field is _F.SECONDARY_CONTROLS else vmcs.read(field)
            return value & required == required and not value & ~allowed

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
    value = vmcs.read(_F.EPT_POINTER)
    return value & 7 in (0, 6) and value >> 3 & 7 == 3 and not value & 0xF80 and not value >> PHYSICAL_BITS


def _event_injection(vmcs: Vmcs) -> bool:
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
    if kind is InterruptionType.OTHER_EVENT and vector:
        return False
    has_error_code = vector in (8, 10, 11, 12, 13, 14, 17)
    protected = vmcs.read(_F.GUEST_CR0) & Cr0.PE or not secondary(vmcs) & SecondaryControls.UNRESTRICTED_GUEST
    expected = kind is InterruptionType.HARDWARE_EXCEPTION and has_error_code and bool(protected)
    if bool(value & 1 << 11) != expected:
        return False
    if value & 1 << 11 and vmcs.read(_F.ENTRY_EXCEPTION_ERROR_CODE) >> 16:
        return False
    return not kind.needs_instruction_length or 0 < vmcs.read(_F.ENTRY_INSTRUCTION_LENGTH) <= 15


_CONTROL_CHECKS: Final = (
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
        lambda v: _implies(
            primary(v) & PrimaryControls.USE_IO_BITMAPS,
            _aligned(_F.IO_BITMAP_A_ADDRESS)(v) and _aligned(_F.IO_BITMAP_B_ADDRESS)(v),
        ),
    ),
    EntryCheck(
        "the MSR-bitmap address is 4-KByte aligned and no wider than a physical address",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: _implies(primary(v) & PrimaryControls.USE_MSR_BITMAPS, _aligned(_F.MSR_BITMAPS_ADDRESS)(v)),
    ),
    EntryCheck(
        "the MSR areas of VM entry and VM exit are empty: this processor does not load or store them",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.2",
        lambda v: (
            not (v.read(_F.EXIT_MSR_STORE_COUNT) or v.read(_F.EXIT_MSR_LOAD_COUNT) or v.read(_F.ENTRY_MSR_LOAD_COUNT))
        ),
    ),
    EntryCheck(
        "unrestricted guest needs EPT",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1",
        lambda v: _implies(
            secondary(v) & SecondaryControls.UNRESTRICTED_GUEST, secondary(v) & SecondaryControls.ENABLE_EPT
        ),
    ),
    EntryCheck(
        "the EPT pointer is well formed",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.1, Table 25-9",
        lambda v: _implies(secondary(v) & SecondaryControls.ENABLE_EPT, _eptp(v)),
    ),
    EntryCheck(
        "the VM-entry interruption information is consistent",
        CheckKind.CONTROLS,
        "SDM Vol. 3C §27.2.1.3",
        _event_injection,
    ),
)


# -------------------------------------------------------------------------------------------- host state


def _selectors(vmcs: Vmcs) -> bool:
    return not any(vmcs.read(_F[f"HOST_{name}_SELECTOR"]) & 7 for name in ("ES", "CS", "SS", "DS", "FS", "GS", "TR"))


def _host_bases(vmcs: Vmcs) -> bool:
    return all(canonical(vmcs.read(_F[f"HOST_{name}_BASE"])) for name in ("FS", "GS", "TR", "GDTR", "IDTR"))


_HOST_CHECKS: Final = (
    EntryCheck(
        "host CR0 and CR4 have the bits that VMX operation fixes",
        CheckKind.HOST_STATE,
        "SDM Vol. 3C §27.2.2",
        lambda v: v.read(_F.HOST_CR0) & CR0_FIXED_1 == CR0_FIXED_1 and v.read(_F.HOST_CR4) & CR4_FIXED_1 == CR4_FIXED_1,
    ),
    EntryCheck(
        "RPL and TI of the host's selectors are 0",
        CheckKind.HOST_STATE,
        "SDM Vol. 3C §27.2.3",
        _selectors,
    ),
    EntryCheck(
        "the host's CS and TR are not null",
        CheckKind.HOST_STATE,
        "SDM Vol. 3C §27.2.3",
        lambda v: bool(v.read(_F.HOST_CS_SELECTOR) and v.read(_F.HOST_TR_SELECTOR)),
    ),
    EntryCheck("the host's base addresses are canonical", CheckKind.HOST_STATE, "SDM Vol. 3C §27.2.3", _host_bases),
    EntryCheck(
        "a host in 64-bit mode has CR4.PAE and a canonical RIP",
        CheckKind.HOST_STATE,
        "SDM Vol. 3C §27.2.4",
        lambda v: _implies(
            v.read(_F.EXIT_CONTROLS) & ExitControls.HOST_ADDRESS_SPACE_SIZE,
            v.read(_F.HOST_CR4) & Cr4.PAE and canonical(v.read(_F.HOST_RIP)),
        ),
    ),
)


# -------------------------------------------------------------------------------------------- guest state


def _cr0(vmcs: Vmcs) -> bool:
    free = CR0_FIXED_1 if secondary(vmcs) & SecondaryControls.UNRESTRICTED_GUEST else 0
    fixed = CR0_FIXED_1 & ~free
    return vmcs.read(_F.GUEST_CR0) & fixed == fixed


def _efer(vmcs: Vmcs) -> bool:
    efer, cr0 = vmcs.read(_F.GUEST_IA32_EFER), vmcs.read(_F.GUEST_CR0)
    lma = bool(efer & Efer.LMA)
    if bool(vmcs.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST) != lma:
        return False
    return _implies(cr0 & Cr0.PG, lma == bool(efer & Efer.LME))


def _rights(vmcs: Vmcs, name: str) -> int:
    return vmcs.read(_F[f"GUEST_{name}_ACCESS_RIGHTS"])


def _limits(vmcs: Vmcs) -> bool:
    """A limit that is not whole pages needs G = 0, one beyond a MByte needs G = 1."""
    for name in SEGMENT_NAMES:
        rights, limit = _rights(vmcs, name), vmcs.read(_F[f"GUEST_{name}_LIMIT"])
        if rights & UNUSABLE:
            continue
        granular = rights & 1 << 15
        if (granular and limit & 0xFFF != 0xFFF) or (not granular and limit >> 20):
            return False
    return True


def _virtual_8086(vmcs: Vmcs) -> bool:
    """In virtual-8086 mode a base is the selector times 16, a limit FFFFH, access rights F3H."""
    if not vmcs.read(_F.GUEST_RFLAGS) & Eflags.VM:
        return True
    return all(
        vmcs.read(_F[f"GUEST_{name}_BASE"]) == vmcs.read(_F[f"GUEST_{name}_SELECTOR"]) << 4
        and vmcs.read(_F[f"GUEST_{name}_LIMIT"]) == 0xFFFF
        and _rights(vmcs, name) == 0xF3
        for name in SEGMENT_NAMES[:6]
    )


def _rflags(vmcs: Vmcs) -> bool:
    flags = vmcs.read(_F.GUEST_RFLAGS)
    if flags & EFLAGS_RESERVED_ZERO or flags >> 32 or not flags & 2:
        return False
    no_v86 = vmcs.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST or not vmcs.read(_F.GUEST_CR0) & Cr0.PE
    return _implies(no_v86, not flags & Eflags.VM)


def _if_for_injection(vmcs: Vmcs) -> bool:
    info = vmcs.read(_F.ENTRY_INTERRUPTION_INFORMATION)
    external = info >> 31 and info >> 8 & 7 == InterruptionType.EXTERNAL_INTERRUPT
    return _implies(external, vmcs.read(_F.GUEST_RFLAGS) & Eflags.IF)


def _interruptibility(vmcs: Vmcs) -> bool:
    state = vmcs.read(_F.GUEST_INTERRUPTIBILITY_STATE)
    sti, mov_ss = state & Interruptibility.BLOCKING_BY_STI, state & Interruptibility.BLOCKING_BY_MOV_SS
    if state >> 5 or (sti and mov_ss):
        return False
    return _implies(sti, vmcs.read(_F.GUEST_RFLAGS) & Eflags.IF)


def _activity(vmcs: Vmcs) -> bool:
    activity = vmcs.read(_F.GUEST_ACTIVITY_STATE)
    if activity > ActivityState.WAIT_FOR_SIPI:
        return False
    if activity == ActivityState.HLT and _rights(vmcs, "SS") & 0x60:
        return False
    return _implies(
        vmcs.read(_F.GUEST_INTERRUPTIBILITY_STATE)
        & (Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS),
        activity == ActivityState.ACTIVE,
    )


_GUEST_CHECKS: Final = (
    EntryCheck(
        "guest CR0 has the bits that VMX operation fixes",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.1",
        _cr0,
    ),
    EntryCheck(
        "paging needs protection: CR0.PG only with CR0.PE",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.1",
        lambda v: _implies(v.read(_F.GUEST_CR0) & Cr0.PG, v.read(_F.GUEST_CR0) & Cr0.PE),
    ),
    EntryCheck(
        "guest CR4 has the bits that VMX operation fixes",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.1",
        lambda v: v.read(_F.GUEST_CR4) & CR4_FIXED_1 == CR4_FIXED_1,
    ),
    EntryCheck(
        "IA-32e mode needs paging and PAE",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.1",
        lambda v: _implies(
            v.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST,
            v.read(_F.GUEST_CR0) & Cr0.PG and v.read(_F.GUEST_CR4) & Cr4.PAE,
        ),
    ),
    EntryCheck(
        'IA32_EFER.LMA equals the control "IA-32e mode guest", and LME where paging is on',
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.1",
        _efer,
    ),
    EntryCheck(
        "TR is usable and a busy TSS in the GDT",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.2",
        lambda v: (
            not _rights(v, "TR") & UNUSABLE
            and _rights(v, "TR") & 0xF in (3, 11)
            and not v.read(_F.GUEST_TR_SELECTOR) & 4
        ),
    ),
    EntryCheck(
        "LDTR is unusable or an LDT",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.2",
        lambda v: bool(_rights(v, "LDTR") & UNUSABLE) or _rights(v, "LDTR") & 0x1F == 2,
    ),
    EntryCheck(
        "the segment registers are as virtual-8086 mode needs them",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.2",
        _virtual_8086,
    ),
    EntryCheck("segment limits agree with their granularity", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.2", _limits),
    EntryCheck(
        "the limits of GDTR and IDTR have 16 bits",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.3",
        lambda v: not (v.read(_F.GUEST_GDTR_LIMIT) >> 16 or v.read(_F.GUEST_IDTR_LIMIT) >> 16),
    ),
    EntryCheck(
        "RIP has 32 bits outside 64-bit mode, and is canonical in it",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.4",
        lambda v: (
            canonical(v.read(_F.GUEST_RIP))
            and _implies(not v.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST, not v.read(_F.GUEST_RIP) >> 32)
        ),
    ),
    EntryCheck("RFLAGS has its reserved bits right", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.4", _rflags),
    EntryCheck(
        "an external interrupt is injected only with IF set",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.4",
        _if_for_injection,
    ),
    EntryCheck(
        "the interruptibility state is possible",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.5",
        _interruptibility,
    ),
    EntryCheck("the activity state is possible", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.5", _activity),
    EntryCheck(
        "the VMCS link pointer is all ones",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.5",
        lambda v: v.read(_F.VMCS_LINK_POINTER) == _NONE_LINKED,
    ),
)

ENTRY_CHECKS: Final[tuple[EntryCheck, ...]] = (*_CONTROL_CHECKS, *_HOST_CHECKS, *_GUEST_CHECKS)
"""All checks, in the manual's order: controls, host state, guest state."""


def first_failure(vmcs: Vmcs, kinds: frozenset[CheckKind]) -> EntryCheck | None:
    """The first check of these kinds that does not hold."""
    return next((check for check in ENTRY_CHECKS if check.kind in kinds and not check.holds(vmcs)), None)


_INJECTION_CHECKS: Final = tuple(
    check for check in ENTRY_CHECKS if check.holds in (_event_injection, _if_for_injection)
)


def event_injection_failure(vmcs: Vmcs) -> EntryCheck | None:
    """The first of the two checks on event injection that does not hold; they are made at every entry that injects."""
    return next((check for check in _INJECTION_CHECKS if not check.holds(vmcs)), None)
