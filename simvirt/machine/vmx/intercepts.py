"""What the processor has to stop at for the controls of a VMCS: the engine's intercepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.svm import Intercepts, SvmExit
from simvirt.x86.vmx import PrimaryControls, SecondaryControls, VmcsField

if TYPE_CHECKING:
    from simvirt.machine.state import ProcessorState
    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_P: Final = PrimaryControls
_DESCRIPTOR_TABLES: Final = frozenset(
    {
        SvmExit.GDTR_READ, SvmExit.GDTR_WRITE, SvmExit.IDTR_READ, SvmExit.IDTR_WRITE,
        SvmExit.LDTR_READ, SvmExit.LDTR_WRITE, SvmExit.TR_READ, SvmExit.TR_WRITE,
    }
)  # fmt: skip


def intercepts(vmcs: Vmcs, state: ProcessorState, primary: int, secondary: int) -> Intercepts:
    """The intercepts for these controls. What always exits, or is looked at anyway, is not among them."""
    instructions = set[SvmExit]()
    if primary & _P.PAUSE_EXITING or secondary & SecondaryControls.PAUSE_LOOP_EXITING:
        instructions.add(SvmExit.PAUSE)
    if secondary & SecondaryControls.DESCRIPTOR_TABLE_EXITING:
        instructions |= _DESCRIPTOR_TABLES
    cr_reads, cr_writes = Intercepts().cr_reads, Intercepts().cr_writes
    for number, control_read, control_write in (
        (3, _P.CR3_STORE_EXITING, _P.CR3_LOAD_EXITING),
        (8, _P.CR8_STORE_EXITING, _P.CR8_LOAD_EXITING),
    ):
        cr_reads |= bool(primary & control_read) << number
        cr_writes |= bool(primary & control_write) << number
    cr_reads |= bool(primary & _P.USE_TPR_SHADOW) << 8
    # A shadow matters to a reader only where it differs from the register.
    for number, mask, shadow, value in (
        (0, _F.CR0_GUEST_HOST_MASK, _F.CR0_READ_SHADOW, state.cr0),
        (4, _F.CR4_GUEST_HOST_MASK, _F.CR4_READ_SHADOW, state.cr4),
    ):
        cr_reads |= bool((value ^ vmcs.read(shadow)) & vmcs.read(mask)) << number
    return Intercepts(
        frozenset(instructions),
        cr_reads=cr_reads,
        cr_writes=cr_writes,
        dr_reads=0xFF if primary & _P.MOV_DR_EXITING else 0,
    )
