"""VMX non-root operation as each answer to an event finds it: processor, current VMCS, controls in force, VM exit.

Sources: SDM Vol. 3C §26.1 to §26.3, §28.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.x86.exceptions import Vector
from simvirt.x86.vmx import EntryControls, ExitReason, InterruptionInformation, InterruptionType, VmcsField

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.events import SoftwareInterrupt
    from simvirt.machine.processor_bus import Bus
    from simvirt.machine.vmx.vmcs import Vmcs

_F: Final = VmcsField
_REASON: Final = int(_F.EXIT_REASON)
_QUALIFICATION: Final = int(_F.EXIT_QUALIFICATION)
_LENGTH: Final = int(_F.EXIT_INSTRUCTION_LENGTH)
_INTERRUPTION: Final = int(_F.EXIT_INTERRUPTION_INFORMATION)
_VECTORING: Final = int(_F.IDT_VECTORING_INFORMATION)
_IA32E_MODE: Final = int(EntryControls.IA32E_MODE_GUEST)


class NonRootOperation:
    """A processor in VMX non-root operation.

    :ivar vmcs: the current VMCS.
    :ivar memory: host-physical memory, where the bitmaps lie.
    :ivar pin: the pin-based controls, as of the last VM entry; `primary`, `secondary` and `exception_bitmap` likewise.
    :ivar first_pause: when the loop of PAUSEs began that PAUSE-loop exiting sees; `last_pause`: its latest.
    :ivar delivering: the software interrupt that is being delivered, for an exit in the midst of its delivery.
    """

    def __init__(self, cpu: Cpu, bus: Bus, vmcs: Vmcs) -> None:
        self.cpu = cpu
        self.bus = bus
        self.vmcs = vmcs
        self.memory = cpu.engine.memory.view
        self.pin = 0
        self.primary = 0
        self.secondary = 0
        self.exception_bitmap = 0
        self.delivering: SoftwareInterrupt | None = None
        self.first_pause = self.last_pause = 0

    def exit(self, reason: ExitReason, qualification: int = 0, length: int = 0) -> ExitReason:
        """Record a VM exit in the exit-information fields."""
        fields = self.vmcs.fields
        fields[_REASON] = reason
        fields[_QUALIFICATION] = qualification
        fields[_LENGTH] = length
        fields[_INTERRUPTION] = 0
        fields[_VECTORING] = 0
        return reason

    def exception_exit(
        self, vector: int, kind: InterruptionType, error_code: int | None, qualification: int = 0, length: int = 0
    ) -> ExitReason:
        """Record a VM exit that an exception caused (SDM Vol. 3C §28.2.2)."""
        self.exit(ExitReason.EXCEPTION_OR_NMI, qualification, length)
        fields = self.vmcs.fields
        information = InterruptionInformation(vector, kind, deliver_error_code=error_code is not None)
        fields[_INTERRUPTION] = information.encode()
        fields[_F.EXIT_INTERRUPTION_ERROR_CODE] = error_code or 0
        return ExitReason.EXCEPTION_OR_NMI

    def nmi_exit(self) -> ExitReason:
        """Record a VM exit that an NMI caused; it is not pending any more."""
        self.cpu.engine.nmi_pending = False
        self.exit(ExitReason.EXCEPTION_OR_NMI)
        self.vmcs.fields[_INTERRUPTION] = InterruptionInformation(int(Vector.NMI), InterruptionType.NMI).encode()
        return ExitReason.EXCEPTION_OR_NMI

    def intercepts_exception(self, vector: int, error_code: int | None) -> bool:
        """Does the bitmap make this exception exit? For page faults the error code has a say (SDM Vol. 3C §26.2)."""
        bit = bool(self.exception_bitmap >> vector & 1)
        if vector != Vector.PF:
            return bit
        mask, match = self.vmcs.read(_F.PAGE_FAULT_ERROR_CODE_MASK), self.vmcs.read(_F.PAGE_FAULT_ERROR_CODE_MATCH)
        return bit if (error_code or 0) & mask == match else not bit

    def long_mode_changed(self) -> None:
        """With "unrestricted guest" the control "IA-32e mode guest" follows IA32_EFER.LMA (SDM Vol. 3C §28.2)."""
        fields = self.vmcs.fields
        controls = fields.get(_F.ENTRY_CONTROLS, 0)
        fields[_F.ENTRY_CONTROLS] = controls | _IA32E_MODE if self.cpu.state.long_mode else controls & ~_IA32E_MODE
