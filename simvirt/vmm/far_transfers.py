"""Far JMP, CALL and RET, IRET and SYSEXIT of a de-privileged guest (SDM Vol. 2A and 2B, each instruction's page).

They are carried out on the guest's own descriptors, gates and TSS, in the order of the bare PC: what it checks last is
checked last here, so that a transfer that fails has had the same effects. Where that order, or a check, is not the
manual's, docs/deviations.md says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import UnsupportedGuestError
from simvirt.machine.faults import ProcessorFault, general_protection, invalid_tss, not_present
from simvirt.machine.inner_stack import InnerStack, inner_stack
from simvirt.machine.state import Segment
from simvirt.vmm.guest_stack import GuestStack, push
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Eflags, iopl
from simvirt.x86.instruction import FarPointerOperand, Instruction
from simvirt.x86.operations import Operation
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from simvirt.x86.segments import Descriptor, GateDescriptor, Selector, SystemDescriptorType

if TYPE_CHECKING:
    from simvirt.vmm.segment_loads import SegmentLoads
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
_KEEP_NULL: Final = (SegmentRegister.FS, SegmentRegister.GS)
"""The engine leaves these as they are when they are null, with the RPL that they have."""
_CONFORMING_CODE: Final = 0xC00
_FLAT_CODE: Final = 0x00CFFB00
_FLAT_DATA: Final = 0x00CFF300
_CALL_GATES: Final = (SystemDescriptorType.CALL_GATE_16, SystemDescriptorType.CALL_GATE_32)
_TASKS: Final = (
    SystemDescriptorType.AVAILABLE_TSS_16,
    SystemDescriptorType.AVAILABLE_TSS_32,
    SystemDescriptorType.TASK_GATE,
)


class FarTransfers:
    """One routine for each instruction; `ProcessorFault` is the exception that the guest's machine would raise."""

    def __init__(self, cpu: VirtualCpu, loads: SegmentLoads) -> None:
        self._cpu = cpu
        self._loads = loads
        self._stack = GuestStack(cpu)

    # ---------------------------------------------------------------------------------------- JMP and CALL

    def branch(self, instruction: Instruction) -> None:
        """Far JMP and CALL: to a code segment, or through a call gate (SDM Vol. 3A §5.8)."""
        size = (instruction.operand_size or 32) // 8
        selector, offset = self._target(instruction, size)
        is_call = instruction.operation is Operation.CALL_FAR
        if Selector(selector).is_null:
            raise general_protection(0)
        descriptor = self._loads.descriptor(selector)
        if descriptor.is_code:
            self._check_code(descriptor, selector)
            pointer = self._push_return(instruction, size) if is_call else None
            if offset > descriptor.limit:
                raise general_protection(selector if is_call else 0)
            self._enter(selector, descriptor, offset, int(self._cpu.state.cpl), pointer)
        elif descriptor.system_type in _CALL_GATES:
            self._through_gate(instruction, selector, descriptor, is_call=is_call)
        else:
            self._refuse_task(selector, descriptor)

    def _target(self, instruction: Instruction, size: int) -> tuple[int, int]:
        pointer = next((o for o in instruction.operands if isinstance(o, FarPointerOperand)), None)
        if pointer is not None:
            return pointer.selector, pointer.offset
        offset = self._cpu.operand(instruction, size)
        return self._cpu.operand(instruction, 2, offset=size), offset

    def _check_code(self, descriptor: Descriptor, selector: int) -> None:
        """Privilege checks of a far CALL or JMP to a code segment (SDM Vol. 3A §5.8.1)."""
        cpl = self._cpu.state.cpl
        if descriptor.conforming:
            if descriptor.dpl > cpl:
                raise general_protection(selector)
        elif self._loads.rpl(selector, descriptor) > cpl or descriptor.dpl != cpl:
            raise general_protection(selector)
        if not descriptor.present:
            raise not_present(selector)

    def _refuse_task(self, selector: int, descriptor: Descriptor) -> None:
        """What is no code and no call gate: a task, which the guest's privilege may reach, or a fault."""
        privilege = max(int(self._cpu.state.cpl), self._loads.rpl(selector, descriptor))
        if descriptor.system_type not in _TASKS or descriptor.dpl < privilege:
            raise general_protection(selector)
        if not descriptor.present:
            raise not_present(selector)
        raise UnsupportedGuestError(
            f"the guest switches tasks by hardware (selector {selector:#06x}), which a VMM that runs it de-privileged "
            "does not emulate so far: use bare-metal or vtx"
        )

    def _push_return(self, instruction: Instruction, size: int) -> int:
        """Push CS and EIP; the stack pointer is left for the commit."""
        state = self._cpu.state
        return self._stack.pushed((state.selector(SegmentRegister.CS), state.rip + instruction.length), size)

    def _enter(self, selector: int, descriptor: Descriptor, offset: int, cpl: int, pointer: int | None = None) -> None:
        """Commit a transfer within the ring."""
        if pointer is not None:
            self._stack.set_pointer(pointer)
        self._enter_code(selector, descriptor, offset, cpl)
        self._cpu.retire()

    def _enter_code(self, selector: int, descriptor: Descriptor, offset: int, cpl: int) -> None:
        state = self._cpu.state
        self._loads.commit(SegmentRegister.CS, Selector(selector).with_rpl(cpl), descriptor)
        state.rip = offset
        state.refresh(cpl=cpl)

    # ---------------------------------------------------------------------------------------- call gates

    def _through_gate(self, instruction: Instruction, selector: int, raw: Descriptor, *, is_call: bool) -> None:
        """Through a call gate (SDM Vol. 3A §5.8.3 to §5.8.5).

        To an inner ring it takes the stack from the guest's TSS and copies the gate's parameters.
        """
        state = self._cpu.state
        cpl = int(state.cpl)
        gate = GateDescriptor.decode(raw.low, raw.high)
        if gate is None or gate.dpl < max(cpl, self._loads.rpl(selector, raw)):
            raise general_protection(selector)
        if not gate.present:
            raise not_present(selector)
        if gate.selector.is_null:
            raise general_protection(0)
        code = self._loads.descriptor(gate.selector)
        if not code.is_code or code.dpl > cpl or (not is_call and not code.conforming and code.dpl != cpl):
            raise general_protection(gate.selector)
        if not code.present:
            raise not_present(gate.selector) if is_call else general_protection(gate.selector)
        if is_call and not code.conforming and code.dpl < cpl:
            self._to_inner_ring(instruction, gate, code)
            return
        if not is_call and gate.offset > code.limit:
            raise general_protection(0)
        pointer = self._push_return(instruction, gate.width // 8) if is_call else None
        self._enter(gate.selector, code, gate.offset, cpl, pointer)

    def _to_inner_ring(self, instruction: Instruction, gate: GateDescriptor, code: Descriptor) -> None:
        """The stack switch of a far CALL (SDM Vol. 2A "CALL", more privilege)."""
        state = self._cpu.state
        size, cpl = gate.width // 8, int(code.dpl)
        inner = self._inner_stack(cpl)
        parameters = [self._stack.peek(i * size, size) for i in reversed(range(gate.parameter_count))]
        frame = [
            state.selector(SegmentRegister.SS),
            state.register(GeneralRegister.RSP, 4),
            *parameters,
            state.selector(SegmentRegister.CS),
            state.rip + instruction.length,
        ]
        width = 4 if inner.descriptor.default_size else 2
        pointer = push(self._cpu.memory, inner.descriptor.base, inner.pointer, frame, width=width, size=size)
        self._enter_code(gate.selector, code, gate.offset, cpl)
        self._loads.commit(SegmentRegister.SS, inner.selector, inner.descriptor)
        state.refresh(cpl=cpl)
        self._stack.set_pointer(pointer)
        self._cpu.retire()

    def _inner_stack(self, cpl: int) -> InnerStack:
        """The stack of the TSS. One that is not present is #TS here, as in the bare PC's engine, and not #SS."""
        try:
            return inner_stack(self._cpu.state, self._cpu.memory, cpl, external=False)
        except ProcessorFault as fault:
            if fault.vector is Vector.SS:
                raise invalid_tss(fault.error_code or 0) from None
            raise

    # ---------------------------------------------------------------------------------------- RET and IRET

    def far_return(self, instruction: Instruction) -> None:
        """RET far: to the same or an outer privilege level."""
        size = (instruction.operand_size or 32) // 8
        self._return(size, 2 * size, released=instruction.immediate or 0)
        self._cpu.retire()

    def _return(self, size: int, frame: int, *, released: int) -> None:
        """Go to the CS:EIP on the stack; an outer SS:ESP lies `frame` and `released` bytes above it."""
        state, stack = self._cpu.state, self._stack
        offset, selector = stack.peek(0, size), stack.peek(size, 2)
        code = self._check_return(selector)
        rpl = self._loads.rpl(selector, code)
        at = frame + released
        if rpl == state.cpl:
            pointer = stack.pointer + at
            self._enter_code(selector, code, offset, rpl)
            stack.set_pointer(pointer)
            return
        pointer, stack_selector = stack.peek(at, size), stack.peek(at + size, 2)
        outer = self._check_outer_stack(stack_selector, rpl)
        self._enter_code(selector, code, offset, rpl)
        self._outer_stack(stack_selector, outer, pointer + released, rpl)

    def _check_return(self, selector: int) -> Descriptor:
        """The code segment that a return goes to (SDM Vol. 3A §5.8.6)."""
        if Selector(selector).is_null:
            raise general_protection(0)
        code = self._loads.descriptor(selector)
        rpl = self._loads.rpl(selector, code)
        if not code.is_code or rpl < self._cpu.state.cpl:
            raise general_protection(selector)
        if code.dpl > rpl if code.conforming else code.dpl != rpl:
            raise general_protection(selector)
        if not code.present:
            raise not_present(selector)
        return code

    def _check_outer_stack(self, selector: int, cpl: int) -> Descriptor:
        """The stack segment of the outer ring. One that is not present is #NP here, as in the bare PC's engine."""
        if Selector(selector).is_null:
            raise general_protection(0)
        try:
            return self._loads.stack(selector, cpl)
        except ProcessorFault as fault:
            if fault.vector is Vector.SS:
                raise not_present(selector) from None
            raise

    def _outer_stack(self, selector: int, stack: Descriptor, pointer: int, cpl: int) -> None:
        """Commit the outer stack, and clear the data segments that the outer ring may not use (SDM Vol. 2B "RET")."""
        state = self._cpu.state
        self._loads.commit(SegmentRegister.SS, selector, stack)
        state.refresh(cpl=cpl)
        self._stack.set_pointer(pointer)
        for register in _DATA_SEGMENTS:
            segment = state.segment(register)
            if register in _KEEP_NULL and Selector(segment.selector).is_null:
                continue
            if segment.dpl < cpl and segment.flags & _CONFORMING_CODE != _CONFORMING_CODE:
                state.set_segment(register, Segment(0, 0, 0, 0))
        state.refresh(cpl=cpl)

    def returns_to_virtual_8086(self, instruction: Instruction) -> bool:
        """Is VM set in the image of EFLAGS that an IRET would load?"""
        return instruction.operand_size == 32 and bool(self._stack.peek(8, 4) & _VM)

    def iret(self, instruction: Instruction) -> None:
        """IRET outside virtual-8086 mode: to the same or an outer privilege level."""
        state = self._cpu.state
        size = (instruction.operand_size or 32) // 8
        eflags = state.eflags
        if eflags & _NT:
            raise UnsupportedGuestError(
                "the guest returns from a nested task (IRET with NT set), which a VMM that runs it de-privileged does "
                "not emulate so far: use bare-metal or vtx"
            )
        flags = self._stack.peek(2 * size, size)
        cpl = int(state.cpl)
        if cpl == 0 and self.returns_to_virtual_8086(instruction):
            raise UnsupportedGuestError(
                "the guest enters virtual-8086 mode (IRET with VM in the image of EFLAGS), which a VMM that runs it "
                "de-privileged does not emulate so far: use bare-metal or vtx"
            )
        self._return(size, 3 * size, released=0)
        writable = _WRITABLE_BY_IRET
        if cpl <= iopl(eflags):
            writable |= _IF
        if cpl == 0:
            writable |= _IOPL
        if size == 2:
            writable &= 0xFFFF
        state.eflags = eflags & ~writable | flags & writable
        state.refresh()
        self._cpu.retire(stepping=bool(eflags & _TF))

    # ---------------------------------------------------------------------------------------- SYSEXIT

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
