"""The checks of VM entry on the host-state area (SDM Vol. 3C §27.2.2 to §27.2.4).

Root mode is Python, so the mode that the processor is in when it executes VMLAUNCH is the one that the host-state area
describes: the first two checks of §27.2.4, which compare those, have nothing to compare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.capabilities import CR0_FIXED_1, CR4_FIXED_1
from simvirt.machine.vmx.entry_rule import (
    CheckKind,
    EntryCheck,
    are_memory_types,
    canonical,
    implies,
    is_physical_address,
)
from simvirt.x86.cpuid import CR4_FEATURES
from simvirt.x86.flags import EFER_RESERVED, Cr4, Efer
from simvirt.x86.vmx import EntryControls, ExitControls, VmcsField

if TYPE_CHECKING:
    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_LONG_HOST: Final = int(ExitControls.HOST_ADDRESS_SPACE_SIZE)


def _exit(vmcs: Vmcs) -> int:
    return vmcs.read(_F.EXIT_CONTROLS)


def _is_long(vmcs: Vmcs) -> bool:
    return bool(_exit(vmcs) & _LONG_HOST)


def _efer(vmcs: Vmcs) -> bool:
    efer = vmcs.read(_F.HOST_IA32_EFER)
    return not efer & EFER_RESERVED and bool(efer & Efer.LMA) == bool(efer & Efer.LME) == _is_long(vmcs)


def _selectors(vmcs: Vmcs) -> bool:
    return not any(vmcs.read(_F[f"HOST_{name}_SELECTOR"]) & 7 for name in ("ES", "CS", "SS", "DS", "FS", "GS", "TR"))


def _bases(vmcs: Vmcs) -> bool:
    return all(canonical(vmcs.read(_F[f"HOST_{name}_BASE"])) for name in ("FS", "GS", "TR", "GDTR", "IDTR"))


_K: Final = CheckKind.HOST_STATE
_REGISTERS, _SEGMENTS, _SIZE = "SDM Vol. 3C §27.2.2", "SDM Vol. 3C §27.2.3", "SDM Vol. 3C §27.2.4"

HOST_STATE_CHECKS: Final = (
    EntryCheck(
        "host CR0 has the bits that VMX operation fixes to 1",
        _K,
        _REGISTERS,
        lambda v: v.read(_F.HOST_CR0) & CR0_FIXED_1 == CR0_FIXED_1,
    ),
    EntryCheck("bits 63:32 of host CR0, fixed to 0, are 0", _K, _REGISTERS, lambda v: not v.read(_F.HOST_CR0) >> 32),
    EntryCheck(
        "host CR4 has the bits that VMX operation fixes to 1",
        _K,
        _REGISTERS,
        lambda v: v.read(_F.HOST_CR4) & CR4_FIXED_1 == CR4_FIXED_1,
    ),
    EntryCheck(
        "host CR4 has no bit that the processor does not have",
        _K,
        _REGISTERS,
        lambda v: not v.read(_F.HOST_CR4) & ~(CR4_FIXED_1 | CR4_FEATURES),
    ),
    EntryCheck(
        "host CR3 is no wider than a physical address",
        _K,
        _REGISTERS,
        lambda v: is_physical_address(v.read(_F.HOST_CR3)),
    ),
    EntryCheck(
        "the host's SYSENTER addresses are canonical",
        _K,
        _REGISTERS,
        lambda v: canonical(v.read(_F.HOST_IA32_SYSENTER_ESP)) and canonical(v.read(_F.HOST_IA32_SYSENTER_EIP)),
    ),
    EntryCheck(
        "the host's IA32_PAT, if it is loaded, holds memory types",
        _K,
        _REGISTERS,
        lambda v: implies(_exit(v) & ExitControls.LOAD_IA32_PAT, are_memory_types(v.read(_F.HOST_IA32_PAT))),
    ),
    EntryCheck(
        "the host's IA32_EFER, if it is loaded, has no reserved bits, and LMA and LME as the host's address-space size",
        _K,
        _REGISTERS,
        lambda v: implies(_exit(v) & ExitControls.LOAD_IA32_EFER, _efer(v)),
    ),
    EntryCheck("RPL and TI of the host's selectors are 0", _K, _SEGMENTS, _selectors),
    EntryCheck(
        "the host's CS and TR are not null",
        _K,
        _SEGMENTS,
        lambda v: bool(v.read(_F.HOST_CS_SELECTOR) and v.read(_F.HOST_TR_SELECTOR)),
    ),
    EntryCheck(
        "the SS of a 32-bit host is not null",
        _K,
        _SEGMENTS,
        lambda v: _is_long(v) or bool(v.read(_F.HOST_SS_SELECTOR)),
    ),
    EntryCheck("the host's base addresses are canonical", _K, _SEGMENTS, _bases),
    EntryCheck(
        "a 32-bit host has no guest in IA-32e mode",
        _K,
        _SIZE,
        lambda v: _is_long(v) or not v.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST,
    ),
    EntryCheck(
        "a 32-bit host has CR4.PCIDE clear and a RIP of 32 bits",
        _K,
        _SIZE,
        lambda v: _is_long(v) or not (v.read(_F.HOST_CR4) & Cr4.PCIDE or v.read(_F.HOST_RIP) >> 32),
    ),
    EntryCheck(
        "a host in 64-bit mode has CR4.PAE and a canonical RIP",
        _K,
        _SIZE,
        lambda v: implies(_is_long(v), v.read(_F.HOST_CR4) & Cr4.PAE and canonical(v.read(_F.HOST_RIP))),
    ),
)
