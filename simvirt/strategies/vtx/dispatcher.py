"""The dispatcher of the strategy `vtx`: one table from exit reason to handler.

It is the module D of Popek and Goldberg's VMM (1974). A handler returns None to enter the guest again at once, or
why the machine's loop has to look first: devices may have changed, or the virtual processor sleeps. A test checks
that every reason that the chosen controls can produce has its row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError
from simvirt.machine.machine import Stop
from simvirt.machine.vmx import entry_checks
from simvirt.machine.vmx.entry_rule import CheckKind
from simvirt.strategies.vtx import interpreter, tasks
from simvirt.vmm.exit_log import Intervention
from simvirt.x86.addresses import Gpa
from simvirt.x86.vmx import ExitReason, VmcsField

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.strategies.vtx.vcpu import BoardVcpu, Vcpu

    Handler = Callable[["BoardVcpu"], Stop | None]


def _external_interrupt(_vcpu: Vcpu) -> Stop:
    """The PC's timer: the loop lets the VM's devices do what is due."""
    return Stop.LIMIT


def _interrupt_window(vcpu: Vcpu) -> Stop:
    """The guest can take the interrupt that waits: the loop injects it, and the window has served."""
    vcpu.set_window(False)
    return Stop.WINDOW


def _nmi(_vcpu: Vcpu) -> None:
    """An NMI of the PC's, which is none of the guest's, and on this PC nobody else's."""


def _nmi_window(vcpu: Vcpu) -> Stop:
    """The guest can take the NMI that waits: the next run injects it."""
    vcpu.set_nmi_window(False)
    return Stop.HANDLED


def _entry_failure(vcpu: Vcpu) -> None:
    check = entry_checks.first_failure(vcpu.vmcs, frozenset({CheckKind.GUEST_STATE}))
    why = f"{check.name} ({check.section})" if check else "no check of ours fails"
    raise MonitorError(f"VM entry failed for the guest state (exit reason 33); what does not hold: {why}")


def _misconfigured(vcpu: Vcpu) -> None:
    gpa = vcpu.vmcs.read(VmcsField.GUEST_PHYSICAL_ADDRESS)
    entries = ", ".join(f"level {step.level}: {step.value:#x}" for step in vcpu.memory.ept.walk(Gpa(gpa)))
    raise MonitorError(f"the VMM's EPT has an entry that cannot be (exit reason 49), on the way to {gpa:#x}: {entries}")


_R: Final = ExitReason
_EMULATED: Final = Intervention.EMULATED

DISPATCH: Final[dict[ExitReason, tuple[Handler, Intervention]]] = {
    _R.EXCEPTION_OR_NMI: (_nmi, Intervention.EVENT),
    _R.EXTERNAL_INTERRUPT: (_external_interrupt, Intervention.EVENT),
    _R.TPR_BELOW_THRESHOLD: (interpreter.task_priority_fell, Intervention.EVENT),
    _R.TRIPLE_FAULT: (interpreter.triple_fault, Intervention.EVENT),
    _R.INTERRUPT_WINDOW: (_interrupt_window, Intervention.EVENT),
    _R.NMI_WINDOW: (_nmi_window, Intervention.EVENT),
    _R.TASK_SWITCH: (tasks.switch, _EMULATED),
    _R.CPUID: (interpreter.cpuid, _EMULATED),
    _R.HLT: (interpreter.halt, _EMULATED),
    _R.INVD: (interpreter.cache, _EMULATED),
    _R.VMCALL: (interpreter.hypercall, _EMULATED),
    _R.VMCLEAR: (interpreter.undefined, _EMULATED),
    _R.VMLAUNCH: (interpreter.undefined, _EMULATED),
    _R.VMPTRLD: (interpreter.undefined, _EMULATED),
    _R.VMPTRST: (interpreter.undefined, _EMULATED),
    _R.VMREAD: (interpreter.undefined, _EMULATED),
    _R.VMRESUME: (interpreter.undefined, _EMULATED),
    _R.VMWRITE: (interpreter.undefined, _EMULATED),
    _R.VMXOFF: (interpreter.undefined, _EMULATED),
    _R.VMXON: (interpreter.undefined, _EMULATED),
    _R.INVEPT: (interpreter.undefined, _EMULATED),
    _R.INVVPID: (interpreter.undefined, _EMULATED),
    _R.CR_ACCESS: (interpreter.control_register, _EMULATED),
    _R.IO_INSTRUCTION: (interpreter.port, _EMULATED),
    _R.RDMSR: (interpreter.read_msr_, _EMULATED),
    _R.WRMSR: (interpreter.write_msr_, _EMULATED),
    _R.ENTRY_FAILURE_GUEST_STATE: (_entry_failure, Intervention.EVENT),
    _R.EPT_VIOLATION: (interpreter.memory, Intervention.MEMORY),
    _R.EPT_MISCONFIGURATION: (_misconfigured, Intervention.EVENT),
}
"""Handler and kind of intervention for each exit reason that this VMM's controls can produce."""
