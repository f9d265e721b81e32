"""The CPU of the simulated PC: runs until something happens that a processor alone does not settle.

`Cpu.run` returns an `Event` of the closed union in `machine.events`. What becomes of it is decided above: the bare PC
has the hardware complete it (`machine.completion`), a VMM emulates it, root mode turns it into a VM exit.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from simvirt.errors import UsageError
from simvirt.machine import (
    exact_instructions,
    floating_exceptions,
    long_mode_segments,
    misread_instructions,
    self_test,
)
from simvirt.machine.alignment import is_aligned
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.breakpoints import NO_HITS, Breakpoints, DataAccess, Hits
from simvirt.machine.core import opcode
from simvirt.machine.delivery import Delivery
from simvirt.machine.engine import DELIVER_NOTHING, Engine
from simvirt.machine.events import (
    DebuggerHit,
    EngineFault,
    EptViolated,
    Event,
    ExceptionRaised,
    FlagsAccess,
    Interrupted,
    LimitReached,
    NonMaskableInterrupt,
    PhysicalAccess,
    PhysicalTarget,
    SystemCall,
    WatchedWrite,
    ept_event,
)
from simvirt.machine.far_transfers import FarTransfers
from simvirt.machine.faults import EptRefused, ProcessorFault, general_protection
from simvirt.machine.fills import EPT_REFUSALS, Access, PdpteLoad, Refusal, Verdict
from simvirt.machine.linear_memory import LinearMemory
from simvirt.machine.native.layout import NativeEvent
from simvirt.machine.segment_loads import SegmentLoads
from simvirt.machine.stack import Stack
from simvirt.machine.svm import Intercepts, SvmExit
from simvirt.machine.svm_events import port_access, svm_event, wants_iret
from simvirt.machine.task_switch import TaskSwitch, switch_tasks, task_gate_target
from simvirt.x86.addresses import PAGE_SHIFT, Gva
from simvirt.x86.decode import decode, used_memory
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Dr6, Eflags, iopl
from simvirt.x86.instruction import Flow, GeneralOperand, Repeat
from simvirt.x86.operations import Operation
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from simvirt.machine.delivery_log import FaultRecord
    from simvirt.machine.interrupts import Interruption
    from simvirt.machine.memory import HostMemory
    from simvirt.machine.state import ProcessorState
    from simvirt.x86.instruction import Instruction, MemoryOperand

_TF: Final = int(Eflags.TF)
_RF: Final = int(Eflags.RF)
_IF: Final = int(Eflags.IF)
_LARGEST_OPERAND: Final = 16
_LONGEST_STRING: Final = 0x7FFF_FFFF


class Cpu(Delivery):
    """One processor.

    Delivery into handlers is its base class (`machine.delivery`).
    """

    def __init__(self, memory: HostMemory) -> None:
        self_test.verify()
        engine = Engine(memory)
        self._assemble(engine, engine.state, LinearMemory(engine))

    @classmethod
    def on(cls, engine: Engine) -> Cpu:
        """The processor of one world among several that take turns on an engine (`machine.world`)."""
        cpu = cls.__new__(cls)
        cpu._assemble(engine, engine.state, LinearMemory(engine))
        return cpu

    def _assemble(self, engine: Engine, state: ProcessorState, memory: LinearMemory) -> None:
        self.prepare_delivery(engine, state, memory)
        self.breakpoints = Breakpoints(engine, state)
        self._noted = NO_HITS
        self._stop_requested = False
        self.loads = self._segment_loads()
        self.far_transfers = FarTransfers(self, self.loads, self.switch_task)
        self.task_switch_filter: Callable[[TaskSwitch, Interruption | None], None] | None = None
        """Sees every task switch before it begins, and what goes through a task gate; may raise something instead."""

    def _segment_loads(self) -> SegmentLoads:
        return SegmentLoads(self)

    # ---------------------------------------------------------------------------------------- running

    @property
    def count(self) -> int:
        """Instructions retired.

        A repeated string instruction counts one for each iteration and one for the test that ends it.
        """
        return self.engine.count

    @count.setter
    def count(self, value: int) -> None:
        self.engine.count = value
        self.engine.deliveries.forget_count()

    @property
    def fault_chain(self) -> deque[FaultRecord]:
        """The exceptions delivered last, the newest at the end."""
        return self.engine.deliveries.fault_chain

    def request_stop(self) -> None:
        """Make the current or the next run return `Interrupted` soon. May be called from a signal handler."""
        self._stop_requested = True

    def forget_stop(self) -> None:
        """Take back a request to stop that has not been answered yet."""
        self._stop_requested = False

    def run(self, limit: int, *, window: bool = False, deliver: int = DELIVER_NOTHING) -> Event:
        """Run until an event, or until exactly `limit` instructions are retired in all.

        `window` asks for an `InterruptWindow` as soon as an interrupt can be taken. Of `deliver`, what is in
        `native_delivery` too goes to the guest's handlers and is no event (`Engine.run`).
        """
        engine = self.engine
        if self._noted is not NO_HITS:
            self._noted = NO_HITS
        breakpoints = self.breakpoints
        if breakpoints.hit:
            breakpoints.hit = ()
        if breakpoints.pending:
            return self._debugger_hit()
        deliver = deliver & self.native_delivery if self.on_delivery is None else DELIVER_NOTHING
        while True:
            if self._stop_requested:
                self._stop_requested = False
                return Interrupted()
            if engine.nmi_pending or self.nmi_window:
                event = self._run_to_nmi(limit, window, deliver)
            else:
                native = engine.run(limit, window=window, deliver=deliver)
                if native is _LIMIT:
                    return _LIMIT_REACHED
                event = port_access(self) if native is _IO else self._event(native)
            if event is not None:
                return event

    @property
    def takes_orders(self) -> bool:
        """Can a standing order be left to native code? Not while anybody wants to see what would be done for it."""
        native = self.native_delivery != DELIVER_NOTHING and self.on_delivery is None
        return native and not (self.engine.nmi_pending or self.nmi_window)

    def _run_to_nmi(self, limit: int, window: bool, deliver: int) -> Event | None:
        """An NMI is pending: it comes at the next boundary where neither a shadow nor another NMI holds it back."""
        engine = self.engine
        if engine.count < limit and self.nmi_ready:
            return NonMaskableInterrupt()
        if self.state.interrupt_shadow:  # over with the next instruction, or with the handler of what that meets
            end, deliver = min(limit, engine.count + 1), DELIVER_NOTHING
        else:
            end = limit
        event = self._event(engine.run(end, window=window, deliver=deliver))
        return None if event is _LIMIT_REACHED and engine.count < limit else event

    def _event(self, native: NativeEvent) -> Event | None:
        """What the engine returned, as a typed event; None when the run simply goes on."""
        engine = self.engine
        if native is _IO:
            return port_access(self)
        if native is _SVM_EXIT:
            return svm_event(self)
        if native is _LIMIT:
            return _LIMIT_REACHED
        if native is NativeEvent.REFUSED_FILL:
            return self._refused_fill(engine.verdict)
        if native is NativeEvent.SYSTEM_CALL:
            return SystemCall(engine.system_call_is_sysenter, engine.instruction_length)
        if native is NativeEvent.BREAKPOINT:
            return self._breakpoint()
        if native is NativeEvent.INSTRUCTION:
            return self._instruction()
        if native is NativeEvent.ALIGNMENT:
            return self._check_alignment()
        if native is NativeEvent.DEBUG_REGISTERS:
            self.breakpoints.follow_debug_registers()
            return None
        if native is NativeEvent.STRING_LENGTH:
            return self._long_strings()
        if native is NativeEvent.FLOATING:
            return self._floating()
        return None if native is NativeEvent.SLICE else EngineFault(engine.status)

    def _long_strings(self) -> Event | None:
        """PCMPESTRI or PCMPESTRM with a length whose absolute value is 2**31 or more: it runs with one that is less.

        Any length above 16 means 16 (SDM Vol. 2B "PCMPESTRI"), but the engine's absolute value of these is negative,
        and it would write outside of its own memory. The instruction changes neither register.
        """
        state = self.state
        prefixes, _ = opcode(self)
        sign = 1 << (63 if prefixes.rex_w else 31)
        lengths = {register: state[register] for register in (GeneralRegister.RAX, GeneralRegister.RDX)}
        for register, length in lengths.items():
            if abs((length & sign - 1) - (length & sign)) > _LONGEST_STRING:
                state[register] = _LONGEST_STRING
        try:
            native = self.engine.run(self.engine.count + 1)
        finally:
            for register, length in lengths.items():
                state[register] = length
        return None if native is NativeEvent.LIMIT else self._event(native)

    def run_natively(self) -> Event | None:
        """Run the instruction at RIP alone, with no intercepts but those that every instruction has.

        :return: None when it is done, or the event that it met.
        """
        engine = self.engine
        limit = engine.count + 1
        with engine.unintercepted():
            event = None
            while event is None:  # a request to stop waits until the instruction is done
                event = self._event(engine.run(limit))
        return None if isinstance(event, LimitReached) else event

    def _instruction(self) -> Event | None:
        """Far JMP, CALL, RET, IRET, or STI while IF is 1: the processor does it, and tells of faults alone."""
        instruction = self.instruction()
        if not instruction.is_valid:
            return ExceptionRaised(Vector.UD)
        if instruction.operation is Operation.STI:
            if self.state.cpl > iopl(self.state.eflags) and self.state.protected_mode:
                return ExceptionRaised(Vector.GP, 0)
            self.advance(instruction.length)
            return None
        if instruction.operation is Operation.IRET and self.engine.hands_over(SvmExit.IRET) and wants_iret(self):
            return FlagsAccess("iret", instruction.length)
        if instruction.operation is Operation.PUSHF and self.engine.hands_over(SvmExit.PUSHF):
            return FlagsAccess("pushf", instruction.length)
        if instruction.operation in _STRING_IO:
            return self._check_port(instruction)
        if self.breakpoints.watches_data:
            self._noted = self.breakpoints.at_data(self._data_accesses())
        if exact_instructions.is_done_here(instruction):
            return self._attempt(lambda: self._perform_exactly(instruction))
        given = misread_instructions.as_engine_reads_it(instruction.encoding, self.state.bits)
        if given is not None:
            return misread_instructions.run(self, instruction.encoding, given)
        if instruction.operation in long_mode_segments.OPERATIONS:
            return self._attempt(lambda: long_mode_segments.perform(self, self.loads, instruction))
        return self.transfer_far(instruction)

    def _perform_exactly(self, instruction: Instruction) -> None:
        exact_instructions.perform(self, instruction)
        self.advance(instruction.length)

    def _check_port(self, instruction: Instruction) -> Event | None:
        """INS or OUTS at a CPL above IOPL: #GP(0) if the port is not allowed, before memory is; else it runs alone."""
        try:
            if not exact_instructions.may_use_port(self, instruction):
                return ExceptionRaised(Vector.GP, 0)
        except ProcessorFault as fault:
            return _raised(fault)
        engine = self.engine
        engine.pass_port_check()
        native = engine.run(engine.count + 1)
        return None if native is NativeEvent.LIMIT else self._event(native)

    def _floating(self) -> Event | None:
        """An x87 or SSE instruction whose exceptions have to be looked after."""
        breakpoints, engine = self.breakpoints, self.engine
        watched = breakpoints.watches_data
        if watched:
            self._noted = breakpoints.at_data(self._data_accesses())
        with engine.watches_open() if watched else nullcontext():
            event = floating_exceptions.perform(self, self.instruction())
        if event is None:
            return self._take_hits()
        self._noted = NO_HITS
        return event

    def run_alone(self, permit: Callable[[], None]) -> Event | None:
        """Run the instruction at RIP alone, `permit` having said that it may be; the event that it met, or None."""
        engine = self.engine
        limit = engine.count + 1
        while True:
            permit()
            native = engine.run(limit)
            if native is NativeEvent.LIMIT:
                return None
            event = self._event(native)
            if event is not None:
                return event

    def transfer_far(self, instruction: Instruction) -> Event | None:
        """Do the far transfer at RIP by the manual's pseudo-code; the event that it met, or None when it is done."""
        return self._attempt(lambda: self.far_transfers.perform(instruction))

    def _attempt(self, routine: Callable[[], None]) -> Event | None:
        """Do an instruction; the event that it met, or None when it is done."""
        try:
            routine()
        except ProcessorFault as fault:
            self._noted = NO_HITS
            return _raised(fault)
        return None

    def _check_alignment(self) -> Event | None:
        """CR0.AM and EFLAGS.AC are set at CPL 3: #AC(0) if an operand is not aligned; else it runs alone."""
        if not is_aligned(self.instruction(), self._data_accesses()):
            return ExceptionRaised(Vector.AC, 0)
        engine = self.engine
        engine.pass_alignment()
        native = engine.run(engine.count + 1)
        return None if native is NativeEvent.LIMIT else self._event(native)

    def switch_task(self, what: TaskSwitch, during: Interruption | None = None) -> None:
        """Switch tasks, unless somebody prevents it; `during` is what is being delivered through a task gate.

        :raises ProcessorFault: of the old task or, RIP having changed, of the new one.
        """
        if self.task_switch_filter is not None:
            self.task_switch_filter(what, during)
        switch_tasks(self, what)

    def load_pdptes(self, cr3: int) -> None:
        """Load the PDPTE registers of PAE paging from the table that `cr3` names (SDM Vol. 3A §4.4.1).

        :raises ProcessorFault: #GP(0), a present entry has a reserved bit.
        :raises EptRefused: the VMM has to look at it first.
        """
        while (outcome := self.engine.load_pdptes(cr3)) is PdpteLoad.REFUSED:
            event = ept_event(self.engine.verdict)
            if isinstance(event, EptViolated):
                event.gva = None
            refused = EptRefused(event)
            if not self.memory.serve_refusal(refused):
                raise refused
        if outcome is PdpteLoad.RESERVED:
            raise general_protection(0)

    def forget_translations(self) -> None:
        """CR3 has been written: cached address translations may be none any more."""
        self.engine.flush_tlb()

    def take_up_state(self, state: ArchitecturalState) -> None:
        """Be in `state`; PDPTEs that it does not have are loaded.

        :raises UsageError: they cannot be; the state is as it was.
        """
        before = ArchitecturalState.of(self.state) if state.lacks_pdptes else None
        state.put(self.state)
        self.engine.follow_floating_masks()
        if before is not None:
            try:
                self.load_pdptes(self.state.cr3)
            except ProcessorFault:
                refused = self.state.cr3
                before.put(self.state)
                self.engine.follow_floating_masks()
                raise UsageError(
                    f"CR3 = {refused:#x} names a page-directory-pointer table with a reserved bit in a present "
                    "entry, which no processor loads: clear it"
                ) from None

    def through_task_gate(self, task: TaskSwitch, what: Interruption) -> None:
        """Switch to the task that a task gate of the IDT names.

        :raises ProcessorFault: as `switch_task`, or the gate names no task that can be entered.
        """
        task_gate_target(self, task.selector, external=task.external)
        self.switch_task(task, what)

    def trap_of_task_switch(self) -> None:
        """The TSS of the new task has the T flag set: a debug exception before its first instruction."""
        self.raise_exception(Vector.DB, condition=int(Dr6.BT))

    # ---------------------------------------------------------------------------------------- break- and watchpoints

    def _debugger_hit(self) -> Event:
        breakpoints = self.breakpoints
        breakpoints.hit, breakpoints.pending = breakpoints.pending, ()
        return DebuggerHit(breakpoints.hit)

    def _breakpoint(self) -> Event | None:
        """The instruction at RIP has a breakpoint: the debugger's, the guest's, or one that does not count now."""
        address = self._linear_rip()
        hits = self.breakpoints.at_instruction(address)
        if hits.points:
            self.breakpoints.pending = hits.points
            return self._debugger_hit()
        if hits.condition:
            return ExceptionRaised(Vector.DB, condition=hits.condition)
        self.engine.pass_breakpoint(address)
        return None

    def _linear_rip(self) -> int:
        state = self.state
        return state.rip if state.code_64 else state.rip + state.segment_base(SegmentRegister.CS) & 0xFFFFFFFF

    def _watched_data(self, verdict: Verdict) -> Event | None:
        """A refused access to a watched page: see what the instruction touches, then run it alone."""
        engine = self.engine
        refused = DataAccess(verdict.gva, 1, verdict.access is Access.READ, verdict.access is Access.WRITE)
        hits = self.breakpoints.at_data([refused, *self._data_accesses()])
        with engine.watches_open():
            native = engine.run(engine.count + 1)
        self._noted = hits
        if native is NativeEvent.LIMIT:
            return self._take_hits()
        event = self._event(native)
        if isinstance(event, ExceptionRaised):
            self._noted = NO_HITS
            if event.vector is Vector.DB:  # the trap of a single step, behind the instruction
                self.breakpoints.pending += hits.points
                return replace(event, condition=event.condition | hits.condition)
        return event  # what completes the instruction takes the hits: `retire`

    def _take_hits(self) -> Event | None:
        """What the instruction that has just been retired has hit: the guest's #DB first, then the debugger's stop."""
        hits, self._noted = self._noted, NO_HITS
        self.breakpoints.pending += hits.points
        if hits.condition:
            return ExceptionRaised(Vector.DB, condition=hits.condition)
        return self._debugger_hit() if hits.points else None

    def _data_accesses(self) -> list[DataAccess]:
        instruction = self.instruction()
        counter = self.state.register(GeneralRegister.RCX, instruction.address_size // 8 or 4)
        if instruction.repeat is not Repeat.NONE and not counter and instruction.flow is Flow.NEXT:
            return []
        return [
            DataAccess(self.linear_address(use.operand), use.operand.size or 1, use.access.reads, use.access.writes)
            for use in used_memory(instruction)
        ]

    def note_port(self, port: int, size: int) -> None:
        """An I/O instruction accesses a port: breakpoints on it are taken when it is retired."""
        condition = self.breakpoints.at_port(port, size)
        if condition:
            self._noted |= Hits(condition)

    # ---------------------------------------------------------------------------------------- refused accesses

    def _refused_fill(self, verdict: Verdict) -> Event | None:
        refusal = verdict.refusal
        if refusal is Refusal.PAGE_FAULT or refusal is Refusal.SUPERVISOR_AT_CPL3:
            return self._page_fault(verdict)
        if refusal is Refusal.WATCHED_DATA:
            return self._watched_data(verdict)
        if refusal is Refusal.NON_CANONICAL:
            uses_stack = verdict.access is not Access.FETCH and SegmentRegister.SS in self._segments_used(verdict.gva)
            return ExceptionRaised(Vector.SS if uses_stack else Vector.GP, 0)
        length = self.engine.instruction_length
        if refusal in EPT_REFUSALS:
            return ept_event(verdict, length)
        if refusal is Refusal.WATCHED_WRITE:
            return WatchedWrite(verdict.gpa, verdict.gva, length)
        target = _TARGETS[refusal]
        return PhysicalAccess(target, verdict.gpa, verdict.gva, verdict.access, length)

    def _page_fault(self, verdict: Verdict) -> Event | None:
        """A page fault, unless it was the processor that read a descriptor or the TSS on behalf of code at CPL 3.

        Those accesses are supervisor-mode accesses at any CPL (SDM Vol. 3A §4.6.1), and so are the stores to an inner
        stack. The engine does not tell them from the instruction's own, so an instruction that makes any is decoded:
        what is not its own operand is the processor's, and the instruction runs alone with that page open to it.
        """
        engine = self.engine
        pages: list[int] = []
        while self._made_by_processor(verdict):
            if engine.translate(verdict.gva, verdict.access, user=False) is None:
                verdict = engine.verdict._replace(gva=verdict.gva)
                if verdict.refusal is not Refusal.PAGE_FAULT:
                    return self._refused_fill(verdict)
                break
            pages.append(verdict.gva >> PAGE_SHIFT)
            engine.allow_implicit(pages)
            try:
                native = engine.run(engine.count + 1)
            finally:
                engine.allow_implicit()
            if native is NativeEvent.LIMIT:
                return None
            if native is not NativeEvent.REFUSED_FILL or engine.verdict.refusal not in _PAGE_FAULTS:
                return self._event(native)
            verdict = engine.verdict
        return ExceptionRaised(Vector.PF, verdict.error_code, verdict.gva)

    def _made_by_processor(self, verdict: Verdict) -> bool:
        """Is a refused access at CPL 3 an implicit supervisor-mode access?"""
        if verdict.access is Access.FETCH or self.state.cpl != 3:
            return False
        _, code = opcode(self)
        if code[0] not in _MAY_READ_DESCRIPTORS or self.instruction().operation not in _READS_DESCRIPTORS:
            return False
        return not self._segments_used(verdict.gva)

    def _segments_used(self, address: int) -> set[SegmentRegister]:
        """The segments through which the operands of the instruction at RIP reach a linear address."""
        instruction = self.instruction()
        operands = {use.operand for use in used_memory(instruction)}
        # How wide the stack pointer is, SS says, of which the decoder knows nothing.
        stack = {o for o in operands if o.base is GeneralRegister.RSP and o != instruction.memory}
        operands = operands - stack | {replace(o, address_bits=8 * Stack(self).width) for o in stack}
        return {o.segment for o in operands if self._reaches(o, address)}

    def _reaches(self, operand: MemoryOperand, address: int) -> bool:
        """Is `address` in an operand? In 64-bit mode the engine may have added a base that does not count."""
        state = self.state
        ignored = state.segment_base(operand.segment) if state.code_64 and operand.segment < SegmentRegister.FS else 0
        offset = address - self.linear_address(operand)
        size = operand.size or _LARGEST_OPERAND
        return 0 <= offset < size or 0 <= offset - ignored < size

    def instruction(self) -> Instruction:
        """The instruction that the last event stands on, decoded."""
        return decode(self.engine.code_bytes, self.state.rip, self.state.bits)

    def linear_address(self, operand: MemoryOperand) -> int:
        """Linear address of a memory operand, by the registers as they are now."""
        state = self.state
        address = operand.effective_address(state.__getitem__)
        if state.code_64:
            base = state.segment_base(operand.segment) if operand.segment >= SegmentRegister.FS else 0
            return (address + base) & (1 << 64) - 1
        return (address + state.segment_base(operand.segment)) & 0xFFFFFFFF

    def operand(self, instruction: Instruction, size: int, offset: int = 0) -> int:
        """The source operand of an instruction: `size` bytes at `offset` in memory, or the low bytes of a register."""
        if instruction.memory is not None:
            return self.memory.read_integer(
                self.linear_address(instruction.memory) + offset, size, user=self.state.cpl == 3, explicit=True
            )
        register = next(o for o in instruction.operands if isinstance(o, GeneralOperand))
        return self.state.register(register.register, size)

    def memory_operand(self) -> tuple[int, int] | None:
        """Linear address and size of the explicit memory operand of the instruction at RIP, if it has one."""
        operand = self.instruction().memory
        return None if operand is None else (self.linear_address(operand), operand.size)

    # ---------------------------------------------------------------------------------------- after an instruction

    def advance(self, length: int) -> None:
        """Step over the instruction at RIP, which is complete: count it, end a shadow, trap if TF asks for it."""
        eflags = self.state.step_over(length)
        self.engine.retire()
        if eflags & _TF or self._noted is not NO_HITS:
            self._trap(int(Dr6.BS) if eflags & _TF else 0)

    def retire(self, *, stepping: bool | None = None) -> None:
        """As `advance`, for an instruction that has set RIP itself.

        `stepping` is what TF was when the instruction began, for one that changes it: the trap goes by that (SDM Vol.
        3B §18.3.1.4).
        """
        state = self.state
        state.interrupt_shadow = False
        self.engine.retire()
        eflags = state.eflags
        if stepping is None:
            stepping = bool(eflags & _TF)
            if eflags & _RF:  # set for one instruction only (SDM Vol. 3B §18.3.1.1)
                state.eflags = eflags & ~_RF
        self._trap(int(Dr6.BS) if stepping else 0)

    def _trap(self, condition: int) -> None:
        """Raise the debug exception behind an instruction, if there is a reason for one."""
        if self._noted:
            condition |= self._noted.condition
            self.breakpoints.pending += self._noted.points
            self._noted = NO_HITS
        if condition:
            self.raise_exception(Vector.DB, condition=condition)

    @property
    def can_halt(self) -> bool:
        """Does HLT put the processor to sleep? Not while TF is set: the trap behind it wakes it (SDM Vol. 2A "HLT")."""
        return not self.state.eflags & _TF

    # ---------------------------------------------------------------------------------------- configuration

    def intercept(self, intercepts: Intercepts) -> None:
        """Choose which instructions are handed over before they take effect."""
        self.engine.intercept(intercepts)


def _raised(fault: ProcessorFault) -> ExceptionRaised:
    """An instruction's fault as an event."""
    cr2 = None if fault.cr2 is None else Gva(fault.cr2)
    return ExceptionRaised(fault.vector, fault.error_code, cr2, fault.condition)


_STRING_IO: Final = frozenset({Operation.INS, Operation.OUTS})
_IO, _SVM_EXIT, _LIMIT = NativeEvent.IO, NativeEvent.SVM_EXIT, NativeEvent.LIMIT
_LIMIT_REACHED: Final = LimitReached()
_TARGETS: Final = {
    Refusal.HOLE: PhysicalTarget.HOLE,
    Refusal.MMIO: PhysicalTarget.MMIO,
    Refusal.ROM_WRITE: PhysicalTarget.ROM,
}
_READS_DESCRIPTORS: Final = frozenset(
    {
        Operation.LAR,
        Operation.LSL,
        Operation.VERR,
        Operation.VERW,
        Operation.MOV_TO_SEGMENT,
        Operation.POP_SEGMENT,
        Operation.LOAD_FAR_POINTER,
        Operation.CALL_FAR,
        Operation.JMP_FAR,
        Operation.RET_FAR,
        Operation.IRET,
    }
)
"""The instructions that read descriptor tables and the TSS as supervisor at any CPL (SDM Vol. 3A §4.6.1)."""
_MAY_READ_DESCRIPTORS: Final = frozenset(bytes.fromhex("07 0f 17 1f 8e 9a c4 c5 ca cb cf ea ff"))
"""Their first opcode bytes."""
_PAGE_FAULTS: Final = frozenset({Refusal.PAGE_FAULT, Refusal.SUPERVISOR_AT_CPL3})
