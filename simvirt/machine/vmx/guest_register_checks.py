"""The checks of VM entry on the guest's control and debug registers, MSRs, descriptor-table registers, RIP and RFLAGS.

Sources: SDM Vol. 3C §27.3.1.1, §27.3.1.3, §27.3.1.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.capabilities import CR0_FIXED_1, CR4_FIXED_1
from simvirt.machine.vmx.entry_rule import (
    CheckKind,
    EntryCheck,
    are_memory_types,
    canonical,
    entry,
    implies,
    is_ia32e_mode,
    is_physical_address,
    is_unrestricted,
)
from simvirt.x86.flags import EFER_RESERVED, EFLAGS_RESERVED_ZERO, Cr0, Cr4, Efer, Eflags
from simvirt.x86.vmx import EntryControls, InterruptionType, VmcsField

if TYPE_CHECKING:
    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_L: Final = 1 << 13
"""Of CS's access rights: 64-bit code."""
_DEBUG_CONTROLS: Final = int(EntryControls.LOAD_DEBUG_CONTROLS)


def _fixed_1_of_cr0(vmcs: Vmcs) -> bool:
    """An unrestricted guest is free of PE and PG, which are all that is fixed here."""
    return is_unrestricted(vmcs) or vmcs.read(_F.GUEST_CR0) & CR0_FIXED_1 == CR0_FIXED_1


def _efer(vmcs: Vmcs) -> bool:
    efer = vmcs.read(_F.GUEST_IA32_EFER)
    lma = bool(efer & Efer.LMA)
    if efer & EFER_RESERVED or lma != is_ia32e_mode(vmcs):
        return False
    return implies(vmcs.read(_F.GUEST_CR0) & Cr0.PG, lma == bool(efer & Efer.LME))


def _rip(vmcs: Vmcs) -> bool:
    rip = vmcs.read(_F.GUEST_RIP)
    is_64_bit = is_ia32e_mode(vmcs) and vmcs.read(_F.GUEST_CS_ACCESS_RIGHTS) & _L
    return canonical(rip) if is_64_bit else not rip >> 32


def _rflags(vmcs: Vmcs) -> bool:
    flags = vmcs.read(_F.GUEST_RFLAGS)
    return not (flags & EFLAGS_RESERVED_ZERO or flags >> 32) and bool(flags & Eflags.ALWAYS_ONE)


def _if_for_injection(vmcs: Vmcs) -> bool:
    info = vmcs.read(_F.ENTRY_INTERRUPTION_INFORMATION)
    external = info >> 31 and info >> 8 & 7 == InterruptionType.EXTERNAL_INTERRUPT
    return implies(external, vmcs.read(_F.GUEST_RFLAGS) & Eflags.IF)


_K: Final = CheckKind.GUEST_STATE
_REGISTERS, _TABLES, _RIP = "SDM Vol. 3C §27.3.1.1", "SDM Vol. 3C §27.3.1.3", "SDM Vol. 3C §27.3.1.4"

GUEST_REGISTER_CHECKS: Final = (
    EntryCheck("guest CR0 has the bits that VMX operation fixes to 1", _K, _REGISTERS, _fixed_1_of_cr0),
    EntryCheck("bits 63:32 of guest CR0, fixed to 0, are 0", _K, _REGISTERS, lambda v: not v.read(_F.GUEST_CR0) >> 32),
    EntryCheck(
        "paging needs protection: CR0.PG only with CR0.PE",
        _K,
        _REGISTERS,
        lambda v: implies(v.read(_F.GUEST_CR0) & Cr0.PG, v.read(_F.GUEST_CR0) & Cr0.PE),
    ),
    EntryCheck(
        "guest CR4 has the bits that VMX operation fixes to 1",
        _K,
        _REGISTERS,
        lambda v: v.read(_F.GUEST_CR4) & CR4_FIXED_1 == CR4_FIXED_1,
    ),
    EntryCheck(
        "guest CR4 has no bit that the processor does not have",
        _K,
        _REGISTERS,
        lambda v: not v.read(_F.GUEST_CR4) & ~v.cr4_may_be_1,
    ),
    EntryCheck(
        "IA32_DEBUGCTL, if it is loaded, has no reserved bits, which are all",
        _K,
        _REGISTERS,
        lambda v: implies(entry(v) & _DEBUG_CONTROLS, not v.read(_F.GUEST_IA32_DEBUGCTL)),
    ),
    EntryCheck(
        "IA-32e mode needs paging and PAE",
        _K,
        _REGISTERS,
        lambda v: implies(is_ia32e_mode(v), v.read(_F.GUEST_CR0) & Cr0.PG and v.read(_F.GUEST_CR4) & Cr4.PAE),
    ),
    EntryCheck(
        "guest CR3 is no wider than a physical address",
        _K,
        _REGISTERS,
        lambda v: is_physical_address(v.read(_F.GUEST_CR3)),
    ),
    EntryCheck(
        "bits 63:32 of DR7, if it is loaded, are 0",
        _K,
        _REGISTERS,
        lambda v: implies(entry(v) & _DEBUG_CONTROLS, not v.read(_F.GUEST_DR7) >> 32),
    ),
    EntryCheck(
        "the guest's SYSENTER addresses are canonical",
        _K,
        _REGISTERS,
        lambda v: canonical(v.read(_F.GUEST_IA32_SYSENTER_ESP)) and canonical(v.read(_F.GUEST_IA32_SYSENTER_EIP)),
    ),
    EntryCheck(
        "the guest's IA32_PAT, if it is loaded, holds memory types",
        _K,
        _REGISTERS,
        lambda v: implies(entry(v) & EntryControls.LOAD_IA32_PAT, are_memory_types(v.read(_F.GUEST_IA32_PAT))),
    ),
    EntryCheck(
        'the guest\'s IA32_EFER, if it is loaded, has no reserved bits, LMA as "IA-32e mode guest", and LME as LMA '
        "where paging is on",
        _K,
        _REGISTERS,
        lambda v: implies(entry(v) & EntryControls.LOAD_IA32_EFER, _efer(v)),
    ),
    EntryCheck(
        "the bases of GDTR and IDTR are canonical",
        _K,
        _TABLES,
        lambda v: canonical(v.read(_F.GUEST_GDTR_BASE)) and canonical(v.read(_F.GUEST_IDTR_BASE)),
    ),
    EntryCheck(
        "the limits of GDTR and IDTR have 16 bits",
        _K,
        _TABLES,
        lambda v: not (v.read(_F.GUEST_GDTR_LIMIT) >> 16 or v.read(_F.GUEST_IDTR_LIMIT) >> 16),
    ),
    EntryCheck("RIP has 32 bits outside 64-bit mode, and is canonical in it", _K, _RIP, _rip),
    EntryCheck("RFLAGS has its reserved bits right", _K, _RIP, _rflags),
    EntryCheck(
        "RFLAGS.VM is 0 in IA-32e mode and without protection",
        _K,
        _RIP,
        lambda v: implies(
            is_ia32e_mode(v) or not v.read(_F.GUEST_CR0) & Cr0.PE, not v.read(_F.GUEST_RFLAGS) & Eflags.VM
        ),
    ),
    EntryCheck("an external interrupt is injected only with IF set", _K, _RIP, _if_for_injection, on_injection=True),
)
