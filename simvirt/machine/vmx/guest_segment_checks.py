"""The checks of VM entry on the guest's segment registers (SDM Vol. 3C §27.3.1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.entry_rule import CheckKind, EntryCheck, canonical, implies, is_ia32e_mode, is_unrestricted
from simvirt.machine.vmx.guest_fields import SEGMENT_NAMES, UNUSABLE
from simvirt.x86.flags import Cr0, Eflags
from simvirt.x86.vmx import VmcsField

if TYPE_CHECKING:
    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_TI: Final = 1 << 2
"""Table indicator of a selector."""
# Access rights (SDM Vol. 3C Table 25-2).
_TYPE, _S, _PRESENT, _L, _D, _G = 0xF, 1 << 4, 1 << 7, 1 << 13, 1 << 14, 1 << 15
_ACCESSED, _READABLE, _IS_CODE = 1 << 0, 1 << 1, 1 << 3
_RESERVED: Final = 0xFFFE_0F00
_ACCESSED_CODE: Final = (9, 11, 13, 15)
_WRITABLE_DATA, _EXPAND_DOWN_DATA = 3, 7
_NON_CONFORMING: Final = range(12)
"""Types of data and of code that does not conform."""
_LDT, _BUSY_16_BIT_TSS, _BUSY_TSS = 2, 3, 11
_DATA_REGISTERS: Final = ("DS", "ES", "FS", "GS")


def _rights(vmcs: Vmcs, name: str) -> int:
    return vmcs.read(_F[f"GUEST_{name}_ACCESS_RIGHTS"])


def _dpl(rights: int) -> int:
    return rights >> 5 & 3


def _limits(vmcs: Vmcs) -> bool:
    """A limit that is not whole pages needs G = 0, one beyond a MByte needs G = 1."""
    for name in SEGMENT_NAMES:
        rights, limit = _rights(vmcs, name), vmcs.read(_F[f"GUEST_{name}_LIMIT"])
        if rights & UNUSABLE and name != "CS":
            continue
        granular = rights & _G
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


def _selector(vmcs: Vmcs, name: str) -> int:
    return vmcs.read(_F[f"GUEST_{name}_SELECTOR"])


def _usable(vmcs: Vmcs, *names: str) -> list[int]:
    """The access rights of those of these segment registers that are usable."""
    return [rights for name in names if not (rights := _rights(vmcs, name)) & UNUSABLE]


def _selectors(vmcs: Vmcs) -> bool:
    """TI of TR and of a usable LDTR is 0; SS has the RPL of CS, unless it is an unrestricted or virtual-8086 guest."""
    if _selector(vmcs, "TR") & _TI or (_usable(vmcs, "LDTR") and _selector(vmcs, "LDTR") & _TI):
        return False
    free = _is_virtual_8086(vmcs) or is_unrestricted(vmcs)
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
    if code not in _ACCESSED_CODE and not (code == _WRITABLE_DATA and is_unrestricted(vmcs)):
        return False
    if any(rights & _TYPE not in (_WRITABLE_DATA, _EXPAND_DOWN_DATA) for rights in _usable(vmcs, "SS")):
        return False
    return all(
        rights & _ACCESSED and implies(rights & _IS_CODE, rights & _READABLE)
        for rights in _usable(vmcs, *_DATA_REGISTERS)
    )


def _are_code_or_data(vmcs: Vmcs) -> bool:
    """S and P are 1, reserved bits 0 in the rights of CS and of the usable others; TR and LDTR are system segments."""
    if _is_virtual_8086(vmcs):
        return True
    ordinary = [_rights(vmcs, "CS"), *_usable(vmcs, "SS", *_DATA_REGISTERS)]
    if not all(rights & _S and rights & _PRESENT and not rights & _RESERVED for rights in ordinary):
        return False
    system = [_rights(vmcs, "TR"), *_usable(vmcs, "LDTR")]
    return all(rights & _PRESENT and not rights & (_S | _RESERVED) for rights in system)


def _privilege_of_code(vmcs: Vmcs) -> bool:
    """The DPL of CS: that of SS for code that does not conform, at most that for code that does, 0 for data."""
    if _is_virtual_8086(vmcs):
        return True
    cs, ss = _rights(vmcs, "CS"), _rights(vmcs, "SS")
    match cs & _TYPE:
        case 9 | 11:
            return _dpl(cs) == _dpl(ss)
        case 13 | 15:
            return _dpl(cs) <= _dpl(ss)
        case _:
            return not _dpl(cs)


def _privilege_of_stack(vmcs: Vmcs) -> bool:
    """The DPL of SS, which is CPL: its RPL, unless it is an unrestricted guest; 0 in real mode and where CS is data."""
    if _is_virtual_8086(vmcs):
        return True
    dpl = _dpl(_rights(vmcs, "SS"))
    if not is_unrestricted(vmcs) and dpl != _selector(vmcs, "SS") & 3:
        return False
    real = not vmcs.read(_F.GUEST_CR0) & Cr0.PE
    return implies(_rights(vmcs, "CS") & _TYPE == _WRITABLE_DATA or real, not dpl)


def _privilege_of_data(vmcs: Vmcs) -> bool:
    """The DPL of a usable DS, ES, FS or GS is not less than its RPL, unless it holds conforming code."""
    if _is_virtual_8086(vmcs) or is_unrestricted(vmcs):
        return True
    for name in _DATA_REGISTERS:
        rights = _rights(vmcs, name)
        checked = not rights & UNUSABLE and rights & _TYPE in _NON_CONFORMING
        if checked and _dpl(rights) < _selector(vmcs, name) & 3:
            return False
    return True


def _code_is_long_or_32_bit(vmcs: Vmcs) -> bool:
    """In IA-32e mode CS has not both L and D."""
    return implies(is_ia32e_mode(vmcs) and _rights(vmcs, "CS") & _L, not _rights(vmcs, "CS") & _D)


def _task_register(vmcs: Vmcs) -> bool:
    """TR is usable and holds a busy TSS; in IA-32e mode it is none of 16 bits."""
    rights = _rights(vmcs, "TR")
    if rights & UNUSABLE:
        return False
    return rights & _TYPE == _BUSY_TSS or (rights & _TYPE == _BUSY_16_BIT_TSS and not is_ia32e_mode(vmcs))


_K: Final = CheckKind.GUEST_STATE
_SECTION: Final = "SDM Vol. 3C §27.3.1.2"

GUEST_SEGMENT_CHECKS: Final = (
    EntryCheck("the selectors of TR, LDTR and SS are possible", _K, _SECTION, _selectors),
    EntryCheck("segment bases have their width", _K, _SECTION, _bases),
    EntryCheck("the segment registers are as virtual-8086 mode needs them", _K, _SECTION, _virtual_8086),
    EntryCheck("TR is usable and a busy TSS", _K, _SECTION, _task_register),
    EntryCheck(
        "LDTR is unusable or an LDT",
        _K,
        _SECTION,
        lambda v: bool(_rights(v, "LDTR") & UNUSABLE) or _rights(v, "LDTR") & _TYPE == _LDT,
    ),
    EntryCheck("segment types are those of their registers", _K, _SECTION, _types),
    EntryCheck("segments are present, code or data, and without reserved bits", _K, _SECTION, _are_code_or_data),
    EntryCheck("the DPL of CS agrees with its type and with SS", _K, _SECTION, _privilege_of_code),
    EntryCheck("the DPL of SS is its RPL, and 0 in real mode", _K, _SECTION, _privilege_of_stack),
    EntryCheck("the DPL of data segments is not less than their RPL", _K, _SECTION, _privilege_of_data),
    EntryCheck("code is 64-bit or 32-bit, not both", _K, _SECTION, _code_is_long_or_32_bit),
    EntryCheck("segment limits agree with their granularity", _K, _SECTION, _limits),
)
