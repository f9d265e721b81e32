"""Delivery of interrupts and exceptions through the IVT of real-address mode and the IDTs of the other modes.

This is the reference; native/delivery.c does the same for the usual case, where nothing is refused, on the state of a
bare processor or of a de-privileged guest's. It reads like the pseudo-code of "INT n/INTO/INT3/INT1" (SDM Vol. 2A)
and SDM Vol. 3A §6.12 and §6.14.
Nothing of the processor's state changes before every check has passed and every stack write has been translated, so a
fault in here leaves the state as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from simvirt.machine.faults import ProcessorFault, general_protection, invalid_tss, not_present, stack_fault
from simvirt.machine.inner_stack import InnerStack, fits, inner_stack
from simvirt.machine.segment_loading import accessed, mark_accessed, read_descriptor
from simvirt.machine.state import Segment
from simvirt.machine.task_switch import TaskSwitch
from simvirt.x86.exceptions import SelectorErrorCode, Vector
from simvirt.x86.flags import Eflags
from simvirt.x86.paging import is_canonical
from simvirt.x86.registers import SegmentRegister
from simvirt.x86.segments import Descriptor, GateDescriptor, Selector
from simvirt.x86.tss import Tss64
from simvirt.x86.vmx import TaskSwitchSource

if TYPE_CHECKING:
    from simvirt.machine.linear_memory import LinearMemory
    from simvirt.machine.state import ProcessorState


class Source(IntEnum):
    """Where an interrupt or exception comes from; gate checks and the EXT bit of error codes depend on it.

    The numbers are those of native/delivery.c.
    """

    EXTERNAL = 0
    """An interrupt from outside the processor."""
    EXCEPTION = 1
    SOFTWARE = 2
    """INT n, INT3 or INTO."""
    NMI = 3
    """From outside, too, but it cannot be masked, and its vector is 2."""


@dataclass(frozen=True, slots=True)
class Interruption:
    """What is to be delivered, and the RIP that its handler shall return to."""

    vector: int
    source: Source
    return_rip: int
    error_code: int | None = None

    @property
    def external(self) -> bool:
        """EXT of the error codes that its delivery may cause: 0 for INT n, INT3 and INTO alone (SDM Vol. 3A §6.13)."""
        return self.source is not Source.SOFTWARE


_CLEARED_BY_REAL_MODE: Final = int(Eflags.IF | Eflags.TF | Eflags.AC)
_CLEARED_BY_GATE: Final = int(Eflags.TF | Eflags.NT | Eflags.RF | Eflags.VM)
_IF: Final = int(Eflags.IF)
_VM: Final = int(Eflags.VM)
_RF: Final = int(Eflags.RF)
_USER_LEVEL: Final = 3
_DATA_SEGMENTS: Final = (SegmentRegister.GS, SegmentRegister.FS, SegmentRegister.DS, SegmentRegister.ES)


def deliver(state: ProcessorState, memory: LinearMemory, what: Interruption) -> TaskSwitch | None:
    """Enter the handler of `what`.

    :return: None when that is done, or the task switch that a task gate calls for; nothing has changed then.
    :raises ProcessorFault: the delivery itself meets an exception; the state is as before.
    """
    if not state.protected_mode:
        _deliver_in_real_mode(state, memory, what)
    elif state.long_mode:
        _deliver_in_long_mode(state, memory, what)
    else:
        task = _deliver_in_protected_mode(state, memory, what)
        if task is not None:
            return task
    state.interrupt_shadow = False
    return None


def _deliver_in_real_mode(state: ProcessorState, memory: LinearMemory, what: Interruption) -> None:
    """Interrupt and exception handling of real-address mode: FLAGS, CS and IP are pushed (SDM Vol. 3B §21.1.4)."""
    table = state.idtr
    if what.vector * 4 + 3 > table.limit:
        raise ProcessorFault(Vector.GP)
    target = memory.read_integer(table.base + what.vector * 4, 4)
    eflags = state.eflags
    frame = (eflags, state.selector(SegmentRegister.CS), what.return_rip)
    stack = state.segment(SegmentRegister.SS)
    mask = 0xFFFFFFFF if stack.default_size else 0xFFFF
    sp = state.rsp
    words = [(sp - 2 * number & mask, value) for number, value in enumerate(frame, 1)]
    if not all(fits(stack, offset, 2) for offset, _ in words):
        raise stack_fault()
    for offset, value in words:
        memory.write_integer(stack.base + offset, 2, value)
    state.rsp = sp & ~mask | words[-1][0]
    selector = target >> 16
    code = state.segment(SegmentRegister.CS)
    state.set_segment(SegmentRegister.CS, Segment(selector, selector << 4, code.limit, code.flags))
    state.rip = target & 0xFFFF
    state.eflags = eflags & ~_CLEARED_BY_REAL_MODE
    state.refresh()


def _check_gate(state: ProcessorState, gate: GateDescriptor | None, what: Interruption) -> GateDescriptor:
    """The checks on the IDT entry that both protected modes share."""
    if gate is None or not (gate.is_interrupt_gate or gate.is_trap_gate or gate.is_task_gate):
        raise ProcessorFault(Vector.GP, _gate_error_code(what))
    if what.source is Source.SOFTWARE and gate.dpl < state.cpl:
        raise ProcessorFault(Vector.GP, _gate_error_code(what))
    if not gate.present:
        raise ProcessorFault(Vector.NP, _gate_error_code(what))
    return gate


def _gate_error_code(what: Interruption) -> int:
    """The error code that names the IDT entry of `what`."""
    return SelectorErrorCode.for_vector(what.vector, external=what.external).encode()


def _handler_segment(state: ProcessorState, memory: LinearMemory, selector: int, what: Interruption) -> Descriptor:
    """The code segment that a gate names, checked."""
    if Selector(selector).is_null:
        raise general_protection(0, external=what.external)
    code = read_descriptor(state, memory, selector, external=what.external)
    if not code.is_code or code.dpl > state.cpl:
        raise general_protection(selector, external=what.external)
    if not code.present:
        raise not_present(selector, external=what.external)
    return code


def _deliver_in_protected_mode(state: ProcessorState, memory: LinearMemory, what: Interruption) -> TaskSwitch | None:
    table = state.idtr
    if what.vector * 8 + 7 > table.limit:
        raise ProcessorFault(Vector.GP, SelectorErrorCode.for_vector(what.vector, external=what.external).encode())
    gate = _check_gate(state, GateDescriptor.from_bytes(memory.read(table.base + what.vector * 8, 8)), what)
    if gate.is_task_gate:
        return TaskSwitch(
            TaskSwitchSource.TASK_GATE_IN_IDT,
            gate.selector,
            what.return_rip,
            error_code=what.error_code,
            external=what.external,
            resume_flag=what.source is Source.EXCEPTION and what.vector != Vector.DB,
        )
    code = _handler_segment(state, memory, gate.selector, what)
    cpl = state.cpl
    eflags = state.eflags
    virtual_8086 = bool(eflags & _VM)
    inner = not code.conforming and code.dpl < cpl
    if virtual_8086 and (not inner or code.dpl != 0):
        raise general_protection(gate.selector, external=what.external)
    if gate.offset > code.limit:
        raise general_protection(0, external=what.external)
    size = gate.width // 8
    saved_flags = eflags | (_RF if what.source is Source.EXCEPTION and what.vector != Vector.DB else 0)
    frame = [saved_flags, state.selector(SegmentRegister.CS), what.return_rip]
    new_cpl = int(cpl)
    inner_one: InnerStack | None = None
    if inner:
        new_cpl = int(code.dpl)
        inner_one = inner_stack(state, memory, new_cpl, external=what.external)
        sp, stack = inner_one.pointer, accessed(Segment.from_descriptor(inner_one.selector, inner_one.descriptor))
        frame = [state.selector(SegmentRegister.SS), state.rsp & 0xFFFFFFFF, *frame]
        if virtual_8086:
            frame = [*(state.selector(register) for register in _DATA_SEGMENTS), *frame]
    else:
        stack, sp = state.segment(SegmentRegister.SS), state.rsp & 0xFFFFFFFF
    if what.error_code is not None:
        frame.append(what.error_code)
    mask = 0xFFFFFFFF if stack.default_size else 0xFFFF
    bottom = sp - size * len(frame) & mask
    if not fits(stack, bottom, size * len(frame)):
        raise stack_fault(stack.selector if inner else 0, external=what.external)
    data = b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in reversed(frame))
    memory.write(stack.base + bottom & 0xFFFFFFFF, data, user=new_cpl == _USER_LEVEL, explicit=True)
    mark_accessed(state, memory, gate.selector, code)
    if inner_one is not None:
        mark_accessed(state, memory, inner_one.selector, inner_one.descriptor)
        state.set_segment(SegmentRegister.SS, stack)
        if virtual_8086:
            for register in _DATA_SEGMENTS:
                state.set_segment(register, Segment(0, 0, 0, 0))
    state.rsp = bottom if stack.default_size else sp & ~0xFFFF | bottom
    _enter(state, gate, accessed(Segment.from_descriptor(gate.selector.with_rpl(new_cpl), code)), eflags, new_cpl)
    return None


def _deliver_in_long_mode(state: ProcessorState, memory: LinearMemory, what: Interruption) -> None:
    table = state.idtr
    if what.vector * 16 + 15 > table.limit:
        raise ProcessorFault(Vector.GP, SelectorErrorCode.for_vector(what.vector, external=what.external).encode())
    gate = _check_gate(state, GateDescriptor.from_bytes(memory.read(table.base + what.vector * 16, 16)), what)
    code = _handler_segment(state, memory, gate.selector, what)
    if not code.long or code.default_size:
        raise general_protection(gate.selector, external=what.external)
    if not is_canonical(gate.offset):
        raise general_protection(0, external=what.external)
    cpl = state.cpl
    inner = not code.conforming and code.dpl < cpl
    new_cpl = int(code.dpl) if inner else int(cpl)
    if gate.ist:
        sp = _long_stack(state, memory, Tss64.IST1 + 8 * (gate.ist - 1), what)
    elif inner:
        sp = _long_stack(state, memory, Tss64.RSP0 + 8 * new_cpl, what)
    else:
        sp = state.rsp
    eflags = state.eflags
    saved_flags = eflags | (_RF if what.source is Source.EXCEPTION and what.vector != Vector.DB else 0)
    frame = [
        state.selector(SegmentRegister.SS),
        state.rsp,
        saved_flags,
        state.selector(SegmentRegister.CS),
        what.return_rip,
    ]
    if what.error_code is not None:
        frame.append(what.error_code)
    bottom = (sp & ~0xF) - 8 * len(frame) & (1 << 64) - 1
    if not is_canonical(bottom):
        raise stack_fault(0, external=what.external)
    data = b"".join(value.to_bytes(8, "little") for value in reversed(frame))
    memory.write(bottom, data, user=new_cpl == _USER_LEVEL, explicit=True)
    mark_accessed(state, memory, gate.selector, code)
    if inner:
        state.set_segment(SegmentRegister.SS, Segment.null_stack(new_cpl))
    state.rsp = bottom
    _enter(state, gate, accessed(Segment.from_descriptor(gate.selector.with_rpl(new_cpl), code)), eflags, new_cpl)


def _enter(state: ProcessorState, gate: GateDescriptor, code: Segment, eflags: int, cpl: int) -> None:
    """Commit: code segment, instruction pointer and flags of the handler."""
    state.set_segment(SegmentRegister.CS, code)
    state.rip = gate.offset
    state.eflags = eflags & ~_CLEARED_BY_GATE & ~(_IF if gate.is_interrupt_gate else 0)
    state.refresh(cpl=cpl)


def _long_stack(state: ProcessorState, memory: LinearMemory, offset: int, what: Interruption) -> int:
    """A stack pointer of the 64-bit TSS (SDM Vol. 3A §6.14.5)."""
    task = state.tr
    if offset + 7 > task.limit:
        raise invalid_tss(task.selector, external=what.external)
    sp = memory.read_integer(task.base + offset, 8)
    if not is_canonical(sp):
        raise stack_fault(0, external=what.external)
    return sp
