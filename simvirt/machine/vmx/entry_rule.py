"""What a check of VM entry is, and the few words that all of them are written with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.capabilities import PHYSICAL_BITS
from simvirt.x86.vmx import EntryControls, PrimaryControls, SecondaryControls, VmcsField

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_MEMORY_TYPES: Final = frozenset((0, 1, 4, 5, 6, 7))


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
    qualification: int = 0
    """Exit qualification of the entry that fails on guest state (SDM Vol. 3C §27.8)."""
    on_injection: bool = False
    """Is it about the event that the entry injects, and so to be made whenever there is one?"""


PDPTE_LOADING_FAILED: Final = 2
"""Exit qualification of an entry that fails over the PDPTEs (SDM Vol. 3C §27.8)."""
LINK_POINTER_FAILED: Final = 4
"""That of one that fails over the VMCS link pointer."""


def primary(vmcs: Vmcs) -> int:
    """The primary processor-based controls."""
    return vmcs.read(_F.PRIMARY_CONTROLS)


def secondary(vmcs: Vmcs) -> int:
    """The secondary processor-based controls as they count: all 0 unless they are activated."""
    return vmcs.read(_F.SECONDARY_CONTROLS) if primary(vmcs) & PrimaryControls.ACTIVATE_SECONDARY_CONTROLS else 0


def pin(vmcs: Vmcs) -> int:
    """The pin-based controls."""
    return vmcs.read(_F.PIN_BASED_CONTROLS)


def entry(vmcs: Vmcs) -> int:
    """The VM-entry controls."""
    return vmcs.read(_F.ENTRY_CONTROLS)


def is_ia32e_mode(vmcs: Vmcs) -> bool:
    """Is "IA-32e mode guest" 1?"""
    return bool(vmcs.read(_F.ENTRY_CONTROLS) & EntryControls.IA32E_MODE_GUEST)


def is_unrestricted(vmcs: Vmcs) -> bool:
    """Is "unrestricted guest" 1?"""
    return bool(secondary(vmcs) & SecondaryControls.UNRESTRICTED_GUEST)


def implies(condition: int | bool, conclusion: int | bool) -> bool:
    """If the condition is true, so is the conclusion."""
    return not condition or bool(conclusion)


def canonical(address: int) -> bool:
    """Bits 63:47 are all equal."""
    return address < 1 << 47 or address >= (1 << 64) - (1 << 47)


def is_physical_address(address: int) -> bool:
    """Is it no wider than the processor's physical addresses?"""
    return not address >> PHYSICAL_BITS


def are_memory_types(pat: int) -> bool:
    """Is each byte of IA32_PAT a memory type? (SDM Vol. 3A Table 12-10)."""
    return all(byte in _MEMORY_TYPES for byte in pat.to_bytes(8, "little"))
