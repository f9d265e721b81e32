"""The virtual CPU as the VMM's routines see it: the physical CPU, the VMCS, and the VM's own bus.

What a routine does to the guest it does here: step over an instruction, inject an event, ask for an exit. Nothing here
knows which routine answers which exit: that is the dispatcher's, and `processor` joins the two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.vmx.control_registers import VTPR, guest_view
from simvirt.machine.vmx.non_root import NonRootProcessor
from simvirt.machine.vmx.vmcs import Vmcs
from simvirt.strategies.vtx import controls
from simvirt.strategies.vtx.vm_bus import VmBus
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import DR6_BREAKPOINTS, Efer
from simvirt.x86.vmx import (
    EntryControls,
    ExitReason,
    InterruptionInformation,
    InterruptionType,
    PrimaryControls,
    VmcsField,
)

if TYPE_CHECKING:
    from simvirt.machine.board import Board
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.processor_bus import Bus
    from simvirt.strategies.vtx.vm_memory import VmMemory
    from simvirt.vmm.exit_log import ExitLog
    from simvirt.vmm.kvm_interface import KvmInterface
    from simvirt.x86.cpuid import CpuModel

_F: Final = VmcsField
_PRIMARY: Final = int(_F.PRIMARY_CONTROLS)
_LENGTH: Final = int(_F.EXIT_INSTRUCTION_LENGTH)
_LMA_CONTROL: Final = int(EntryControls.IA32E_MODE_GUEST)
_WINDOW: Final = int(PrimaryControls.INTERRUPT_WINDOW_EXITING)
_NMI_WINDOW: Final = int(PrimaryControls.NMI_WINDOW_EXITING)
_INJECTION: Final = int(_F.ENTRY_INTERRUPTION_INFORMATION)
_VALID: Final = 1 << 31
_NMI: Final = InterruptionInformation(int(Vector.NMI), InterruptionType.NMI).encode()


class Vcpu:
    """One virtual CPU; whoever answers at the other end of its bus.

    :ivar cpu: the physical CPU; the guest's state lives in it.
    :ivar vmcs: what makes the guest exit, and why it did.
    :ivar non_root: `cpu` in VMX non-root operation under `vmcs`.
    :ivar bus: what the VM has outside its processor.
    :ivar log: of what the VMM does.
    :ivar memory: the VM's memory, with its EPT.
    :ivar paravirtual: what the VMM offers to a guest that knows of it, if anything.
    :ivar nmi_pending: has the virtual NMI pin seen an edge, and the guest no NMI for it yet?
    """

    def __init__(
        self,
        cpu: Cpu,
        bus: Bus,
        memory: VmMemory,
        log: ExitLog,
    ) -> None:
        self.cpu = cpu
        self.bus = bus
        self.log = log
        self.memory = memory
        self.paravirtual: KvmInterface | None = None
        self.nmi_pending = False
        self.vmcs = Vmcs()
        self.vmcs.write(_F.EPT_POINTER, memory.ept.pointer.encode())
        controls.set_up(self.vmcs, cpu.engine.memory.view, memory.pages, bus.cpu_model)
        self.non_root = NonRootProcessor(cpu, bus, self.vmcs)

    @property
    def count(self) -> int:
        """Guest instructions retired."""
        return self.cpu.engine.count

    @property
    def reason(self) -> ExitReason:
        """The basic exit reason of the last exit."""
        return ExitReason(self.vmcs.read(_F.EXIT_REASON) & 0xFFFF)

    def advance(self) -> None:
        """The VMM has emulated the guest's instruction: step over it, and count it as the guest's."""
        self.log.emulated_instructions += 1
        self.cpu.advance(self.vmcs.fields[_LENGTH])

    def guest_state(self) -> ArchitecturalState:
        """The processor's state, with CR0 and CR4 as the guest reads them."""
        vmcs = self.vmcs
        state = ArchitecturalState.of(self.cpu.state)
        cr0, cr2, cr3, cr4 = state.control
        return replace(state, control=(guest_view(vmcs, 0, cr0), cr2, cr3, guest_view(vmcs, 4, cr4)))

    def set_guest_state(self, state: ArchitecturalState) -> None:
        """Load the guest's state: masked bits of CR0 and CR4 go to the read shadows."""
        cpu, vmcs = self.cpu, self.vmcs
        cr0, cr2, cr3, cr4 = state.control
        vmcs.write(_F.CR0_READ_SHADOW, cr0)
        vmcs.write(_F.CR4_READ_SHADOW, cr4)
        real = (cr0 & ~controls.CR0_MASK, cr2, cr3, cr4 | controls.CR4_MASK)
        cpu.take_up_state(replace(state, control=real))
        cpu.engine.flush_tlb()
        entry = vmcs.read(_F.ENTRY_CONTROLS)
        vmcs.write(_F.ENTRY_CONTROLS, entry | _LMA_CONTROL if state.efer & int(Efer.LMA) else entry & ~_LMA_CONTROL)
        vmcs.adopt(cpu)

    # ---------------------------------------------------------------------------------------- events

    @property
    def window(self) -> bool:
        """Does the guest exit as soon as it can take an interrupt?"""
        return bool(self.vmcs.fields[_PRIMARY] & _WINDOW)

    def set_window(self, window: bool) -> None:
        """An interrupt waits and cannot be taken yet: exit as soon as it can. Or no more."""
        primary = self.vmcs.read(_F.PRIMARY_CONTROLS)
        self.vmcs.write(_F.PRIMARY_CONTROLS, primary | _WINDOW if window else primary & ~_WINDOW)

    @property
    def injects(self) -> bool:
        """Will the next VM entry inject an event?"""
        return bool(self.vmcs.fields.get(_INJECTION, 0) & _VALID)

    @property
    def nmi_ready(self) -> bool:
        """Is a virtual NMI pending that neither another, a shadow nor another event holds back?"""
        state = self.cpu.state
        return self.nmi_pending and not (state.nmi_blocked or state.interrupt_shadow or self.injects)

    def offer_nmi(self) -> None:
        """A virtual NMI is pending: have the next VM entry inject it, or the guest exit as soon as it can take it."""
        ready = self.nmi_ready
        if ready:
            self.nmi_pending = False
            self.vmcs.write(_F.ENTRY_INTERRUPTION_INFORMATION, _NMI)
        self.set_nmi_window(not ready)

    def set_nmi_window(self, window: bool) -> None:
        """Exit as soon as the guest can take an NMI, or no more."""
        primary = self.vmcs.read(_F.PRIMARY_CONTROLS)
        if bool(primary & _NMI_WINDOW) is not window:
            self.vmcs.write(_F.PRIMARY_CONTROLS, primary ^ _NMI_WINDOW)

    def inject_interrupt(self, vector: int) -> None:
        """Have the next VM entry deliver a virtual interrupt."""
        information = InterruptionInformation(vector, InterruptionType.EXTERNAL_INTERRUPT)
        self.vmcs.write(_F.ENTRY_INTERRUPTION_INFORMATION, information.encode())

    def inject_exception(
        self, vector: int, error_code: int | None = None, cr2: int | None = None, condition: int = 0
    ) -> None:
        """Have the next VM entry deliver an exception, RIP being where its handler returns to.

        Event injection sets neither CR2 nor DR6 (SDM Vol. 3C §27.6.1), so that is done here.
        """
        vmcs, state = self.vmcs, self.cpu.state
        if cr2 is not None:
            state.set_control_register(2, cr2)
        if condition:
            state.set_debug_register(6, state.debug_register(6) & ~DR6_BREAKPOINTS | condition)
        protected = self.cpu.state.protected_mode
        information = InterruptionInformation(
            vector, InterruptionType.HARDWARE_EXCEPTION, deliver_error_code=error_code is not None and protected
        )
        vmcs.write(_F.ENTRY_INTERRUPTION_INFORMATION, information.encode())
        vmcs.write(_F.ENTRY_EXCEPTION_ERROR_CODE, error_code or 0)


class BoardVcpu(Vcpu):
    """A virtual CPU whose VM has a board, the VMM's models of a PC's devices.

    :ivar board: those devices; `bus` is how the processor reaches them.
    :ivar local_apic: one of them, whose task priority the guest writes by CR8 without an exit.
    """

    def __init__(self, cpu: Cpu, board: Board, memory: VmMemory, cpu_model: CpuModel, log: ExitLog) -> None:
        self.board = board
        super().__init__(cpu, VmBus(cpu, board, memory.space, cpu_model), memory, log)
        self.local_apic = self.bus.local_apic
        if self.local_apic is not None:
            controls.shadow_task_priority(self.vmcs, memory.pages)
            self.local_apic.keep_task_priority_in(cpu.engine.memory.view, memory.pages.virtual_apic + VTPR)
            self.local_apic.on_held_back = self._set_tpr_threshold

    def _set_tpr_threshold(self, held_back: int) -> None:
        """A task priority below this lets an interrupt through: the write that makes it so is to exit."""
        self.vmcs.write(_F.TPR_THRESHOLD, held_back)
