"""The cause of each trap in words: what happened, by which rule, and where the manual says so.

A cause is built only while somebody listens to the exit log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.strategies.trap_and_emulate.reasons import IOPL_SENSITIVE, SEGMENT_LOADS, UMIP_SENSITIVE, TrapReason
from simvirt.vmm.exit_log import Cause
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from simvirt.machine.events import Event
    from simvirt.x86.instruction import Instruction

_HIDDEN: Final = {
    TrapReason.DESCRIPTOR_LOAD: Cause(
        "a segment register is loaded with a descriptor for the first time",
        "the shadow descriptor is not present until then, so that the guest's own gets its accessed flag",
        "SDM Vol. 3A §3.4.5.1 and §6.15, #NP",
    ),
    TrapReason.DESCRIPTOR_TABLE_WRITE: Cause(
        "a write to a page that holds descriptors of the guest's",
        "the page is write-protected (traced) since the guest used a descriptor, CR0.WP is 1: #PF",
        "SDM Vol. 3A §4.6.1",
    ),
    TrapReason.DESCRIPTOR_TABLE_USE: Cause(
        "an access to a descriptor of the guest's",
        "the pages of its tables are not traced since it wrote there, and their shadows are unmapped: #PF, which the "
        "guest does not see",
        "SDM Vol. 3A §4.7",
    ),
    TrapReason.SHADOW_FILL: Cause(
        "an access that the guest's page tables grant",
        "the shadow page tables did not hold it yet: #PF, which the guest does not see",
        "SDM Vol. 3A §4.7",
    ),
    TrapReason.PAGE_TABLE_WRITE: Cause(
        "a write to a page table of the guest's",
        "the page is write-protected (traced) while the table has a shadow: #PF",
        "SDM Vol. 3A §4.6.1",
    ),
    TrapReason.WAIT: Cause(
        "WAIT while CR0.TS is 1 and the guest's CR0.MP is 0",
        "the real CR0.MP is 1, as a host that has an x87 unit keeps it: #NM",
        "SDM Vol. 3A §2.5, Vol. 2D WAIT/FWAIT",
    ),
    TrapReason.NO_MEMORY: Cause(
        "an access to an address where the guest has no memory",
        "the VMM's page tables map the guest's memory alone: #PF",
        "SDM Vol. 3A §4.7",
    ),
}


def cause(reason: TrapReason, event: Event, instruction: Instruction, cpl: int) -> Cause:
    """Why this trap happened; `cpl` is the guest's own view of its ring, and the processor's is 1 where that is 0."""
    hidden = _HIDDEN.get(reason)
    if hidden is not None:
        return hidden
    real_cpl = cpl or 1
    name = instruction.mnemonic.upper()
    if reason is TrapReason.SOFTWARE_INTERRUPT:
        return Cause(
            f"{name} at CPL {real_cpl}",
            "interrupts go through the VMM's IDT, which hands them to the guest's",
            "SDM Vol. 3A §6.4.4",
        )
    if reason is TrapReason.EXCEPTION:
        vector = getattr(event, "vector", Vector.GP)
        return Cause(
            f"{name} raised {Vector(vector).mnemonic}",
            "exceptions go through the VMM's IDT, which hands them to the guest's",
            "SDM Vol. 3A §6.4.1",
        )
    if instruction.operation in SEGMENT_LOADS:
        return Cause(
            f"{name} at CPL {real_cpl} with a selector of the guest's ring {cpl}",
            "RPL, CPL and DPL of the shadow descriptor do not agree, since the guest's ring 0 is really ring 1",
            "SDM Vol. 3A §5.5 to §5.8",
        )
    if instruction.operation in IOPL_SENSITIVE:
        return Cause(
            f"{name} at CPL {real_cpl} with IOPL 0",
            f"{name} needs CPL <= IOPL: #GP(0)",
            f"SDM Vol. 2, {name}; Vol. 1 §19.5",
        )
    if instruction.operation in UMIP_SENSITIVE:
        return Cause(
            f"{name} at CPL {real_cpl} with CR4.UMIP 1",
            f"{name} needs CPL 0 while CR4.UMIP is 1: #GP(0)",
            f"SDM Vol. 2, {name}; Vol. 3A §2.5",
        )
    if reason is TrapReason.SYSENTER:
        return Cause(f"SYSENTER at CPL {real_cpl}", "SYSENTER enters ring 0, where the VMM is", "SDM Vol. 2B, SYSENTER")
    return Cause(f"{name} at CPL {real_cpl}", f"{name} needs CPL 0: #GP(0)", f"SDM Vol. 2, {name}; Vol. 3A §5.9")
