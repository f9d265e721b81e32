"""What a check of VM entry is, and the few words that all of them are written with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.x86.vmx import PrimaryControls, VmcsField

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField


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


def implies(condition: int | bool, conclusion: int | bool) -> bool:
    """If the condition is true, so is the conclusion."""
    return not condition or bool(conclusion)


def canonical(address: int) -> bool:
    """Bits 63:47 are all equal."""
    return address < 1 << 47 or address >= (1 << 64) - (1 << 47)
