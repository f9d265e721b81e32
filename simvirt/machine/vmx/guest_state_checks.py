"""The checks of VM entry on the guest-state area (SDM Vol. 3C §27.3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.capabilities import CR0_FIXED_1, CR4_FIXED_1, PHYSICAL_BITS
from simvirt.machine.vmx.entry_rule import (
    LINK_POINTER_FAILED,
    PDPTE_LOADING_FAILED,
    CheckKind,
    EntryCheck,
    canonical,
    implies,
    secondary,
)
from simvirt.machine.vmx.guest_fields import PDPTE_FIELDS, SEGMENT_NAMES, UNUSABLE
from simvirt.x86.flags import EFLAGS_RESERVED_ZERO, Cr0, Cr4, Efer, Eflags
from simvirt.x86.paging import PAGING_PAE, PageEntry
from simvirt.x86.vmx import (
    ActivityState,
    EntryControls,
    Interruptibility,
    InterruptionType,
    SecondaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_NONE_LINKED: Final = (1 << 64) - 1
_TI: Final = 1 << 2
"""Table indicator of a selector."""
# Access rights (SDM Vol. 3C Table 25-2).
_TYPE, _S, _PRESENT, _L, _D = 0xF, 1 << 4, 1 << 7, 1 << 13, 1 << 14
_ACCESSED, _READABLE, _IS_CODE = 1 << 0, 1 << 1, 1 << 3
_RESERVED: Final = 0xFFFE_0F00
_ACCESSED_CODE: Final = (9, 11, 13, 15)
_WRITABLE_DATA, _EXPAND_DOWN_DATA = 3, 7
_CR3_WIDTH: Final = PHYSICAL_BITS
_P: Final = int(PageEntry.PRESENT)
_PDPTE_RESERVED: Final = PAGING_PAE.reserved_mask(
    PAGING_PAE.levels[0], maps_page=False, physical_bits=PHYSICAL_BITS, nxe=False
)


def _cr0(vmcs: Vmcs) -> bool:
    free = CR0_FIXED_1 if secondary(vmcs) & SecondaryControls.UNRESTRICTED_GUEST else 0
    fixed = CR0_FIXED_1 & ~free
    return vmcs.read(_F.GUEST_CR0) & fixed == fixed


def _efer(vmcs: Vmcs) -> bool:
    efer, cr0 = vmcs.read(_F.GUEST_IA32_EFER), vmcs.read(_F.GUEST_CR0)
    lma = bool(efer & Efer.LMA)
    if bool(vmcs.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST) != lma:
        return False
    return implies(cr0 & Cr0.PG, lma == bool(efer & Efer.LME))


def _pdptes(vmcs: Vmcs) -> bool:
    """With EPT they come from the VMCS; without, VM entry loads them from the table that CR3 names."""
    if not secondary(vmcs) & SecondaryControls.ENABLE_EPT or vmcs.read(_F.GUEST_IA32_EFER) & Efer.LMA:
        return True
    if not (vmcs.read(_F.GUEST_CR0) & Cr0.PG and vmcs.read(_F.GUEST_CR4) & Cr4.PAE):
        return True
    return not any(vmcs.read(field) & _P and vmcs.read(field) & _PDPTE_RESERVED for field in PDPTE_FIELDS)


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


def _is_virtual_8086(vmcs: Vmcs) -> bool:
    return bool(vmcs.read(_F.GUEST_RFLAGS) & Eflags.VM)


def _is_unrestricted(vmcs: Vmcs) -> bool:
    return bool(secondary(vmcs) & SecondaryControls.UNRESTRICTED_GUEST)


def _selector(vmcs: Vmcs, name: str) -> int:
    return vmcs.read(_F[f"GUEST_{name}_SELECTOR"])


def _usable(vmcs: Vmcs, *names: str) -> list[int]:
    """The access rights of those of these segment registers that are usable."""
    return [rights for name in names if not (rights := _rights(vmcs, name)) & UNUSABLE]


def _selectors(vmcs: Vmcs) -> bool:
    """TI of TR and of a usable LDTR is 0; SS has the RPL of CS, unless it is an unrestricted or virtual-8086 guest."""
    if _selector(vmcs, "TR") & _TI or (_usable(vmcs, "LDTR") and _selector(vmcs, "LDTR") & _TI):
        return False
    free = _is_virtual_8086(vmcs) or _is_unrestricted(vmcs)
    return free or not (_selector(vmcs, "SS") ^ _selector(vmcs, "CS")) & 3


def _bases(vmcs: Vmcs) -> bool:
    """Canonical for TR, FS, GS and a usable LDTR; 32 bits for CS and for usable SS, DS and ES."""
    long = ["TR", "FS", "GS", *(["LDTR"] if _usable(vmcs, "LDTR") else [])]
    short = ["CS", *(name for name in ("SS", "DS", "ES") if _usable(vmcs, name))]
    return all(canonical(vmcs.read(_F[f"GUEST_{name}_BASE"])) for name in long) and not any(
        vmcs.read(_F[f"GUEST_{name}_BASE"]) >> 32 for name in short
    )


def _types(vmcs: Vmcs) -> bool:
    """CS is accessed code, or with "unrestricted guest" data; SS accessed writable data; the others accessed."""
    if _is_virtual_8086(vmcs):
        return True
    code = _rights(vmcs, "CS") & _TYPE
    if code not in _ACCESSED_CODE and not (code == _WRITABLE_DATA and _is_unrestricted(vmcs)):
        return False
    if any(rights & _TYPE not in (_WRITABLE_DATA, _EXPAND_DOWN_DATA) for rights in _usable(vmcs, "SS")):
        return False
    return all(
        rights & _ACCESSED and implies(rights & _IS_CODE, rights & _READABLE)
        for rights in _usable(vmcs, "DS", "ES", "FS", "GS")
    )


def _are_code_or_data(vmcs: Vmcs) -> bool:
    """S and P are 1, reserved bits 0 in the rights of CS and of the usable others; TR and LDTR are system segments."""
    if _is_virtual_8086(vmcs):
        return True
    ordinary = [_rights(vmcs, "CS"), *_usable(vmcs, "SS", "DS", "ES", "FS", "GS")]
    if not all(rights & _S and rights & _PRESENT and not rights & _RESERVED for rights in ordinary):
        return False
    system = [_rights(vmcs, "TR"), *_usable(vmcs, "LDTR")]
    return all(rights & _PRESENT and not rights & (_S | _RESERVED) for rights in system)


def _privilege(vmcs: Vmcs) -> bool:
    """The DPLs of CS and SS agree with each other and with the RPL of SS (SDM Vol. 3C §27.3.1.2)."""
    if _is_virtual_8086(vmcs):
        return True
    cs, ss = _rights(vmcs, "CS"), _rights(vmcs, "SS")
    cs_dpl, ss_dpl = cs >> 5 & 3, ss >> 5 & 3
    match cs & _TYPE:
        case _ if cs & _TYPE == _WRITABLE_DATA:
            if cs_dpl:
                return False
        case 9 | 11:
            if cs_dpl != ss_dpl:
                return False
        case _:
            if cs_dpl > ss_dpl:
                return False
    if not _is_unrestricted(vmcs) and ss_dpl != _selector(vmcs, "SS") & 3:
        return False
    real = not vmcs.read(_F.GUEST_CR0) & Cr0.PE
    return implies(cs & _TYPE == _WRITABLE_DATA or real, not ss_dpl)


def _code_is_long_or_32_bit(vmcs: Vmcs) -> bool:
    """In IA-32e mode CS has not both L and D."""
    long = vmcs.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST
    return implies(long and _rights(vmcs, "CS") & _L, not _rights(vmcs, "CS") & _D)


def _pat(vmcs: Vmcs) -> bool:
    """Each byte of IA32_PAT is a memory type, if it is loaded."""
    if not vmcs.read(_F.ENTRY_CONTROLS) & EntryControls.LOAD_IA32_PAT:
        return True
    return all(byte in (0, 1, 4, 5, 6, 7) for byte in vmcs.read(_F.GUEST_IA32_PAT).to_bytes(8, "little"))


def _rflags(vmcs: Vmcs) -> bool:
    flags = vmcs.read(_F.GUEST_RFLAGS)
    if flags & EFLAGS_RESERVED_ZERO or flags >> 32 or not flags & 2:
        return False
    no_v86 = vmcs.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST or not vmcs.read(_F.GUEST_CR0) & Cr0.PE
    return implies(no_v86, not flags & Eflags.VM)


def if_for_injection(vmcs: Vmcs) -> bool:
    """An external interrupt cannot be injected while IF is 0."""
    info = vmcs.read(_F.ENTRY_INTERRUPTION_INFORMATION)
    external = info >> 31 and info >> 8 & 7 == InterruptionType.EXTERNAL_INTERRUPT
    return implies(external, vmcs.read(_F.GUEST_RFLAGS) & Eflags.IF)


def _interruptibility(vmcs: Vmcs) -> bool:
    state = vmcs.read(_F.GUEST_INTERRUPTIBILITY_STATE)
    sti, mov_ss = state & Interruptibility.BLOCKING_BY_STI, state & Interruptibility.BLOCKING_BY_MOV_SS
    if state >> 5 or (sti and mov_ss):
        return False
    return implies(sti, vmcs.read(_F.GUEST_RFLAGS) & Eflags.IF)


def _activity(vmcs: Vmcs) -> bool:
    activity = vmcs.read(_F.GUEST_ACTIVITY_STATE)
    if activity > ActivityState.WAIT_FOR_SIPI:
        return False
    if activity == ActivityState.HLT and _rights(vmcs, "SS") & 0x60:
        return False
    return implies(
        vmcs.read(_F.GUEST_INTERRUPTIBILITY_STATE)
        & (Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS),
        activity == ActivityState.ACTIVE,
    )


GUEST_STATE_CHECKS: Final = (
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
        lambda v: implies(v.read(_F.GUEST_CR0) & Cr0.PG, v.read(_F.GUEST_CR0) & Cr0.PE),
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
        lambda v: implies(
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
        "guest CR3 is no wider than a physical address",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.1",
        lambda v: not v.read(_F.GUEST_CR3) >> _CR3_WIDTH,
    ),
    EntryCheck(
        "bits 63:32 of DR7 are 0",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.1",
        lambda v: implies(
            v.read(_F.ENTRY_CONTROLS) & EntryControls.LOAD_DEBUG_CONTROLS, not v.read(_F.GUEST_DR7) >> 32
        ),
    ),
    EntryCheck(
        "the SYSENTER addresses are canonical",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.1",
        lambda v: canonical(v.read(_F.GUEST_IA32_SYSENTER_ESP)) and canonical(v.read(_F.GUEST_IA32_SYSENTER_EIP)),
    ),
    EntryCheck("IA32_PAT holds memory types", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.1", _pat),
    EntryCheck(
        "the selectors of TR, LDTR and SS are possible", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.2", _selectors
    ),
    EntryCheck("segment bases have their width", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.2", _bases),
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
    EntryCheck("segment types are those of their registers", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.2", _types),
    EntryCheck(
        "segments are present, code or data, and without reserved bits",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.2",
        _are_code_or_data,
    ),
    EntryCheck("the privilege of CS and SS agrees", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.2", _privilege),
    EntryCheck(
        "code is 64-bit or 32-bit, not both", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.2", _code_is_long_or_32_bit
    ),
    EntryCheck("segment limits agree with their granularity", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.2", _limits),
    EntryCheck(
        "the bases of GDTR and IDTR are canonical",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.3",
        lambda v: canonical(v.read(_F.GUEST_GDTR_BASE)) and canonical(v.read(_F.GUEST_IDTR_BASE)),
    ),
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
            and implies(not v.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST, not v.read(_F.GUEST_RIP) >> 32)
        ),
    ),
    EntryCheck("RFLAGS has its reserved bits right", CheckKind.GUEST_STATE, "SDM Vol. 3C §27.3.1.4", _rflags),
    EntryCheck(
        "an external interrupt is injected only with IF set",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.4",
        if_for_injection,
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
        qualification=LINK_POINTER_FAILED,
    ),
    EntryCheck(
        "present PDPTEs have their reserved bits clear",
        CheckKind.GUEST_STATE,
        "SDM Vol. 3C §27.3.1.6",
        _pdptes,
        qualification=PDPTE_LOADING_FAILED,
    ),
)
