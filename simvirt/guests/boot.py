"""The processor's state in which a guest's first instruction runs.

Both boot protocols enter 32-bit protected mode with flat 4 GiB segments, paging off, interrupts disabled and A20 on
(Multiboot Specification 0.6.96 §3.2 "Machine state"). What that specification leaves undefined is zero here; GDTR and
IDTR are empty, so a guest that loads a segment register or takes an interrupt before it has set them up faults, as it
may on a real machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.flags import Cr0
from simvirt.x86.registers import GeneralRegister

if TYPE_CHECKING:
    from simvirt.guests.image import BootState

_CODE: Final = Segment(0x08, 0, 0xFFFFFFFF, 0x00CF9B00)
_DATA: Final = Segment(0x10, 0, 0xFFFFFFFF, 0x00CF9300)
_NO_LDT: Final = Segment(0, 0, 0xFFFF, 0x8200)
_NO_TASK: Final = Segment(0, 0, 0xFFFF, 0x8900)
_DR6_AT_RESET: Final = 0xFFFF0FF0
_DR7_AT_RESET: Final = 0x400


def initial_state(boot: BootState) -> ArchitecturalState:
    """The state that the boot protocol gives the guest; the floating-point unit is left as it is after reset."""
    general = [0] * len(GeneralRegister)
    general[GeneralRegister.RAX], general[GeneralRegister.RBX], general[GeneralRegister.RSP] = (
        boot.eax,
        boot.ebx,
        boot.esp,
    )
    return ArchitecturalState(
        general=tuple(general),
        rip=boot.entry,
        eflags=2,
        segments=(_DATA, _CODE, _DATA, _DATA, _DATA, _DATA),
        ldtr=_NO_LDT,
        tr=_NO_TASK,
        gdtr=DescriptorTable(0, 0),
        idtr=DescriptorTable(0, 0),
        control=(int(Cr0.PE | Cr0.ET), 0, 0, 0),
        efer=0,
        debug=(0, 0, 0, 0, _DR6_AT_RESET, _DR7_AT_RESET),
        interrupt_shadow=False,
        floating_point=b"",
    )
