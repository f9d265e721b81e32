"""Far transfers of a de-privileged guest, on its own descriptors, gates and TSS; and SYSEXIT.

They are those of any machine (`machine.far_transfers`) but for what this VMM does not virtualize: tasks, and
virtual-8086 mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from simvirt.errors import UnsupportedGuestError
from simvirt.machine.far_transfers import FarTransfers
from simvirt.machine.faults import general_protection
from simvirt.machine.state import Segment
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from simvirt.machine.task_switch import TaskSwitch
    from simvirt.vmm.virtual_cpu import VirtualCpu
    from simvirt.x86.instruction import Instruction

_FLAT_CODE: Final = 0x00CFFB00
_FLAT_DATA: Final = 0x00CFF300


class GuestFarTransfers(FarTransfers):
    """The guest's machine's."""

    def __init__(self, cpu: VirtualCpu) -> None:
        super().__init__(cpu, cpu.loads, cpu.switch_task)

    def _return_from_task(self, _instruction: Instruction) -> None:
        raise UnsupportedGuestError(
            "the guest returns from a nested task (IRET with NT set), which a VMM that runs it de-privileged does "
            "not emulate so far: use bare-metal or vtx"
        )

    def _to_virtual_8086(self, _flags: int) -> None:
        raise UnsupportedGuestError(
            "the guest enters virtual-8086 mode (IRET with VM in the image of EFLAGS), which a VMM that runs it "
            "de-privileged does not emulate so far: use bare-metal or vtx"
        )

    def sysexit(self, _instruction: Instruction) -> None:
        """SYSEXIT (SDM Vol. 2B): to ring 3 with the flat segments behind IA32_SYSENTER_CS."""
        cpu, state = self._cpu, self._cpu.state
        base = state.doubleword(cpu.engine.platform.state.sysenter_cs) & 0xFFFC
        if state.cpl or not base:
            raise general_protection(0)
        pointer, target = state.register(GeneralRegister.RCX, 4), state.register(GeneralRegister.RDX, 4)
        state.set_segment(SegmentRegister.CS, Segment(base + 16 & 0xFFFC | 3, 0, 0xFFFFFFFF, _FLAT_CODE))
        state.set_segment(SegmentRegister.SS, Segment(base + 24 & 0xFFFC | 3, 0, 0xFFFFFFFF, _FLAT_DATA))
        state.rsp = pointer
        state.rip = target
        state.refresh(cpl=3)
        cpu.retire()


def refuse_task(what: TaskSwitch, _during: object) -> NoReturn:
    """A task switch, which is refused by name."""
    raise UnsupportedGuestError(
        f"the guest switches tasks by hardware (selector {what.selector:#06x}), which a VMM that runs it de-privileged "
        "does not emulate so far: use bare-metal or vtx"
    )
