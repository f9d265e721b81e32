"""A vCPU: `run` enters the guest, and comes back when user space has to do something.

What the kernel's part of KVM does itself is done here: CPUID, control registers, MSRs, task switches, page tables where
there is no memory, by the routines of the strategy `vtx`. Ports, device memory, HLT and the end are user space's. An
access that user space has to answer is complete when `run` is called again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.kvm import registers
from simvirt.kvm.guest_debug import Debugger
from simvirt.kvm.numbers import Exit, InternalError, IoDirection
from simvirt.kvm.structures import (
    CpuidEntry,
    GuestDebug,
    Io,
    Mmio,
    Regs,
    Run,
    Sregs,
    Translation,
    reset_sregs,
)
from simvirt.kvm.user_space import NeedsUserSpace, UserSpaceBus
from simvirt.machine import device_access
from simvirt.machine.completion import finish_port_access
from simvirt.machine.delivery import Livelock, Shutdown
from simvirt.machine.engine import NEVER
from simvirt.machine.events import PhysicalAccess, PhysicalTarget, PortAccess
from simvirt.machine.faults import ProcessorFault
from simvirt.machine.fills import Access
from simvirt.machine.msrs import read_msr, write_msr
from simvirt.machine.vmx.non_root import HostStop, VmEntryError
from simvirt.strategies.vtx import delivery, interpreter, tasks, vcpu
from simvirt.vmm.exit_log import ExitLog
from simvirt.x86.addresses import Gpa, Gva
from simvirt.x86.exceptions import Vector
from simvirt.x86.operations import Operation
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import ExitReason, IoInstruction, VmcsField

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from simvirt.machine.cpu import Cpu
    from simvirt.strategies.vtx.vm_memory import VmMemory
    from simvirt.vmm.host import Host
    from simvirt.x86.cpuid import CpuModel

_F: Final = VmcsField
_R: Final = ExitReason
_VALID: Final = 1 << 31
_TO_PAGE: Final = 1 << 8
_FAR_TRANSFERS: Final = frozenset({Operation.CALL_FAR, Operation.JMP_FAR, Operation.RET_FAR, Operation.IRET})


class Vcpu:
    """One vCPU.

    :ivar kvm_run: what user space maps.
    """

    def __init__(self, host: Host, cpu: Cpu, memory: VmMemory, model: CpuModel) -> None:
        self._host = host
        self._cpu = cpu
        self._memory = memory
        self._cpuid: dict[tuple[int, int], CpuidEntry] = {}
        self._bus = UserSpaceBus(cpu, memory, model)
        self._vcpu = vcpu.Vcpu(cpu, self._bus, memory, ExitLog())
        self.kvm_run = Run()
        cpu.engine.set_ept(memory.ept.pointer.encode())
        self._complete: Callable[[], Exit | None] | None = None
        self._interrupt: int | None = None
        self._behind_nmi = False
        self._debugger = Debugger(self._vcpu)
        self.set_sregs(reset_sregs())
        self.set_regs(Regs(rip=0xFFF0, rdx=0x600))

    # ---------------------------------------------------------------------------------------- KVM_RUN

    def run(self, max_instructions: int | None = None) -> Exit:
        """KVM_RUN: complete what user space has answered, and run the guest until it is asked for again.

        `max_instructions`, which the kernel does not have, ends it with INTR after exactly so many; so does
        `kvm_run.immediate_exit`, before any.

        :return: `kvm_run.exit_reason`.
        """
        self._on()
        run = self.kvm_run
        run.exit_reason = self._run(NEVER if max_instructions is None else self._cpu.count + max_instructions)
        run.if_flag = self._cpu.state.interrupt_flag
        run.ready_for_interrupt_injection = self._interrupt is None and self._cpu.interruptible
        return run.exit_reason

    def _run(self, limit: int) -> Exit:
        complete, self._complete = self._complete, None
        end = self._cpu.count + 1 if self._debugger.steps else NEVER
        try:
            if complete is not None and (again := complete()) is not None:
                return again
            if self.kvm_run.immediate_exit:
                return Exit.INTR
            self._vcpu.set_window(self.kvm_run.request_interrupt_window)
            while True:
                self._inject()
                reason = self._vcpu.non_root.enter(min(limit, end))
                if isinstance(reason, HostStop):
                    return self._stopped(reason, stepped=self._cpu.count >= end)
                exit_ = self._handle(reason)
                if exit_ is not None:
                    return exit_
        except Shutdown:
            return Exit.SHUTDOWN
        except Livelock:
            return Exit.INTR
        except VmEntryError as error:
            return self._fail_entry(error.error)

    def _inject(self) -> None:
        """Give the guest what waits for it: an NMI first, and an interrupt, if there is one too, behind it."""
        if self._vcpu.nmi_pending:
            self._vcpu.offer_nmi()
            self._behind_nmi = self._vcpu.injects
        if self._interrupt is None:
            return
        if self._vcpu.injects or (self._behind_nmi and not self._cpu.interruptible):
            self._vcpu.set_window(True)
            return
        self._vcpu.inject_interrupt(self._interrupt)
        self._interrupt, self._behind_nmi = None, False
        self._vcpu.set_window(self.kvm_run.request_interrupt_window)

    def _stopped(self, reason: HostStop, *, stepped: bool) -> Exit:
        """The simulation has stopped the guest, for a debugger or because it was to run so long."""
        if reason is HostStop.BREAKPOINT:
            self.kvm_run.debug = self._debugger.hit()
        elif reason is HostStop.LIMIT and stepped:
            self.kvm_run.debug = self._debugger.stepped()
        else:
            return Exit.INTR
        return Exit.DEBUG

    def _handle(self, reason: ExitReason) -> Exit | None:
        """A VM exit: None to go on in the guest."""
        own = _OWN.get(reason)
        if own is not None:
            own(self._vcpu)
            return None
        theirs = _THEIRS.get(reason)
        if theirs is None:
            return self._internal(InternalError.UNEXPECTED_EXIT_REASON, reason)
        return theirs(self)

    def _fail_entry(self, why: int) -> Exit:
        self.kvm_run.hardware_entry_failure_reason = why
        return Exit.FAIL_ENTRY

    def _internal(self, error: InternalError, *data: int) -> Exit:
        self.kvm_run.suberror, self.kvm_run.internal_data = error, data
        return Exit.INTERNAL_ERROR

    # ---------------------------------------------------------------------------------------- what user space does

    def _hlt(self) -> Exit:
        self._vcpu.advance()
        return Exit.HLT

    def _bad_guest_state(self) -> Exit:
        return self._fail_entry(self._vcpu.vmcs.fields[_F.EXIT_REASON])

    def _int3(self) -> Exit | None:
        """INT3 exits while a debugger in user space has put it there; there is no NMI of the PC's."""
        if self._vcpu.vmcs.read(_F.EXIT_INTERRUPTION_INFORMATION) & 0xFF != Vector.BP:
            return None
        self.kvm_run.debug = self._debugger.int3()
        return Exit.DEBUG

    def _nmi_window(self) -> None:
        self._vcpu.set_nmi_window(False)

    def _window(self) -> Exit | None:
        self._vcpu.set_window(False)
        if self._interrupt is not None:
            return None
        return Exit.IRQ_WINDOW_OPEN

    def _answer_cpuid(self) -> None:
        """CPUID by the entries that were set; one that is not there is all zero."""
        state = self._cpu.state
        leaf, index = state[GeneralRegister.RAX] & 0xFFFF_FFFF, state[GeneralRegister.RCX] & 0xFFFF_FFFF
        entry = self._cpuid.get((leaf, index)) or self._cpuid.get((leaf, -1)) or CpuidEntry(leaf)
        state[GeneralRegister.RAX], state[GeneralRegister.RBX] = entry.eax, entry.ebx
        state[GeneralRegister.RCX], state[GeneralRegister.RDX] = entry.ecx, entry.edx
        self._vcpu.advance()

    def _io(self) -> Exit | None:
        """A port: one access, or one iteration of a string instruction."""
        cpu, fields_ = self._cpu, self._vcpu.vmcs.fields
        io = IoInstruction.decode(fields_[_F.EXIT_QUALIFICATION])
        size = io.size
        address_size = 2 << (fields_[_F.EXIT_INSTRUCTION_INFORMATION] >> 7 & 7) if io.string else 0
        value = 0
        if not io.is_in:
            value = cpu.state.register(GeneralRegister.RAX, size)
            if io.string:
                try:
                    with delivery.in_place_of_processor(self._vcpu):
                        at = fields_[_F.GUEST_LINEAR_ADDRESS]
                        value = cpu.memory.read_integer(at, size, user=cpu.state.cpl == 3)
                except ProcessorFault as fault:
                    interpreter.inject_fault(self._vcpu, fault)
                    return None
        run_io = Io(IoDirection(io.is_in ^ 1), size, io.port, 1, bytearray(value.to_bytes(size, "little")))
        event = PortAccess(
            io.port,
            size,
            not io.is_in,
            value,
            fields_[_F.EXIT_INSTRUCTION_LENGTH],
            False,
            io.string,
            io.rep,
            address_size,
        )
        self.kvm_run.io = run_io
        self._complete = lambda: self._finish_io(event, run_io)
        return Exit.IO

    def _finish_io(self, event: PortAccess, io: Io) -> None:
        value = int.from_bytes(io.data[: event.size], "little") if not event.is_out else event.value or 0
        self._vcpu.log.emulated_instructions += 1
        try:
            with delivery.in_place_of_processor(self._vcpu):
                finish_port_access(self._cpu, event, value)
        except ProcessorFault as fault:
            interpreter.inject_fault(self._vcpu, fault)

    def _ept_violation(self) -> Exit | None:
        """No memory of the VM's, or read-only memory: user space has a device there."""
        fields_ = self._vcpu.vmcs.fields
        qualification, gpa = fields_[_F.EXIT_QUALIFICATION], Gpa(fields_[_F.GUEST_PHYSICAL_ADDRESS])
        if not qualification & _TO_PAGE:
            self._memory.serve_page_table(gpa)
            return None
        if fields_[_F.IDT_VECTORING_INFORMATION] & _VALID:
            return self._internal(InternalError.DELIVERY_EV, fields_[_F.IDT_VECTORING_INFORMATION], _R.EPT_VIOLATION)
        if qualification & 4 or self._cpu.instruction().operation in _FAR_TRANSFERS:
            return self._internal(InternalError.EMULATION)
        access = Access.WRITE if qualification & 2 else Access.READ
        linear = Gva(fields_[_F.GUEST_LINEAR_ADDRESS])
        event = PhysicalAccess(PhysicalTarget.MMIO, gpa, linear, access, fields_[_F.EXIT_INSTRUCTION_LENGTH])
        return self._access(event)

    def _access(self, event: PhysicalAccess) -> Exit | None:
        """Run the instruction, as far as user space has answered."""
        bus, before = self._bus, self._cpu.count
        bus.begin()
        try:
            met = device_access.complete(self._cpu, bus, event)
        except NeedsUserSpace as needs:
            mmio = self.kvm_run.mmio = Mmio(needs.gpa, len=needs.size)
            self._complete = lambda: self._answered(event, mmio)
            return Exit.MMIO
        bus.done()
        interpreter.settle(self._vcpu, met, before)
        return self._next_write()

    def _answered(self, event: PhysicalAccess, mmio: Mmio) -> Exit | None:
        self._bus.answers.append(int.from_bytes(mmio.data[: mmio.len], "little"))
        return self._access(event)

    def _next_write(self) -> Exit | None:
        if not self._bus.writes:
            return None
        gpa, size, value = self._bus.writes.pop(0)
        self.kvm_run.mmio = Mmio(gpa, bytearray(value.to_bytes(8, "little")), size, is_write=True)
        self._complete = self._next_write
        return Exit.MMIO

    # ---------------------------------------------------------------------------------------- registers

    def get_regs(self) -> Regs:
        """KVM_GET_REGS."""
        self._on()
        return registers.read_regs(self._vcpu)

    def set_regs(self, regs: Regs) -> None:
        """KVM_SET_REGS."""
        self._on()
        registers.write_regs(self._vcpu, regs)

    def get_sregs(self) -> Sregs:
        """KVM_GET_SREGS."""
        self._on()
        return registers.read_sregs(self._vcpu)

    def set_sregs(self, sregs: Sregs) -> None:
        """KVM_SET_SREGS. What VM entry does not take shows when the guest is entered: FAIL_ENTRY."""
        self._on()
        registers.write_sregs(self._vcpu, sregs)

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """KVM_GET_MSRS: up to the first that there is not."""
        self._on()
        found: dict[int, int] = {}
        for index in indices:
            try:
                found[index] = read_msr(self._cpu, self._bus, index)
            except ProcessorFault:
                break
        return found

    def set_msrs(self, values: Mapping[int, int]) -> int:
        """KVM_SET_MSRS: how many were set, up to the first that is not or does not take its value."""
        self._on()
        for number, (index, value) in enumerate(values.items()):
            try:
                write_msr(self._cpu, self._bus, index, value)
            except ProcessorFault:
                return number
            self._vcpu.vmcs.guest_changed = True
        return len(values)

    def set_cpuid2(self, entries: Iterable[CpuidEntry]) -> None:
        """KVM_SET_CPUID2: what CPUID answers; before that, and for a leaf that is not among them, zeros."""
        self._cpuid = {(e.function, e.index if e.flags & 1 else -1): e for e in entries}

    def get_cpuid2(self) -> list[CpuidEntry]:
        """KVM_GET_CPUID2."""
        return list(self._cpuid.values())

    def interrupt(self, irq: int) -> None:
        """KVM_INTERRUPT: inject a vector when the guest is entered next, which has to be able to take it by then."""
        self._interrupt = irq & 0xFF

    def nmi(self) -> None:
        """KVM_NMI: the guest gets an NMI as soon as it can take it."""
        self._vcpu.nmi_pending = True

    def set_guest_debug(self, debug: GuestDebug) -> None:
        """KVM_SET_GUEST_DEBUG: end KVM_RUN with DEBUG behind each instruction, at INT3, or at breakpoints.

        :raises KvmError: EINVAL.
        """
        self._on()
        self._debugger.set(debug)

    def translate(self, linear_address: int) -> Translation:
        """KVM_TRANSLATE, by the guest's page tables as they are."""
        self._on()
        return registers.translate(self._vcpu, linear_address)

    def _on(self) -> None:
        self._host.switch_to(self._cpu)


_OWN: Final = {
    _R.TRIPLE_FAULT: interpreter.triple_fault,
    _R.TASK_SWITCH: tasks.switch,
    _R.INVD: interpreter.cache,
    **dict.fromkeys(
        (
            _R.VMCALL, _R.VMCLEAR, _R.VMLAUNCH, _R.VMPTRLD, _R.VMPTRST, _R.VMREAD, _R.VMRESUME, _R.VMWRITE, _R.VMXOFF,
            _R.VMXON, _R.INVEPT, _R.INVVPID,
        ),
        interpreter.undefined,
    ),
    _R.CR_ACCESS: interpreter.control_register,
    _R.RDMSR: interpreter.read_msr_,
    _R.WRMSR: interpreter.write_msr_,
}  # fmt: skip
"""The exits that the kernel's part deals with."""

_THEIRS: Final = {
    _R.CPUID: Vcpu._answer_cpuid,
    _R.HLT: Vcpu._hlt,
    _R.IO_INSTRUCTION: Vcpu._io,
    _R.EPT_VIOLATION: Vcpu._ept_violation,
    _R.INTERRUPT_WINDOW: Vcpu._window,
    _R.NMI_WINDOW: Vcpu._nmi_window,
    _R.EXCEPTION_OR_NMI: Vcpu._int3,
    _R.ENTRY_FAILURE_GUEST_STATE: Vcpu._bad_guest_state,
}
"""The exits by which it may leave for user space."""
