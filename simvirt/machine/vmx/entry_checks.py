"""The checks of VM entry, each with its name and its place in the manual (SDM Vol. 3C §27.2 and §27.3).

They come in two kinds, as the manual's: a bad control or host field makes VMLAUNCH or VMRESUME fail like any
instruction of VMX, with a VM-instruction error; a bad guest state looks like a VM exit with reason 33 and bit 31 set.
The manual's checks on what no processor of this PC has (CET, PKRS, SMM, processor trace, performance counters) are
those of the control words: the control that would bring them in is not offered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.control_checks import CONTROL_CHECKS
from simvirt.machine.vmx.guest_non_register_checks import GUEST_NON_REGISTER_CHECKS
from simvirt.machine.vmx.guest_register_checks import GUEST_REGISTER_CHECKS
from simvirt.machine.vmx.guest_segment_checks import GUEST_SEGMENT_CHECKS
from simvirt.machine.vmx.host_state_checks import HOST_STATE_CHECKS
from simvirt.x86.flags import Eflags
from simvirt.x86.vmx import Interruptibility, VmcsField

if TYPE_CHECKING:
    from simvirt.machine.vmx.entry_rule import CheckKind, EntryCheck
    from simvirt.machine.vmx.vmcs import Vmcs

ENTRY_CHECKS: Final[tuple[EntryCheck, ...]] = (
    *CONTROL_CHECKS,
    *HOST_STATE_CHECKS,
    *GUEST_REGISTER_CHECKS,
    *GUEST_SEGMENT_CHECKS,
    *GUEST_NON_REGISTER_CHECKS,
)
"""All checks: controls, host state, guest state."""
_INJECTION_CHECKS: Final = tuple(check for check in ENTRY_CHECKS if check.on_injection)


_F: Final = VmcsField
_INFORMATION: Final = int(_F.ENTRY_INTERRUPTION_INFORMATION)
_INTERRUPT: Final = 1 << 31
"""Valid, type 0 (external interrupt), no error code, no reserved bit."""
_IF: Final = int(Eflags.IF)
_SHADOWS: Final = int(Interruptibility.BLOCKING_BY_STI | Interruptibility.BLOCKING_BY_MOV_SS)


def first_failure(vmcs: Vmcs, kinds: frozenset[CheckKind]) -> EntryCheck | None:
    """The first check of these kinds that does not hold."""
    return next((check for check in ENTRY_CHECKS if check.kind in kinds and not check.holds(vmcs)), None)


def event_injection_failure(vmcs: Vmcs) -> EntryCheck | None:
    """The first of the checks on event injection that does not hold; they are made at every entry that injects."""
    if (
        vmcs.fields.get(_INFORMATION, 0) & ~0xFF == _INTERRUPT
        and vmcs.read(_F.GUEST_RFLAGS) & _IF
        and not vmcs.read(_F.GUEST_INTERRUPTIBILITY_STATE) & _SHADOWS
    ):
        # An interrupt that the guest can take, which is what is injected nearly always, passes all of them.
        return None
    return next((check for check in _INJECTION_CHECKS if not check.holds(vmcs)), None)
