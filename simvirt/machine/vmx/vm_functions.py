"""VM functions: what a guest may ask of the processor without a VM exit (SDM Vol. 3C §26.5.6).

There is one: function 0, EPTP switching, by which a guest chooses another of the EPTs that its VMM has listed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.vmx.capabilities import EPTP_SWITCHING
from simvirt.machine.vmx.control_checks import is_ept_pointer
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import ExitReason, SecondaryControls, VmcsField

if TYPE_CHECKING:
    from simvirt.machine.vmx.non_root_operation import NonRootOperation

_F: Final = VmcsField
_VIRTUALIZATION_EXCEPTIONS: Final = int(SecondaryControls.EPT_VIOLATION_VE)
_LIST_ENTRIES: Final = 512


def call(non_root: NonRootOperation, length: int) -> ExitReason | None:
    """VMFUNC, which is enabled: the function, or a VM exit where it is not enabled or fails."""
    cpu = non_root.cpu
    function = cpu.state.register(GeneralRegister.RAX, 4)
    if function or not non_root.vmcs.fields.get(_F.VM_FUNCTION_CONTROLS, 0) & EPTP_SWITCHING:
        return non_root.exit(ExitReason.VMFUNC, 0, length)
    pointer = _listed_pointer(non_root, cpu.state.register(GeneralRegister.RCX, 4))
    if pointer is None:
        return non_root.exit(ExitReason.VMFUNC, 0, length)
    non_root.vmcs.fields[_F.EPT_POINTER] = pointer
    if non_root.secondary & _VIRTUALIZATION_EXCEPTIONS:
        non_root.vmcs.fields[_F.EPTP_INDEX] = cpu.state.register(GeneralRegister.RCX, 2)
    cpu.engine.set_ept(pointer)
    cpu.advance(length)
    return None


def _listed_pointer(non_root: NonRootOperation, index: int) -> int | None:
    """The EPT pointer at `index` of the EPTP list; None if it is one that VM entry would refuse."""
    if index >= _LIST_ENTRIES:
        return None
    at = non_root.vmcs.fields.get(_F.EPTP_LIST_ADDRESS, 0) + 8 * index
    pointer = int.from_bytes(bytes(non_root.memory[at : at + 8]).ljust(8, b"\xff"), "little")
    return pointer if is_ept_pointer(non_root.vmcs, pointer) else None
