"""The CPU of the simulated PC: runs until something happens that a processor alone does not settle.

`Cpu.run` returns an `Event` of the closed union in `machine.events`. What becomes of it is decided above: the bare PC
has the hardware complete it (`machine.completion`), a VMM emulates it, root mode turns it into a VM exit.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError, UsageError
from simvirt.machine import exact_instructions, floating_exceptions, interrupts, long_mode_segments, self_test
from simvirt.machine.alignment import is_aligned
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.breakpoints import NO_HITS, Breakpoints, DataAccess, Hits
from simvirt.machine.debug_registers import GENERAL_DETECT
from simvirt.machine.delivery_log import FaultRecord
from simvirt.machine.engine import DELIVER_EVERYTHING, DELIVER_NOTHING, Engine
from simvirt.machine.events import (
    ControlRegisterAccess,
    ControlRegisterOperation,
    Cpuid,
    DebuggerHit,
    DebugRegisterAccess,
    DescriptorTableAccess,
    DescriptorTableRegister,
    EngineFault,
    EptViolated,
    Event,
    ExceptionRaised,
    FlagsAccess,
    Halt,
    Interrupted,
    InterruptWindow,
    InvalidateCaches,
    InvalidatePage,
    LimitReached,
    MsrAccess,
    NonMaskableInterrupt,
    Pause,
    PhysicalAccess,
    PhysicalTarget,
    PortAccess,
    ReadPerformanceCounter,
    ReadTimeStampCounter,
    SoftwareInterrupt,
    SoftwareInterruptKind,
    SystemCall,
    WatchedWrite,
    ept_event,
)
from simvirt.machine.far_transfers import FarTransfers
from simvirt.machine.faults import EptRefused, ProcessorFault, general_protection
from simvirt.machine.fills import EPT_REFUSALS, Access, PdpteLoad, Refusal, Verdict
from simvirt.machine.interrupts import Interruption, Source
from simvirt.machine.linear_memory import LinearMemory
from simvirt.machine.native.layout import NativeEvent
from simvirt.machine.segment_loads import SegmentLoads
from simvirt.machine.svm import Intercepts, SvmExit
from simvirt.machine.task_switch import TaskSwitch, switch_tasks, task_gate_target
from simvirt.x86.addresses import PAGE_SHIFT, Gva
from simvirt.x86.decode import decode, used_memory
from simvirt.x86.exceptions import ERROR_CODE_VECTORS, Escalation, Vector, escalate
from simvirt.x86.flags import DR6_BREAKPOINTS, Dr6, Eflags, iopl
from simvirt.x86.instruction import Flow, GeneralOperand, Repeat
from simvirt.x86.operations import Operation
from simvirt.x86.prefixes import Prefixes, split_prefixes
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from simvirt.machine.memory import HostMemory
    from simvirt.machine.state import ProcessorState
    from simvirt.x86.instruction import Instruction, MemoryOperand

    ExceptionFilter = Callable[[int, int | None, int | None, Interruption | None], None]
    """Takes vector, error code, exit qualification, and what was being delivered when it struck.

    The qualification is the linear address of a page fault, the conditions of a debug exception, None for others.
    """

_TF: Final = int(Eflags.TF)
_RF: Final = int(Eflags.RF)
_IF: Final = int(Eflags.IF)
_LARGEST_OPERAND: Final = 16
_LONGEST_STRING: Final = 0x7FFF_FFFF


class Shutdown(Exception):  # noqa: N818 - a state of the processor, not an error of this program
    """The processor has met an exception while delivering a double fault: the triple fault."""


class Livelock(Exception):  # noqa: N818 - the guest's doing, not an error of this program
    """The processor delivers interrupts and exceptions for ever and retires no instruction.

    A handler of #UD whose own first instruction is undefined does it: a real processor is as busy until somebody
    resets it. Instructions do not count on, so no budget of instructions would end it.
    """


class Cpu:
    """One processor.

    :ivar engine: what executes the instructions.
    :ivar state: the architectural state, live.
    :ivar memory: linear memory, as the processor's own accesses see it.
    :ivar native_delivery: what may be delivered to the guest without coming back to Python (`Engine.run`). An observer
        that wants to see an exception as an event takes it out of this set.
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
        self.engine = engine
        self.state = state
        self.memory = memory
        self.undelivered: Interruption | None = None
        """What was being delivered when the EPT refused an access."""
        self.breakpoints = Breakpoints(engine, state)
        self._noted = NO_HITS
        self.nmi_window = False
        """Report when an NMI could be taken, whether one is pending or not (VMX's NMI-window exiting)."""
        self.iret_unblocks_nmi = True
        """Does IRET end blocking by NMI? Not in VMX non-root operation where NMIs exit and are not virtual."""
        self.nmi_unblocked_at = -1
        """The count of instructions at which an IRET has ended blocking by NMI and has met nothing else yet."""
        self.native_delivery = DELIVER_EVERYTHING
        self._stop_requested = False
        self.loads = self._segment_loads()
        self.far_transfers = FarTransfers(self, self.loads, self.switch_task)
        self.task_switch_filter: Callable[[TaskSwitch, Interruption | None], None] | None = None
        """Sees every task switch before it begins, and what goes through a task gate; may raise something instead."""
        self.exception_filter: ExceptionFilter | None = None
        """Sees every exception before it is delivered, and may raise something to prevent that.

        VMX non-root mode consults its exception bitmap in it.
        """
        self.on_delivery: Callable[[Interruption], None] | None = None
        """Told of every interrupt and exception that has been delivered, when its handler is next."""

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
                event = self._event(engine.run(limit, window=window, deliver=deliver))
            if event is not None:
                return event

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
            return self._port_access()
        if native is _SVM_EXIT:
            handler = _SVM_EVENTS.get(engine.svm_exit)
            if handler is None:
                raise MonitorError(f"the engine reported SVM exit {engine.svm_exit:#x}, which nothing asked for")
            return handler(self)
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
        prefixes, _ = self._opcode()
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
        if instruction.operation is Operation.STI:
            if self.state.cpl > iopl(self.state.eflags) and self.state.protected_mode:
                return ExceptionRaised(Vector.GP, 0)
            self.advance(instruction.length)
            return None
        if instruction.operation is Operation.IRET and self.engine.hands_over(SvmExit.IRET) and self._wants_iret():
            return FlagsAccess("iret", instruction.length)
        if instruction.operation is Operation.PUSHF and self.engine.hands_over(SvmExit.PUSHF):
            return FlagsAccess("pushf", instruction.length)
        if instruction.operation in _STRING_IO:
            return self._check_port(instruction)
        if self.breakpoints.watches_data:
            self._noted = self.breakpoints.at_data(self._data_accesses())
        if exact_instructions.is_done_here(instruction):
            return self._attempt(lambda: self._perform_exactly(instruction))
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
                before.put(self.state)
                self.engine.follow_floating_masks()
                raise UsageError(
                    f"CR3 = {self.state.cr3:#x} names a page-directory-pointer table with a reserved bit in a present "
                    "entry, which no processor loads: clear it"
                ) from None

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
        _, code = self._opcode()
        if code[0] not in _MAY_READ_DESCRIPTORS or self.instruction().operation not in _READS_DESCRIPTORS:
            return False
        return not self._segments_used(verdict.gva)

    def _segments_used(self, address: int) -> set[SegmentRegister]:
        """The segments through which the operands of the instruction at RIP reach a linear address."""
        operands = [use.operand for use in used_memory(self.instruction())]
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

    # ---------------------------------------------------------------------------------------- events of the engine

    def _length(self) -> int:
        return self.engine.instruction_length

    def _opcode(self) -> tuple[Prefixes, bytes]:
        return split_prefixes(self.engine.code_bytes, self.state.bits)

    def _exception(self) -> Event:
        vector = _EXCEPTIONS[self.engine.svm_exit - _EXCEPTION_EXIT]
        if vector in ERROR_CODE_VECTORS:
            return ExceptionRaised(vector, self.state.error_code & 0xFFFF)
        if vector is Vector.UD and self._is_int1():
            return SoftwareInterrupt(1, SoftwareInterruptKind.INT1, self.instruction().length)
        if vector is Vector.DB:
            return ExceptionRaised(vector, condition=self.engine.debug_condition)
        return ExceptionRaised(vector)

    def _is_int1(self) -> bool:
        """INT1, which the engine does not know."""
        prefixes, code = self._opcode()
        return code[:1] == b"\xf1" and not prefixes.lock

    def _software_interrupt(self) -> Event:
        _, code = self._opcode()
        if code[0] == 0xCD:
            return SoftwareInterrupt(code[1], SoftwareInterruptKind.INT_N, self._length())
        if code[0] == 0xCC:
            return SoftwareInterrupt(3, SoftwareInterruptKind.INT3, self._length())
        return SoftwareInterrupt(4, SoftwareInterruptKind.INTO, self._length())

    def _port_access(self) -> PortAccess:
        engine = self.engine
        port, size, is_out, value, opcode, length = engine.io
        if opcode >= _FIRST_IO_NOT_STRING:
            return PortAccess(port, size, is_out, value, length, is_immediate=opcode < _FIRST_IO_BY_DX)
        prefixes, _ = self._opcode()
        address_size = prefixes.address_size(self.state.bits)
        return PortAccess(port, size, is_out, value, length, False, True, prefixes.repeated, address_size)

    def _time_stamp_counter(self) -> Event:
        _, code = self._opcode()
        return ReadTimeStampCounter(code[:3] == b"\x0f\x01\xf9", self._length())

    def _msr(self) -> Event:
        _, code = self._opcode()
        return MsrAccess(code[1] == 0x30, self._length())

    def _cr(self) -> Event:
        prefixes, code = self._opcode()
        length = self._length()
        if code[1] == 0x06:
            return ControlRegisterAccess(ControlRegisterOperation.CLTS, 0, GeneralRegister.RAX, length)
        if code[1] == 0x01:
            operation = ControlRegisterOperation.LMSW if code[2] >> 3 & 7 == 6 else ControlRegisterOperation.SMSW
            return ControlRegisterAccess(operation, 0, GeneralRegister(code[2] & 7 | prefixes.rex_b << 3), length)
        number = code[2] >> 3 & 7 | prefixes.rex_r << 3
        if prefixes.lock and number == 0:  # AMD's alternative encoding of CR8
            number = 8
        register = GeneralRegister(code[2] & 7 | prefixes.rex_b << 3)
        operation = ControlRegisterOperation.MOV_TO_CR if code[1] == 0x22 else ControlRegisterOperation.MOV_FROM_CR
        return ControlRegisterAccess(operation, number, register, length)

    def _dr(self) -> Event:
        prefixes, code = self._opcode()
        register = GeneralRegister(code[2] & 7 | prefixes.rex_b << 3)
        return DebugRegisterAccess(code[1] == 0x23, code[2] >> 3 & 7, register, self._length())

    def _descriptor_table(self) -> Event:
        code = SvmExit(self.engine.svm_exit)
        register, is_write = _DESCRIPTOR_TABLE_EXITS[code]
        return DescriptorTableAccess(register, is_write, self._length())

    def _wants_iret(self) -> bool:
        """Does whoever runs the processor want IRET handed over? It may be so for the sake of blocking by NMI alone."""
        return SvmExit.IRET in self.engine.intercepts.instructions

    def _iret(self) -> Event | None:
        if self._wants_iret():
            return FlagsAccess("iret", self._length())
        self.unblock_nmi()
        blocked = self.state.nmi_blocked
        event = self.run_natively()
        if blocked:  # the engine's IRET has ended it all the same
            self.engine.block_nmi(True)
        return event

    def _cache_invalidation(self) -> Event:
        _, code = self._opcode()
        return InvalidateCaches(code[1] == 0x09, self._length())

    def _undefined(self) -> Event:
        """#UD: an instruction of AMD's SVM, or another that the processor of this PC does not have."""
        return ExceptionRaised(Vector.UD)

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
    def interruptible(self) -> bool:
        """Can a maskable interrupt be taken now?"""
        return self.state.interruptible

    @property
    def nmi_ready(self) -> bool:
        """Is an NMI pending that can be taken now?

        Not while another is being handled, nor in a shadow: that of MOV SS holds it back in any case, and that of STI
        may, which it does here as it does for KVM's guests (SDM Vol. 3A §6.8.3, Vol. 3C §26.2, §27.3.1.5).
        """
        state = self.state
        pending = self.engine.nmi_pending or self.nmi_window
        return pending and not state.nmi_blocked and not state.interrupt_shadow

    @property
    def can_halt(self) -> bool:
        """Does HLT put the processor to sleep? Not while TF is set: the trap behind it wakes it (SDM Vol. 2A "HLT")."""
        return not self.state.eflags & _TF

    # ---------------------------------------------------------------------------------------- delivery

    def raise_exception(
        self, vector: Vector, error_code: int | None = None, cr2: int | None = None, *, condition: int = 0
    ) -> None:
        """Deliver an exception through the IDT, RIP being what its handler returns to.

        `condition` is what DR6 is to show of a debug exception.

        :raises Shutdown: a triple fault.
        """
        self.deliver(Interruption(vector, Source.EXCEPTION, self.state.rip, error_code), cr2, condition=condition)

    def raise_fault(self, fault: ProcessorFault) -> None:
        """Deliver an exception that the processor's own work met."""
        self.raise_exception(fault.vector, fault.error_code, fault.cr2, condition=fault.condition)

    def deliver_external_interrupt(self, vector: int) -> None:
        """Take a maskable interrupt.

        :raises Shutdown: a triple fault.
        """
        if not self._interrupt_natively(vector):
            self._deliver(Interruption(vector, Source.EXTERNAL, self.state.rip), None, 0)

    def raise_nmi(self) -> None:
        """An edge on the NMI pin: an NMI is pending until it is delivered. One is kept, however many edges come."""
        self.engine.nmi_pending = True

    def deliver_nmi(self) -> None:
        """Take the pending NMI: vector 2, and no further one until an IRET is executed (SDM Vol. 3A §6.7.1).

        :raises Shutdown: a triple fault.
        """
        engine = self.engine
        engine.nmi_pending = False
        engine.block_nmi(True)
        self.deliver(Interruption(Vector.NMI, Source.NMI, self.state.rip))

    def unblock_nmi(self) -> None:
        """IRET is executed: it ends blocking by NMI even if it faults (SDM Vol. 3C §26.3)."""
        if self.state.nmi_blocked and self.iret_unblocks_nmi:
            self.engine.block_nmi(False)
            self.nmi_unblocked_at = self.engine.count

    def struck_iret(self) -> bool:
        """Has what the processor has just met been met by an IRET that has ended blocking by NMI? To be asked once."""
        struck, self.nmi_unblocked_at = self.nmi_unblocked_at == self.engine.count, -1
        return struck

    def deliver(self, what: Interruption, cr2: int | None = None, *, condition: int = 0) -> bool:
        """Deliver `what`; exceptions on the way escalate by the table of SDM Vol. 3A §6.15.

        :return: was `what` itself delivered, rather than an exception that it met?
        :raises Shutdown: a triple fault.
        :raises Livelock: `FRUITLESS_DELIVERIES` of them have been delivered since an instruction retired.
        """
        filtered = self.exception_filter is not None and what.source is Source.EXCEPTION
        usual = not condition and not filtered
        if usual and self._deliver_natively(what.vector, what.source, what.return_rip, what.error_code, cr2):
            delivered = True
        else:
            delivered = self._deliver(what, cr2, condition)
        self.nmi_unblocked_at = -1
        return delivered

    def _deliver(self, what: Interruption, cr2: int | None, condition: int) -> bool:
        """As `deliver`, by the reference."""
        filtered = self.exception_filter is not None and what.source is Source.EXCEPTION
        if not self.engine.deliveries.begin(self.engine.count):
            raise Livelock
        if filtered:
            self._filter(what.vector, what.error_code, condition if what.vector == Vector.DB else cr2, None)
        if condition:
            self._show_condition(condition)
        return self.deliver_on_the_way(what, cr2)

    def deliver_on_the_way(self, what: Interruption, cr2: int | None = None) -> bool:
        """Deliver an exception that was met while another event was being delivered; returns as `deliver`.

        :raises Shutdown: a triple fault.
        """
        self._begin(what, cr2)
        return self.deliver_anew(what)

    def deliver_anew(self, what: Interruption) -> bool:
        """Take up a delivery that an EPT violation ended; returns as `deliver`.

        :raises Shutdown: a triple fault.
        """
        wanted = what.vector, what.source
        while True:
            try:
                self._enter_handler(what)
            except ProcessorFault as fault:
                what, cr2 = self._escalate(what, fault)
                self._begin(what, cr2)
            else:
                self.engine.deliveries.complete(what.vector)
                return (what.vector, what.source) == wanted

    def _begin(self, what: Interruption, cr2: int | None) -> None:
        if what.source is Source.EXCEPTION:
            self._remember(what.vector, what.error_code, cr2)
        if cr2 is not None:
            self.state.set_control_register(2, cr2)

    def _escalate(self, what: Interruption, fault: ProcessorFault) -> tuple[Interruption, int | None]:
        """What is to be delivered when a fault strikes in the delivery of `what`, and its CR2.

        :raises Shutdown: nothing any more.
        """
        self._filter(fault.vector, fault.error_code, fault.cr2, what)
        rip = self.state.rip
        outcome = escalate(what.vector if what.source is Source.EXCEPTION else None, fault.vector)
        if outcome is Escalation.SHUTDOWN:
            self._remember(fault.vector, fault.error_code, fault.cr2)
            raise Shutdown from None
        if outcome is Escalation.DOUBLE_FAULT:
            self._filter(Vector.DF, 0, None, None)
            if fault.cr2 is not None:
                self.state.set_control_register(2, fault.cr2)
            return Interruption(Vector.DF, Source.EXCEPTION, rip, 0), None
        return Interruption(fault.vector, Source.EXCEPTION, rip, fault.error_code), fault.cr2

    def _enter_handler(self, what: Interruption) -> None:
        """Through the IDT or IVT, with no escalation: a fault on the way, or what the EPT refuses, is raised."""
        if not self.state.protected_mode and what.error_code is not None:
            what = Interruption(what.vector, what.source, what.return_rip)
        try:
            task = interrupts.deliver(self.state, self.memory, what)
            if task is not None:
                task_gate_target(self, task.selector, external=task.external)
                self.switch_task(task, what)
        except EptRefused:
            self.undelivered = what
            raise
        if self.on_delivery is not None:
            self.on_delivery(what)

    def _show_condition(self, condition: int) -> None:
        """A debug exception begins: DR6 shows why, and its handler may use debug registers (SDM Vol. 3B §18.3.1.3)."""
        state = self.state
        state.set_debug_register(6, state.debug_register(6) & ~DR6_BREAKPOINTS | condition)
        state.set_debug_register(7, state.debug_register(7) & ~GENERAL_DETECT)

    def _filter(self, vector: int, error_code: int | None, cr2: int | None, during: Interruption | None) -> None:
        if self.exception_filter is not None:
            self.exception_filter(vector, error_code, cr2, during)

    def _remember(self, vector: int, error_code: int | None, cr2: int | None) -> None:
        """Add an exception to the chain that a post-mortem prints."""
        state = self.state
        cs = state.selector(SegmentRegister.CS)
        self.fault_chain.append(FaultRecord(self.count, vector, error_code, cr2, cs, state.rip, int(state.cpl)))

    def _deliver_natively(
        self, vector: int, source: Source, return_rip: int, error_code: int | None = None, cr2: int | None = None
    ) -> bool:
        """Deliver an interrupt or exception in native code, if nothing about it is unusual."""
        if self.native_delivery == DELIVER_NOTHING or self.on_delivery is not None:
            return False
        return self.engine.deliver(vector, source, return_rip, error_code, cr2)

    def _interrupt_natively(self, vector: int) -> bool:
        """As `_deliver_natively`, for a maskable interrupt."""
        if self.native_delivery == DELIVER_NOTHING or self.on_delivery is not None:
            return False
        return self.engine.interrupt(vector)

    # ---------------------------------------------------------------------------------------- configuration

    def intercept(self, intercepts: Intercepts) -> None:
        """Choose which instructions are handed over before they take effect."""
        self.engine.intercept(intercepts)


def _raised(fault: ProcessorFault) -> ExceptionRaised:
    """An instruction's fault as an event."""
    cr2 = None if fault.cr2 is None else Gva(fault.cr2)
    return ExceptionRaised(fault.vector, fault.error_code, cr2, fault.condition)


_STRING_IO: Final = frozenset({Operation.INS, Operation.OUTS})
_FIRST_IO_NOT_STRING: Final = 0xE4
_FIRST_IO_BY_DX: Final = 0xEC
"""By their opcodes: INS and OUTS from 6CH, IN and OUT with an immediate port from E4H, by DX from ECH."""
_EXCEPTIONS: Final = tuple(Vector)
_EXCEPTION_EXIT: Final = int(SvmExit.EXCEPTION)
_IO, _SVM_EXIT, _LIMIT = NativeEvent.IO, NativeEvent.SVM_EXIT, NativeEvent.LIMIT
_LIMIT_REACHED: Final = LimitReached()
_TARGETS: Final = {
    Refusal.HOLE: PhysicalTarget.HOLE,
    Refusal.MMIO: PhysicalTarget.MMIO,
    Refusal.ROM_WRITE: PhysicalTarget.ROM,
}
_DESCRIPTOR_TABLE_EXITS: Final = {
    SvmExit.GDTR_READ: (DescriptorTableRegister.GDTR, False),
    SvmExit.IDTR_READ: (DescriptorTableRegister.IDTR, False),
    SvmExit.LDTR_READ: (DescriptorTableRegister.LDTR, False),
    SvmExit.TR_READ: (DescriptorTableRegister.TR, False),
    SvmExit.GDTR_WRITE: (DescriptorTableRegister.GDTR, True),
    SvmExit.IDTR_WRITE: (DescriptorTableRegister.IDTR, True),
    SvmExit.LDTR_WRITE: (DescriptorTableRegister.LDTR, True),
    SvmExit.TR_WRITE: (DescriptorTableRegister.TR, True),
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
_CONTROL_REGISTERS: Final = (0, 2, 3, 4, 8)


def _svm_events() -> dict[int, Callable[[Cpu], Event | None]]:
    table: dict[int, Callable[[Cpu], Event | None]] = {
        SvmExit.VINTR: lambda _: InterruptWindow(),
        SvmExit.SWINT: Cpu._software_interrupt,
        SvmExit.HLT: lambda cpu: Halt(cpu._length()),
        SvmExit.CPUID: lambda cpu: Cpuid(cpu._length()),
        SvmExit.RDTSC: Cpu._time_stamp_counter,
        SvmExit.RDTSCP: Cpu._time_stamp_counter,
        SvmExit.RDPMC: lambda cpu: ReadPerformanceCounter(cpu._length()),
        SvmExit.MSR: Cpu._msr,
        SvmExit.INVLPG: lambda cpu: InvalidatePage(cpu._length()),
        SvmExit.INVD: Cpu._cache_invalidation,
        SvmExit.WBINVD: Cpu._cache_invalidation,
        SvmExit.PUSHF: lambda cpu: FlagsAccess("pushf", cpu._length()),
        SvmExit.POPF: lambda cpu: FlagsAccess("popf", cpu._length()),
        SvmExit.IRET: Cpu._iret,
        SvmExit.PAUSE: lambda cpu: Pause(cpu._length()),
    }
    table |= dict.fromkeys(_DESCRIPTOR_TABLE_EXITS, Cpu._descriptor_table)
    for number in _CONTROL_REGISTERS:
        table[SvmExit.CR_READ + number] = Cpu._cr
        table[SvmExit.CR_WRITE + number] = Cpu._cr
    for number in range(8):
        table[SvmExit.DR_READ + number] = Cpu._dr
        table[SvmExit.DR_WRITE + number] = Cpu._dr
    for vector in range(32):
        table[SvmExit.EXCEPTION + vector] = Cpu._exception
    undefined = (
        SvmExit.RSM, SvmExit.INVLPGA, SvmExit.VMRUN, SvmExit.VMMCALL, SvmExit.VMLOAD, SvmExit.VMSAVE, SvmExit.STGI,
        SvmExit.CLGI, SvmExit.SKINIT, SvmExit.MONITOR, SvmExit.MWAIT,
    )  # fmt: skip
    table |= dict.fromkeys(undefined, Cpu._undefined)
    return table


_SVM_EVENTS: Final = _svm_events()
