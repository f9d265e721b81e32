"""The x86's rows in the registry of instruction sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.analysis import InstructionSetInfo, Obstacle

if TYPE_CHECKING:
    from simvirt.analyzer.x86.machine import X86Machine

UHLIG: Final = "Uhlig et al. 2005, IEEE Computer 38(5)"

_OBSTACLES: Final = (
    Obstacle(
        "hidden state",
        "The hidden parts of segment registers cannot be read: a VMM that interrupts a guest between a write to a "
        "descriptor and the next load of its selector cannot put them back.",
        UHLIG,
    ),
    Obstacle(
        "address-space compression",
        "The VMM's own tables lie in the guest's linear addresses, and the guest must be kept off them. (A VMM outside "
        "of the machine, as simvirt's are, has only part of this.)",
        UHLIG,
    ),
    Obstacle(
        "ring compression",
        "Paging tells rings 0 to 2 from ring 3 and no more: at ring 1 a guest kernel has the protection of the VMM, "
        "at ring 3 that of its own user programs.",
        UHLIG,
    ),
    Obstacle(
        "interrupt virtualization",
        "A guest that turns IF off and on often makes the VMM pay for each, though nothing happens in between.",
        UHLIG,
    ),
)
_NO_LIMITS: Final = Obstacle(
    "no segment limits",
    "64-bit mode ignores the limits of segments, with which 32-bit VMMs kept guests off their pages.",
    "SDM Vol. 1 §3.2.4",
)

VARIANT_INFOS: Final = (
    InstructionSetInfo(
        "x86-32", "x86, 32-bit, Pentium", "the encodings that a Pentium has, as in Robin and Irvine (2000)", _OBSTACLES
    ),
    InstructionSetInfo("x86-32-modern", "x86, 32-bit, of today", "all encodings of 32-bit code", _OBSTACLES),
    InstructionSetInfo(
        "x86-32+umip", "x86, 32-bit, with UMIP", "all of 32-bit code, and the VMM keeps CR4.UMIP set", _OBSTACLES
    ),
    InstructionSetInfo("x86-64", "x86, 64-bit", "all encodings of 64-bit code", (*_OBSTACLES, _NO_LIMITS)),
    InstructionSetInfo(
        "x86-64+umip",
        "x86, 64-bit, with UMIP",
        "all of 64-bit code, and the VMM keeps CR4.UMIP set",
        (*_OBSTACLES, _NO_LIMITS),
    ),
)


def machine_of(name: str) -> X86Machine:
    """The machine of one variant; its modules are imported now and not before."""
    from simvirt.analyzer.x86.machine import X86Machine
    from simvirt.analyzer.x86.variants import find_variant

    return X86Machine(find_variant(name))
