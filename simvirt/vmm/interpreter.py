"""The interpreter of a de-privileging VMM: what a trapped instruction would have done on the guest's own machine.

Instructions whose work `machine.completion` does for the bare PC are handed to it as the event that they would have
been there; the rest are here: the interrupt flag, descriptor-table registers, segment loads and far transfers, all of
which the bare PC runs natively. Each function reads like the operation section of its page in SDM Vol. 2, and raises
`ProcessorFault` where that says #GP, #NP, #SS or #TS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import UnsupportedGuestError
from simvirt.machine.faults import ProcessorFault, general_protection, not_present, stack_fault
from simvirt.machine.inner_stack import fits, inner_stack
from simvirt.machine.segment_loading import accessed, load_task_register, mark_accessed, read_descriptor
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Eflags, iopl
from simvirt.x86.instruction import FarPointerOperand, GeneralOperand, Instruction, SegmentOperand
from simvirt.x86.operations import Operation
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from simvirt.x86.segments import Descriptor, GateDescriptor, Selector, SystemDescriptorType

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.vmm.shadow_descriptors import ShadowDescriptors
    from simvirt.vmm.virtual_cpu import VirtualCpu

_IF: Final = int(Eflags.IF)
_TF: Final = int(Eflags.TF)
_NT: Final = int(Eflags.NT)
_VM: Final = int(Eflags.VM)
_IOPL: Final = int(Eflags.IOPL)
_WRITABLE_BY_IRET: Final = int(
    Eflags.ARITHMETIC | Eflags.TF | Eflags.DF | Eflags.NT | Eflags.RF | Eflags.AC | Eflags.ID
)
_DATA_SEGMENTS: Final = (SegmentRegister.ES, SegmentRegister.DS, SegmentRegister.FS, SegmentRegister.GS)
_FAR_POINTER_LOADS: Final = {
    "lds": SegmentRegister.DS,
    "les": SegmentRegister.ES,
    "lfs": SegmentRegister.FS,
    "lgs": SegmentRegister.GS,
    "lss": SegmentRegister.SS,
}


class Interpreter:
    """Interpreter routines for the instructions that trap and that `machine.completion` does not cover."""

    def __init__(self, cpu: VirtualCpu, shadow: ShadowDescriptors) -> None:
        self._cpu = cpu
        self._shadow = shadow
        self._routines: dict[Operation, Callable[[Instruction], None]] = {
            Operation.CLI: self._cli,
            Operation.STI: self._sti,
            Operation.LGDT: self._lgdt,
            Operation.LIDT: self._lidt,
            Operation.LLDT: self._lldt,
            Operation.LTR: self._ltr,
            Operation.MOV_TO_SEGMENT: self._mov_to_segment,
            Operation.POP_SEGMENT: self._pop_segment,
            Operation.LOAD_FAR_POINTER: self._load_far_pointer,
            Operation.JMP_FAR: self._far_branch,
            Operation.CALL_FAR: self._far_branch,
            Operation.RET_FAR: self._far_return,
            Operation.IRET: self._iret,
            Operation.SYSEXIT: self._sysexit,
        }

    @property
    def operations(self) -> frozenset[Operation]:
        """What can be interpreted here."""
        return frozenset(self._routines)

    def interpret(self, instruction: Instruction) -> None:
        """Carry `instruction`, one of `operations`, out on the guest's machine.

        :raises ProcessorFault: the guest's machine would have raised it.
        :raises UnsupportedGuestError: it needs something that this VMM does not virtualize.
        """
        self._routines[instruction.operation](instruction)

    # ---------------------------------------------------------------------------------------- helpers

    @property
    def _user(self) -> bool:
        return self._cpu.state.cpl == 3

    def _operand(self, instruction: Instruction, size: int, offset: int = 0) -> int:
        """The source operand: a general register's low bytes, or memory."""
        if instruction.memory is not None:
            return self._cpu.memory.read_integer(
                self._cpu.linear_address(instruction.memory) + offset, size, user=self._user
            )
        register = next(o for o in instruction.operands if isinstance(o, GeneralOperand))
        return self._cpu.state.register(register.register, size)

    def _stack_size(self) -> int:
        return 4 if self._cpu.state.segment(SegmentRegister.SS).default_size else 2

    def _peek(self, offset: int, size: int) -> int:
        """`size` bytes at `offset` above the stack pointer."""
        state = self._cpu.state
        width = self._stack_size()
        sp = state.register(GeneralRegister.RSP, width) + offset & (1 << 8 * width) - 1
        return self._cpu.memory.read_integer(state.segment_base(SegmentRegister.SS) + sp, size, user=self._user)

    def _set_sp(self, value: int) -> None:
        self._cpu.state.set_register(GeneralRegister.RSP, self._stack_size(), value)

    def _require_ring_0(self) -> None:
        if self._cpu.state.cpl:
            raise general_protection(0)

    def _shadow_after(self, *, was_in_shadow: bool) -> None:
        """Begin an interrupt shadow of one instruction, unless this one stood in a shadow (SDM Vol. 2B "STI")."""
        self._cpu.state.interrupt_shadow = not was_in_shadow

    # ---------------------------------------------------------------------------------------- the interrupt flag

    def _cli(self, instruction: Instruction) -> None:
        state = self._cpu.state
        if state.cpl > iopl(state.eflags):
            raise general_protection(0)
        state.interrupt_flag = False
        self._cpu.advance(instruction.length)

    def _sti(self, instruction: Instruction) -> None:
        state = self._cpu.state
        if state.cpl > iopl(state.eflags):
            raise general_protection(0)
        was = state.interrupt_shadow
        state.interrupt_flag = True
        self._cpu.advance(instruction.length)
        self._shadow_after(was_in_shadow=was)

    # --------------------------------------------------------------------------------------- descriptor-table registers

    def _table_operand(self, instruction: Instruction) -> DescriptorTable:
        limit = self._operand(instruction, 2)
        base = self._operand(instruction, 4, offset=2)
        # In 16-bit code the base has 24 bits (SDM Vol. 2A "LGDT/LIDT").
        wide = (instruction.bits == 32) != (b"\x66" in instruction.encoding[:-1].split(b"\x0f", 1)[0])
        return DescriptorTable(base if wide else base & 0xFFFFFF, limit)

    def _lgdt(self, instruction: Instruction) -> None:
        self._require_ring_0()
        self._cpu.state.gdtr = self._table_operand(instruction)
        self._cpu.advance(instruction.length)

    def _lidt(self, instruction: Instruction) -> None:
        self._require_ring_0()
        self._cpu.state.idtr = self._table_operand(instruction)
        self._cpu.advance(instruction.length)

    def _lldt(self, instruction: Instruction) -> None:
        self._require_ring_0()
        state = self._cpu.state
        selector = self._operand(instruction, 2)
        named = Selector(selector)
        if named.is_null:
            state.ldtr = Segment(selector, 0, 0, 0)
        else:
            if named.in_ldt:
                raise general_protection(selector)
            descriptor = read_descriptor(state, self._cpu.memory, selector)
            if descriptor.system_type is not SystemDescriptorType.LDT:
                raise general_protection(selector)
            if not descriptor.present:
                raise not_present(selector)
            state.ldtr = Segment.from_descriptor(selector, descriptor)
        self._cpu.advance(instruction.length)

    def _ltr(self, instruction: Instruction) -> None:
        self._require_ring_0()
        load_task_register(self._cpu.state, self._cpu.memory, self._operand(instruction, 2))
        self._cpu.advance(instruction.length)

    # ---------------------------------------------------------------------------------------- segment registers

    def _load_segment(self, register: SegmentRegister, selector: int) -> None:
        """Load SS or a data segment register (SDM Vol. 2B "MOV": protected-mode checks)."""
        state, memory = self._cpu.state, self._cpu.memory
        named = Selector(selector)
        if register is SegmentRegister.SS:
            if named.is_null:
                raise general_protection(0)
            descriptor = read_descriptor(state, memory, selector)
            if named.rpl != state.cpl or not descriptor.writable or descriptor.dpl != state.cpl:
                raise general_protection(selector)
            if not descriptor.present:
                raise stack_fault(selector)
        elif named.is_null:
            state.set_segment(register, Segment(selector, 0, 0, 0))
            state.refresh()
            return
        else:
            descriptor = read_descriptor(state, memory, selector)
            if not descriptor.readable:
                raise general_protection(selector)
            if not descriptor.conforming and (named.rpl > descriptor.dpl or state.cpl > descriptor.dpl):
                raise general_protection(selector)
            if not descriptor.present:
                raise not_present(selector)
        self._commit(register, selector, descriptor)
        state.refresh()

    def _commit(self, register: SegmentRegister, selector: int, descriptor: Descriptor) -> None:
        mark_accessed(self._cpu.state, self._cpu.memory, selector, descriptor)
        self._cpu.state.set_segment(register, accessed(Segment.from_descriptor(selector, descriptor)))
        self._shadow.install(selector)

    def _segment_register(self, instruction: Instruction) -> SegmentRegister:
        return next(o.register for o in instruction.operands if isinstance(o, SegmentOperand))

    def _mov_to_segment(self, instruction: Instruction) -> None:
        register = self._segment_register(instruction)
        if register is SegmentRegister.CS:
            raise ProcessorFault(Vector.UD)
        was = self._cpu.state.interrupt_shadow
        self._load_segment(register, self._operand(instruction, 2))
        self._cpu.advance(instruction.length)
        if register is SegmentRegister.SS:
            self._shadow_after(was_in_shadow=was)

    def _pop_segment(self, instruction: Instruction) -> None:
        register = self._segment_register(instruction)
        was = self._cpu.state.interrupt_shadow
        size = abs(instruction.stack_pointer_increment)
        sp = self._cpu.state.rsp
        self._load_segment(register, self._peek(0, 2))
        self._set_sp(sp + size)
        self._cpu.advance(instruction.length)
        if register is SegmentRegister.SS:
            self._shadow_after(was_in_shadow=was)

    def _load_far_pointer(self, instruction: Instruction) -> None:
        destination = instruction.general
        if destination is None or instruction.memory is None:
            raise ProcessorFault(Vector.UD)
        size = destination.width // 8
        offset = self._operand(instruction, size)
        self._load_segment(_FAR_POINTER_LOADS[instruction.mnemonic], self._operand(instruction, 2, offset=size))
        self._cpu.state.set_register(destination.register, size, offset)
        self._cpu.advance(instruction.length)

    # ---------------------------------------------------------------------------------------- far transfers

    def _far_branch(self, instruction: Instruction) -> None:
        """Far CALL and JMP: to a code segment, or through a call gate (SDM Vol. 3A §5.8)."""
        pointer = next((o for o in instruction.operands if isinstance(o, FarPointerOperand)), None)
        size = (instruction.operand_size or 32) // 8
        if pointer is not None:
            selector, offset = pointer.selector, pointer.offset
        else:
            offset = self._operand(instruction, size)
            selector = self._operand(instruction, 2, offset=size)
        is_call = instruction.operation is Operation.CALL_FAR
        state = self._cpu.state
        if Selector(selector).is_null:
            raise general_protection(0)
        descriptor = read_descriptor(state, self._cpu.memory, selector)
        if descriptor.is_code:
            self._check_code(descriptor, selector, Selector(selector).rpl)
            if offset > descriptor.limit:
                raise general_protection(0)
            self._transfer(instruction, descriptor, selector, offset, size, is_call=is_call)
        elif descriptor.system_type in (SystemDescriptorType.CALL_GATE_16, SystemDescriptorType.CALL_GATE_32):
            self._through_gate(instruction, selector, descriptor, is_call=is_call)
        elif descriptor.is_tss or descriptor.system_type is SystemDescriptorType.TASK_GATE:
            raise UnsupportedGuestError(
                "a de-privileged guest switches tasks by hardware, which this VMM does not emulate: "
                "use bare-metal or vtx"
            )
        else:
            raise general_protection(selector)

    def _check_code(self, descriptor: Descriptor, selector: int, rpl: int) -> None:
        """Privilege checks of a far CALL or JMP to a code segment (SDM Vol. 3A §5.8.1)."""
        cpl = self._cpu.state.cpl
        if descriptor.conforming:
            if descriptor.dpl > cpl:
                raise general_protection(selector)
        elif rpl > cpl or descriptor.dpl != cpl:
            raise general_protection(selector)
        if not descriptor.present:
            raise not_present(selector)

    def _transfer(
        self, instruction: Instruction, descriptor: Descriptor, selector: int, offset: int, size: int, *, is_call: bool
    ) -> None:
        """Far CALL or JMP to a code segment at the same privilege level."""
        cpu, state = self._cpu, self._cpu.state
        if is_call:
            self._push_pair(state.selector(SegmentRegister.CS), state.rip + instruction.length, size)
        self._enter_code(selector, descriptor, offset, int(state.cpl))
        cpu.retire()

    def _push_pair(self, selector: int, offset: int, size: int) -> None:
        state = self._cpu.state
        width = self._stack_size()
        sp = state.register(GeneralRegister.RSP, width) - 2 * size & (1 << 8 * width) - 1
        data = (offset & (1 << 8 * size) - 1).to_bytes(size, "little") + selector.to_bytes(size, "little")
        self._cpu.memory.write(state.segment_base(SegmentRegister.SS) + sp, data, user=self._user)
        self._set_sp(sp)

    def _enter_code(self, selector: int, descriptor: Descriptor, offset: int, cpl: int) -> None:
        state = self._cpu.state
        self._commit(SegmentRegister.CS, Selector(selector).with_rpl(cpl), descriptor)
        state.rip = offset
        state.refresh(cpl=cpl)

    def _through_gate(self, instruction: Instruction, selector: int, raw: Descriptor, *, is_call: bool) -> None:
        """Far CALL or JMP through a call gate (SDM Vol. 3A §5.8.3 to §5.8.5).

        A CALL to an inner ring takes its stack from the guest's TSS, and the gate's parameters are copied to it.
        """
        cpu, state, memory = self._cpu, self._cpu.state, self._cpu.memory
        gate = GateDescriptor.decode(raw.low, raw.high)
        if gate is None or gate.dpl < state.cpl or gate.dpl < Selector(selector).rpl:
            raise general_protection(selector)
        if not gate.present:
            raise not_present(selector)
        if gate.selector.is_null:
            raise general_protection(0)
        code = read_descriptor(state, memory, gate.selector)
        if not code.is_code or code.dpl > state.cpl or (not is_call and not code.conforming and code.dpl != state.cpl):
            raise general_protection(gate.selector)
        if not code.present:
            raise not_present(gate.selector)
        size = gate.width // 8
        if not is_call or code.conforming or code.dpl == state.cpl:
            if is_call:
                self._push_pair(state.selector(SegmentRegister.CS), state.rip + instruction.length, size)
            self._enter_code(gate.selector, code, gate.offset, int(state.cpl))
            cpu.retire()
            return
        self._to_inner_ring(instruction, gate, code)
        cpu.retire()

    def _to_inner_ring(self, instruction: Instruction, gate: GateDescriptor, code: Descriptor) -> None:
        """The stack switch of a far CALL (SDM Vol. 2A "CALL", more-privilege)."""
        state, memory = self._cpu.state, self._cpu.memory
        size, cpl = gate.width // 8, int(code.dpl)
        inner = inner_stack(state, memory, cpl, external=False)
        parameters = b"".join(self._peek(i * size, size).to_bytes(size, "little") for i in range(gate.parameter_count))
        outer = (state.rip + instruction.length, state.selector(SegmentRegister.CS))
        old_stack = (state.rsp & (1 << 8 * size) - 1, state.selector(SegmentRegister.SS))
        frame = (
            b"".join(value.to_bytes(size, "little") for value in outer)
            + parameters
            + b"".join(value.to_bytes(size, "little") for value in old_stack)
        )
        mask = 0xFFFFFFFF if inner.descriptor.default_size else 0xFFFF
        bottom = inner.pointer - len(frame) & mask
        if not fits(Segment.from_descriptor(inner.selector, inner.descriptor), bottom, len(frame)):
            raise stack_fault(inner.selector)
        memory.write(inner.descriptor.base + bottom & 0xFFFFFFFF, frame)
        self._enter_code(gate.selector, code, gate.offset, cpl)
        self._commit(SegmentRegister.SS, inner.selector, inner.descriptor)
        state.refresh(cpl=cpl)
        state.rsp = bottom

    def _far_return(self, instruction: Instruction) -> None:
        """RET far (SDM Vol. 2B): to the same or an outer privilege level."""
        state = self._cpu.state
        size = (instruction.operand_size or 32) // 8
        release = instruction.immediate or 0
        offset, selector = self._peek(0, size), self._peek(size, 2)
        code = self._check_return(selector)
        if offset > code.limit:
            raise general_protection(0)
        sp = state.rsp
        rpl = int(Selector(selector).rpl)
        if rpl == state.cpl:
            self._enter_code(selector, code, offset, rpl)
            self._set_sp(sp + 2 * size + release)
        else:
            at = 2 * size + release
            new_sp, stack_selector = self._peek(at, size), self._peek(at + size, 2)
            stack = self._check_outer_stack(stack_selector, rpl)
            self._enter_code(selector, code, offset, rpl)
            self._outer_stack(stack_selector, stack, new_sp + release, rpl)
        self._cpu.retire()

    def _check_return(self, selector: int) -> Descriptor:
        """The code segment that a return goes to."""
        state = self._cpu.state
        named = Selector(selector)
        if named.is_null:
            raise general_protection(0)
        code = read_descriptor(state, self._cpu.memory, selector)
        if not code.is_code or named.rpl < state.cpl:
            raise general_protection(selector)
        if (code.conforming and code.dpl > named.rpl) or (not code.conforming and code.dpl != named.rpl):
            raise general_protection(selector)
        if not code.present:
            raise not_present(selector)
        return code

    def _check_outer_stack(self, selector: int, cpl: int) -> Descriptor:
        """The stack segment of the outer ring that a return goes to."""
        named = Selector(selector)
        if named.is_null:
            raise general_protection(0)
        stack = read_descriptor(self._cpu.state, self._cpu.memory, selector)
        if named.rpl != cpl or not stack.writable or stack.dpl != cpl:
            raise general_protection(selector)
        if not stack.present:
            raise stack_fault(selector)
        return stack

    def _outer_stack(self, selector: int, stack: Descriptor, sp: int, cpl: int) -> None:
        """Commit the outer stack, and clear the data segments that the outer ring may not use (SDM Vol. 2B "RET")."""
        state = self._cpu.state
        self._commit(SegmentRegister.SS, selector, stack)
        state.refresh(cpl=cpl)
        self._set_sp(sp)
        for register in _DATA_SEGMENTS:
            segment = state.segment(register)
            is_data_or_private_code = segment.flags & 0x1000 and segment.flags >> 8 & 0xC != 0xC
            if segment.dpl < cpl and is_data_or_private_code:
                state.set_segment(register, Segment(0, 0, 0, 0))
        state.refresh(cpl=cpl)

    def _iret(self, instruction: Instruction) -> None:
        """IRET (SDM Vol. 2A) outside virtual-8086 mode: to the same or an outer privilege level."""
        state = self._cpu.state
        size = (instruction.operand_size or 32) // 8
        eflags = state.eflags
        if eflags & _NT:
            raise UnsupportedGuestError(
                "a de-privileged guest returns from a nested task (IRET with NT), which this VMM does not emulate: "
                "use vtx"
            )
        offset, selector, flags = self._peek(0, size), self._peek(size, 2), self._peek(2 * size, size)
        cpl = int(state.cpl)
        if size == 4 and flags & _VM and cpl == 0:
            raise UnsupportedGuestError(
                "a de-privileged guest enters virtual-8086 mode, which this VMM does not emulate: use bare-metal or vtx"
            )
        code = self._check_return(selector)
        if offset > code.limit:
            raise general_protection(0)
        writable = _WRITABLE_BY_IRET
        if cpl <= iopl(eflags):
            writable |= _IF
        if cpl == 0:
            writable |= _IOPL
        if size == 2:
            writable &= 0xFFFF
        new_flags = eflags & ~writable | flags & writable
        rpl = int(Selector(selector).rpl)
        sp = state.rsp
        if rpl == cpl:
            self._enter_code(selector, code, offset, rpl)
            self._set_sp(sp + 3 * size)
        else:
            new_sp, stack_selector = self._peek(3 * size, size), self._peek(4 * size, 2)
            stack = self._check_outer_stack(stack_selector, rpl)
            self._enter_code(selector, code, offset, rpl)
            self._outer_stack(stack_selector, stack, new_sp, rpl)
        state.eflags = new_flags
        state.refresh()
        self._cpu.retire(stepping=bool(eflags & _TF))

    def _sysexit(self, _instruction: Instruction) -> None:
        """SYSEXIT (SDM Vol. 2B): to ring 3 with the flat segments behind IA32_SYSENTER_CS."""
        self._require_ring_0()
        cpu, state = self._cpu, self._cpu.state
        base = state.doubleword(cpu.engine.platform.state.sysenter_cs) & 0xFFFC
        if not base:
            raise general_protection(0)
        sp, target = state.register(GeneralRegister.RCX, 4), state.register(GeneralRegister.RDX, 4)
        state.set_segment(SegmentRegister.CS, Segment(base + 16 | 3, 0, 0xFFFFFFFF, 0x00CFFB00))
        state.set_segment(SegmentRegister.SS, Segment(base + 24 | 3, 0, 0xFFFFFFFF, 0x00CFF300))
        state.rsp = sp
        state.rip = target
        state.refresh(cpl=3)
        cpu.retire()
