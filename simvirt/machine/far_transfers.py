"""Far JMP, CALL and RET, and IRET, in protected and IA-32e mode, by the manual's pseudo-code.

Each routine reads like its instruction's page in SDM Vol. 2, the checks in its order, and changes nothing before all of
them have passed. The engine has these instructions too, with other orders, no accessed flags and fewer checks; so it
stops in front of each of them outside of real-address and virtual-8086 mode, where it does them alone. A VMM that
de-privileges its guest performs them on the guest's own descriptors with the same routines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.faults import general_protection, invalid_tss, not_present, stack_fault
from simvirt.machine.inner_stack import fits, inner_stack
from simvirt.machine.segment_loading import accessed, descriptor_address
from simvirt.machine.stack import Stack, push
from simvirt.machine.state import Segment
from simvirt.machine.task_switch import TaskSwitch, task_gate_target
from simvirt.x86.flags import Eflags, iopl
from simvirt.x86.instruction import FarPointerOperand, Instruction
from simvirt.x86.operations import Operation
from simvirt.x86.paging import is_canonical
from simvirt.x86.registers import SegmentRegister
from simvirt.x86.segments import Descriptor, GateDescriptor, Selector, SystemDescriptorType
from simvirt.x86.tss import Tss64
from simvirt.x86.vmx import TaskSwitchSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.core import Core
    from simvirt.machine.segment_loads import SegmentLoads

_IF: Final = int(Eflags.IF)
_TF: Final = int(Eflags.TF)
_NT: Final = int(Eflags.NT)
_VM: Final = int(Eflags.VM)
_WRITABLE: Final = int(Eflags.ARITHMETIC | Eflags.TF | Eflags.DF | Eflags.NT | Eflags.RF | Eflags.AC | Eflags.ID)
"""The flags that IRET loads at any privilege level."""
_WRITABLE_AT_0: Final = int(Eflags.IOPL | Eflags.VIF | Eflags.VIP)
_DATA_SEGMENTS: Final = (SegmentRegister.ES, SegmentRegister.FS, SegmentRegister.GS, SegmentRegister.DS)
_CONFORMING_CODE: Final = 0xC00
_VIRTUAL_8086_FLAGS: Final = 0xF300
"""A writable data segment of ring 3, present and accessed."""
_CALL_GATES: Final = (SystemDescriptorType.CALL_GATE_16, SystemDescriptorType.CALL_GATE_32)
_AVAILABLE: Final = (SystemDescriptorType.AVAILABLE_TSS_16, SystemDescriptorType.AVAILABLE_TSS_32)


class FarTransfers:
    """One routine for each instruction; `ProcessorFault` is the exception that it raises."""

    def __init__(self, cpu: Core, loads: SegmentLoads, switch: Callable[[TaskSwitch], None]) -> None:
        self._cpu = cpu
        self._loads = loads
        self._switch = switch
        self._stack = Stack(cpu)

    def perform(self, instruction: Instruction) -> None:
        """Carry one of the four out, to its end.

        :raises ProcessorFault: it faults; nothing has changed.
        """
        if instruction.operation is Operation.IRET:
            self.iret(instruction)
        elif instruction.operation is Operation.RET_FAR:
            self.far_return(instruction)
        else:
            self.branch(instruction)

    # ---------------------------------------------------------------------------------------- JMP and CALL

    def branch(self, instruction: Instruction) -> None:
        """Far JMP and CALL: to a code segment, a call gate, a task gate or a TSS (SDM Vol. 3A §5.8, §7.3)."""
        size = (instruction.operand_size or 32) // 8
        selector, offset = self._target(instruction, size)
        if Selector(selector).is_null:
            raise general_protection(0)
        descriptor = self._loads.descriptor(selector)
        if descriptor.is_code:
            self._to_code(instruction, selector, descriptor, offset, size)
        elif descriptor.system_type in _CALL_GATES:
            self._through_gate(instruction, selector, descriptor)
        else:
            self._to_task(instruction, selector, descriptor)

    def _target(self, instruction: Instruction, size: int) -> tuple[int, int]:
        pointer = next((o for o in instruction.operands if isinstance(o, FarPointerOperand)), None)
        if pointer is not None:
            return pointer.selector, pointer.offset
        offset = self._cpu.operand(instruction, size)
        return self._cpu.operand(instruction, 2, offset=size), offset

    def _to_code(self, instruction: Instruction, selector: int, code: Descriptor, offset: int, size: int) -> None:
        cpl = int(self._cpu.state.cpl)
        self._check_long(code, selector)
        if code.conforming:
            if code.dpl > cpl:
                raise general_protection(selector)
        elif self._loads.rpl(selector, code) > cpl or code.dpl != cpl:
            raise general_protection(selector)
        if not code.present:
            raise not_present(selector)
        self._call_or_jump(instruction, selector, code, offset, size)

    def _call_or_jump(self, instruction: Instruction, selector: int, code: Descriptor, offset: int, size: int) -> None:
        """The end that all transfers without a change of privilege have in common."""
        state = self._cpu.state
        is_call = instruction.operation is Operation.CALL_FAR
        if is_call:
            self._stack.require_room(2 * size)
        self._check_offset(code, offset)
        width, pointer = self._stack.width, 0
        if is_call:
            pointer = self._stack.pushed((state.selector(SegmentRegister.CS), self._next(instruction)), size)
        self._enter_code(selector, code, offset, int(state.cpl))
        if is_call:
            self._stack.set_pointer(pointer, width)
        self._cpu.retire()

    def _next(self, instruction: Instruction) -> int:
        """The return address."""
        state = self._cpu.state
        return state.rip + instruction.length & ((1 << 64) - 1 if state.code_64 else 0xFFFF_FFFF)

    def _check_long(self, code: Descriptor, selector: int) -> None:
        """In IA-32e mode L and D may not both be set (SDM Vol. 3A §5.2.1)."""
        if self._cpu.state.long_mode and code.long and code.default_size:
            raise general_protection(selector)

    def _check_offset(self, code: Descriptor, offset: int) -> None:
        """Inside the limit of the code segment, or canonical in 64-bit code."""
        if self._cpu.state.long_mode and code.long:
            if not is_canonical(offset):
                raise general_protection(0)
        elif offset > code.limit:
            raise general_protection(0)

    def _enter_code(self, selector: int, code: Descriptor, offset: int, cpl: int) -> None:
        state = self._cpu.state
        self._loads.commit(SegmentRegister.CS, Selector(selector).with_rpl(cpl), code)
        state.rip = offset
        state.refresh(cpl=cpl)

    # ---------------------------------------------------------------------------------------- tasks

    def _to_task(self, instruction: Instruction, selector: int, descriptor: Descriptor) -> None:
        """A task gate or an available TSS; anything else, and both in IA-32e mode, is #GP."""
        state, kind = self._cpu.state, descriptor.system_type
        is_gate = kind is SystemDescriptorType.TASK_GATE
        if state.long_mode or not (is_gate or kind in _AVAILABLE):
            raise general_protection(selector)
        if descriptor.dpl < max(int(state.cpl), self._loads.rpl(selector, descriptor)):
            raise general_protection(selector)
        if not descriptor.present:
            raise not_present(selector)
        if is_gate:
            selector = Selector(descriptor.low >> 16)
            task_gate_target(self._cpu, selector)
        is_call = instruction.operation is Operation.CALL_FAR
        source = TaskSwitchSource.CALL if is_call else TaskSwitchSource.JMP
        self._switch(TaskSwitch(source, selector, self._next(instruction), instruction.length))

    def _return_from_task(self, instruction: Instruction) -> None:
        """IRET with NT set: to the task whose TSS the previous task link names (SDM Vol. 3A §7.4)."""
        state = self._cpu.state
        if state.long_mode:
            raise general_protection(0)
        link = self._cpu.memory.read_integer(state.tr.base, 2)
        address = descriptor_address(state, link)
        if Selector(link).in_ldt or address is None or Selector(link).is_null:
            raise invalid_tss(link)
        task = Descriptor.from_bytes(self._cpu.memory.read(address, 8))
        if not task.is_busy_tss:
            raise invalid_tss(link)
        if not task.present:
            raise not_present(link)
        self._switch(TaskSwitch(TaskSwitchSource.IRET, link, self._next(instruction), instruction.length))

    # ---------------------------------------------------------------------------------------- call gates

    def _gate(self, selector: int, raw: Descriptor) -> GateDescriptor:
        """The gate, with its second half in IA-32e mode, where its type has to be 0 (SDM Vol. 3A §5.8.3.1)."""
        if not self._cpu.state.long_mode:
            gate = GateDescriptor.decode(raw.low, raw.high)
        else:
            address = descriptor_address(self._cpu.state, selector, 16)
            data = b"" if address is None else self._cpu.memory.read(address, 16)
            gate = GateDescriptor.from_bytes(data) if data and not data[13] & 0x1F else None
        if gate is None:
            raise general_protection(selector)
        return gate

    def _through_gate(self, instruction: Instruction, selector: int, raw: Descriptor) -> None:
        """Through a call gate (SDM Vol. 3A §5.8.3 to §5.8.5)."""
        state = self._cpu.state
        cpl = int(state.cpl)
        is_call = instruction.operation is Operation.CALL_FAR
        gate = self._gate(selector, raw)
        if gate.dpl < max(cpl, self._loads.rpl(selector, raw)):
            raise general_protection(selector)
        if not gate.present:
            raise not_present(selector)
        if gate.selector.is_null:
            raise general_protection(0)
        code = self._loads.descriptor(gate.selector)
        if not code.is_code or code.dpl > cpl or (not is_call and not code.conforming and code.dpl != cpl):
            raise general_protection(gate.selector)
        if state.long_mode and (not code.long or code.default_size):
            raise general_protection(gate.selector)
        if not code.present:
            raise not_present(gate.selector)
        if is_call and not code.conforming and code.dpl < cpl:
            self._to_inner_ring(instruction, gate, code)
        else:
            size = 8 if state.long_mode else gate.width // 8
            self._call_or_jump(instruction, gate.selector, code, gate.offset, size)

    def _to_inner_ring(self, instruction: Instruction, gate: GateDescriptor, code: Descriptor) -> None:
        """The stack switch of a far CALL (SDM Vol. 2A "CALL", more privilege)."""
        if self._cpu.state.long_mode:
            self._to_inner_ring_of_long_mode(instruction, gate, code)
            return
        cpu, state = self._cpu, self._cpu.state
        size, cpl = gate.width // 8, int(code.dpl)
        inner = inner_stack(state, cpu.memory, cpl, external=False)
        stack = accessed(Segment.from_descriptor(inner.selector, inner.descriptor))
        width = 4 if stack.default_size else 2
        pointer = inner.pointer & (1 << 8 * width) - 1
        room = size * (4 + gate.parameter_count)
        if not fits(stack, pointer - room & (1 << 8 * width) - 1, room):
            raise stack_fault(inner.selector)
        self._check_offset(code, gate.offset)
        parameters = [self._stack.peek(i * size, size) for i in reversed(range(gate.parameter_count))]
        frame = [
            state.selector(SegmentRegister.SS),
            state.rsp & 0xFFFF_FFFF,
            *parameters,
            state.selector(SegmentRegister.CS),
            self._next(instruction),
        ]
        pointer = push(cpu.memory, stack.base, pointer, frame, width=width, size=size, user=cpl == 3)
        self._loads.touch(inner.selector, inner.descriptor)
        self._enter_code(gate.selector, code, gate.offset, cpl)
        self._loads.commit(SegmentRegister.SS, inner.selector, inner.descriptor)
        state.refresh(cpl=cpl)
        self._stack.set_pointer(pointer)
        cpu.retire()

    def _to_inner_ring_of_long_mode(self, instruction: Instruction, gate: GateDescriptor, code: Descriptor) -> None:
        """SS becomes null with the new CPL as RPL, RSP comes from the 64-bit TSS (SDM Vol. 3A §5.8.5.1)."""
        cpu, state, cpl = self._cpu, self._cpu.state, int(code.dpl)
        task, at = state.tr, Tss64.RSP0 + 8 * cpl
        if at + 7 > task.limit:
            raise invalid_tss(task.selector)
        pointer = cpu.memory.read_integer(task.base + at, 8)
        if not is_canonical(pointer) or not is_canonical(pointer - 32):
            raise stack_fault(0)
        self._check_offset(code, gate.offset)
        frame = (
            state.selector(SegmentRegister.SS),
            state.rsp,
            state.selector(SegmentRegister.CS),
            self._next(instruction),
        )
        pointer = push(cpu.memory, 0, pointer, frame, width=8, size=8)
        self._enter_code(gate.selector, code, gate.offset, cpl)
        state.set_segment(SegmentRegister.SS, Segment.null_stack(cpl))
        state.refresh(cpl=cpl)
        state.rsp = pointer
        cpu.retire()

    # ---------------------------------------------------------------------------------------- RET and IRET

    def far_return(self, instruction: Instruction) -> None:
        """RET far: to the same or an outer privilege level (SDM Vol. 2B "RET")."""
        size = (instruction.operand_size or 32) // 8
        self._stack.require(2 * size)
        self._return(size, 2 * size, released=instruction.immediate or 0)
        self._cpu.retire()

    def _return(self, size: int, frame: int, *, released: int, always_stack: bool = False) -> None:
        """Go to the CS:RIP on the stack; an outer SS:RSP lies `frame` and `released` bytes above it.

        `always_stack`: SS:RSP are popped without a change of privilege, too.
        """
        state, stack = self._cpu.state, self._stack
        offset, selector = stack.peek(0, size), stack.peek(size, 2)
        code = self._check_return(selector)
        rpl = self._loads.rpl(selector, code)
        at = frame + released
        if rpl == state.cpl and not always_stack:
            self._check_offset(code, offset)
            width, pointer = stack.width, stack.pointer + at
            self._enter_code(selector, code, offset, rpl)
            stack.set_pointer(pointer, width)
            return
        stack.require(at + 2 * size)
        pointer, stack_selector = stack.peek(at, size), stack.peek(at + size, 2)
        outer = self._check_outer_stack(stack_selector, rpl, code)
        self._check_offset(code, offset)
        outward = rpl > state.cpl
        if outer is not None:
            self._loads.touch(stack_selector, outer)
        self._enter_code(selector, code, offset, rpl)
        if outer is None:
            state.set_segment(SegmentRegister.SS, Segment.null_stack(rpl))
        else:
            self._loads.commit(SegmentRegister.SS, stack_selector, outer)
        state.refresh(cpl=rpl)
        stack.set_pointer(pointer + released)
        if outward:
            self._leave_data_segments(rpl)

    def _check_return(self, selector: int) -> Descriptor:
        """The code segment that a return goes to (SDM Vol. 3A §5.8.6)."""
        if Selector(selector).is_null:
            raise general_protection(0)
        code = self._loads.descriptor(selector)
        rpl = self._loads.rpl(selector, code)
        if not code.is_code or rpl < self._cpu.state.cpl:
            raise general_protection(selector)
        self._check_long(code, selector)
        if code.dpl > rpl if code.conforming else code.dpl != rpl:
            raise general_protection(selector)
        if not code.present:
            raise not_present(selector)
        return code

    def _check_outer_stack(self, selector: int, cpl: int, code: Descriptor) -> Descriptor | None:
        """The stack segment of a return; None for a null one, which 64-bit code outside of ring 3 may have."""
        if Selector(selector).is_null:
            if self._cpu.state.long_mode and code.long and cpl != 3:
                return None
            raise general_protection(0)
        return self._loads.stack(selector, cpl)

    def _leave_data_segments(self, cpl: int) -> None:
        """Clear the data segments that the outer ring may not use (SDM Vol. 2B "RET"); null ones lose their RPL."""
        state = self._cpu.state
        for register in _DATA_SEGMENTS:
            segment = state.segment(register)
            if Selector(segment.selector).is_null:  # in IA-32e mode FS and GS may have a base that stays
                state.set_segment(register, Segment(0, segment.base, segment.limit, segment.flags))
            elif segment.dpl < cpl and segment.flags & _CONFORMING_CODE != _CONFORMING_CODE:
                state.set_segment(register, Segment(0, 0, 0, 0))
        state.refresh(cpl=cpl)

    def returns_to_virtual_8086(self, instruction: Instruction) -> bool:
        """Is VM set in the image of EFLAGS that an IRET would load?"""
        return instruction.operand_size == 32 and bool(self._stack.peek(8, 4) & _VM)

    def iret(self, instruction: Instruction) -> None:
        """IRET outside virtual-8086 mode (SDM Vol. 2A "IRET")."""
        state = self._cpu.state
        self._cpu.unblock_nmi()
        size = (instruction.operand_size or 32) // 8
        eflags, cpl = state.eflags, int(state.cpl)
        if eflags & _NT:
            self._return_from_task(instruction)
            return
        self._stack.require(3 * size)
        flags = self._stack.peek(2 * size, size)
        if cpl == 0 and not state.long_mode and self.returns_to_virtual_8086(instruction):
            self._to_virtual_8086(flags)
        else:
            self._return(size, 3 * size, released=0, always_stack=state.code_64)
            writable = _WRITABLE
            if cpl <= iopl(eflags):
                writable |= _IF
            if cpl == 0:
                writable |= _WRITABLE_AT_0
            if size == 2:
                writable &= 0xFFFF
            state.eflags = eflags & ~writable | flags & writable
            state.refresh()
        self._cpu.retire(stepping=bool(eflags & _TF))

    def _to_virtual_8086(self, flags: int) -> None:
        """Return to virtual-8086 mode: nine doublewords, ring 3 (SDM Vol. 3B §21.2.5)."""
        state, stack = self._cpu.state, self._stack
        stack.require(36)
        offset = stack.peek(0, 4)
        if offset > 0xFFFF:
            raise general_protection(0)
        code, pointer = stack.peek(4, 2), stack.peek(12, 4)
        selectors = [stack.peek(at, 2) for at in (16, 20, 24, 28, 32)]
        order = (SegmentRegister.SS, SegmentRegister.ES, SegmentRegister.DS, SegmentRegister.FS, SegmentRegister.GS)
        for register, selector in ((SegmentRegister.CS, code), *zip(order, selectors, strict=True)):
            state.set_segment(register, Segment(selector, selector << 4, 0xFFFF, _VIRTUAL_8086_FLAGS))
        state.rip, state.rsp = offset, pointer
        state.eflags = flags & (_WRITABLE | _WRITABLE_AT_0 | _IF | _VM)
        state.refresh(cpl=3)
