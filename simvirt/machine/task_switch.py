"""Task switches by hardware (SDM Vol. 3A §7.3): by JMP, CALL, IRET with NT set, and through a task gate of the IDT.

`switch_tasks` goes by the fourteen steps of §7.3. Up to the point of no return, where the new task's state is loaded,
an exception belongs to the old task and nothing has changed; from there on it is the new task's, whose first
instruction has not been executed (Table 7-1, Table 7-2). There are no tasks in IA-32e mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.faults import ProcessorFault, general_protection, invalid_tss, not_present, stack_fault
from simvirt.machine.segment_loading import accessed, descriptor_address, mark_accessed, read_descriptor
from simvirt.machine.stack import Stack
from simvirt.machine.state import Segment
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import EFLAGS_DEFINED, Cr0, Eflags
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from simvirt.x86.segments import Descriptor, Selector, SystemDescriptorType
from simvirt.x86.tss import TSS16_MINIMUM_LIMIT, TSS32_MINIMUM_LIMIT, Tss16, Tss32
from simvirt.x86.vmx import TaskSwitchSource

if TYPE_CHECKING:
    from simvirt.machine.core import Core


@dataclass(frozen=True, slots=True)
class TaskSwitch:
    """A task switch that has passed the checks on how it was asked for."""

    source: TaskSwitchSource
    selector: int
    """Of the new task's TSS."""
    return_rip: int
    """Where the old task goes on, once it does."""
    length: int = 0
    """Of the instruction, 0 for an exception or an interrupt."""
    error_code: int | None = None
    """What is pushed on the new task's stack."""
    external: bool = False
    """The EXT bit of error codes."""
    resume_flag: bool = False
    """Does the old task's image of EFLAGS get RF? After a fault it does."""

    @property
    def nests(self) -> bool:
        """Does the new task return to the old one? Then it is linked and NT is set."""
        return self.source in (TaskSwitchSource.CALL, TaskSwitchSource.TASK_GATE_IN_IDT)


_NT: Final = int(Eflags.NT)
_RF: Final = int(Eflags.RF)
_VM: Final = int(Eflags.VM)
_BUSY: Final = 2
_LOCAL_BREAKPOINTS: Final = 0x155
"""DR7.L0 to L3 and LE."""
_PG, _TS = int(Cr0.PG), int(Cr0.TS)
_VIRTUAL_8086_FLAGS: Final = 0xF300
_HIGH_WORD: Final = 0xFFFF_0000
_SAVED_32: Final = range(Tss32.EIP, Tss32.GS + 4)
_SAVED_16: Final = range(Tss16.IP, Tss16.DS + 2)
_GENERAL: Final = tuple(GeneralRegister)[:8]
_SEGMENTS: Final = tuple(SegmentRegister)
_AVAILABLE: Final = {
    SystemDescriptorType.AVAILABLE_TSS_16: TSS16_MINIMUM_LIMIT,
    SystemDescriptorType.AVAILABLE_TSS_32: TSS32_MINIMUM_LIMIT,
    SystemDescriptorType.BUSY_TSS_16: TSS16_MINIMUM_LIMIT,
    SystemDescriptorType.BUSY_TSS_32: TSS32_MINIMUM_LIMIT,
}


def task_gate_target(cpu: Core, selector: int, *, external: bool = False) -> None:
    """Check the TSS that a task gate, or JMP or CALL itself, names: in the GDT, available and present.

    :raises ProcessorFault: #GP(selector), #NP(selector).
    """
    address = descriptor_address(cpu.state, selector)
    if Selector(selector).in_ldt or Selector(selector).is_null or address is None:
        raise general_protection(selector, external=external)
    task = Descriptor.from_bytes(cpu.memory.read(address, 8))
    if not task.is_tss or task.is_busy_tss:
        raise general_protection(selector, external=external)
    if not task.present:
        raise not_present(selector, external=external)


@dataclass(frozen=True, slots=True)
class _NewTask:
    """What the TSS of the new task holds (SDM Vol. 3A Figures 7-2 and 7-10)."""

    rip: int
    eflags: int
    general: tuple[int, ...]
    selectors: tuple[int, ...]
    """ES, CS, SS, DS, FS, GS."""
    ldt: int
    cr3: int | None
    trap: bool

    @classmethod
    def read(cls, cpu: Core, base: int, *, is_32_bit: bool) -> _NewTask:
        if is_32_bit:
            data = cpu.memory.read(base, TSS32_MINIMUM_LIMIT + 1)
            words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
            field = words.__getitem__
            return cls(
                field(Tss32.EIP // 4),
                field(Tss32.EFLAGS // 4) & EFLAGS_DEFINED,
                tuple(words[Tss32.EAX // 4 :][:8]),
                tuple(word & 0xFFFF for word in words[Tss32.ES // 4 :][:6]),
                field(Tss32.LDT // 4) & 0xFFFF,
                field(Tss32.CR3 // 4),
                bool(field(Tss32.TRAP // 4) & 1),
            )
        data = cpu.memory.read(base, TSS16_MINIMUM_LIMIT + 1)
        words = [int.from_bytes(data[at : at + 2], "little") for at in range(0, len(data), 2)]
        field = words.__getitem__
        return cls(
            field(Tss16.IP // 2),
            field(Tss16.FLAGS // 2) & EFLAGS_DEFINED,
            tuple(word | _HIGH_WORD for word in words[Tss16.AX // 2 :][:8]),  # the upper halves are not defined
            (*words[Tss16.ES // 2 :][:4], 0, 0),
            field(Tss16.LDT // 2),
            None,
            False,
        )


def switch_tasks(cpu: Core, what: TaskSwitch) -> None:
    """Save the old task's state, load the new one's, and count the instruction, if one did it.

    :raises ProcessorFault: of the old task while RIP is unchanged, else of the new one.
    """
    state, memory, external = cpu.state, cpu.memory, what.external
    address = descriptor_address(state, what.selector)
    if address is None:
        raise invalid_tss(what.selector, external=external)
    descriptor = Descriptor.from_bytes(memory.read(address, 8))
    minimum = _AVAILABLE.get(descriptor.system_type) if descriptor.system_type is not None else None
    if minimum is None or descriptor.limit < minimum:
        raise invalid_tss(what.selector, external=external)
    is_32_bit = minimum == TSS32_MINIMUM_LIMIT
    new = _NewTask.read(cpu, descriptor.base, is_32_bit=is_32_bit)
    _leave(cpu, what, descriptor.base)
    if what.source is not TaskSwitchSource.IRET:
        memory.write_integer(address + 5, 1, descriptor.flags >> 8 & 0xFF | _BUSY)
    _load_registers(cpu, what, new, Segment.from_descriptor(what.selector, descriptor))
    if what.source is not TaskSwitchSource.TASK_GATE_IN_IDT:
        cpu.engine.count += 1
    state.interrupt_shadow = False
    _load_segments(cpu, new, external=external)
    _begin(cpu, what, new, is_32_bit=is_32_bit)


def _leave(cpu: Core, what: TaskSwitch, new_base: int) -> None:
    """Save the old task in its TSS, clear its busy flag or link to it; every write is translated before the first."""
    state, memory = cpu.state, cpu.memory
    old = state.tr
    is_32_bit = not old.is_16_bit_tss
    saved = _SAVED_32 if is_32_bit else _SAVED_16
    if old.limit < saved[-1]:
        raise invalid_tss(old.selector, external=what.external)
    image = bytearray(memory.read(old.base + saved[0], len(saved)))
    _save(cpu, what, image, is_32_bit=is_32_bit)
    busy = None if what.nests else descriptor_address(state, old.selector)
    if busy is not None:
        memory.probe_write(busy + 5, 1)
    if what.nests:
        memory.probe_write(new_base, 2)
    memory.write(old.base + saved[0], bytes(image))
    if busy is not None:
        memory.write_integer(busy + 5, 1, memory.read_integer(busy + 5, 1) & ~_BUSY)
    if what.nests:
        memory.write_integer(new_base, 2, old.selector)


def _save(cpu: Core, what: TaskSwitch, image: bytearray, *, is_32_bit: bool) -> None:
    """General registers, segment selectors, EFLAGS and EIP, into the part of a TSS that begins with EIP."""
    state = cpu.state
    eflags = state.eflags
    if what.source is TaskSwitchSource.IRET:
        eflags &= ~_NT
    if what.resume_flag:
        eflags |= _RF
    width = 4 if is_32_bit else 2
    values = [what.return_rip, eflags, *(state[register] for register in _GENERAL)]
    for number, value in enumerate(values):
        image[number * width : (number + 1) * width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    for number, register in enumerate(_SEGMENTS if is_32_bit else _SEGMENTS[:4]):
        at = (len(values) + number) * width  # of the 32 bits of a selector's field, 16 are written
        image[at : at + 2] = state.selector(register).to_bytes(2, "little")


def _load_registers(cpu: Core, what: TaskSwitch, new: _NewTask, task: Segment) -> None:
    """Everything that needs no checks; the segment registers have their visible parts alone after it."""
    state = cpu.state
    state.tr = task
    state.set_control_register(0, state.cr0 | _TS)
    state.set_debug_register(7, state.debug_register(7) & ~_LOCAL_BREAKPOINTS)
    if new.cr3 is not None and state.cr0 & _PG:
        if state.pae_paging:
            cpu.load_pdptes(new.cr3)
        state.set_control_register(3, new.cr3)
        cpu.engine.flush_tlb()
    for register, value in zip(_GENERAL, new.general, strict=True):
        state.set_register(register, 4, value)
    state.eflags = new.eflags | (_NT if what.nests else 0)
    state.rip = new.rip
    state.ldtr = Segment(new.ldt, 0, 0, 0)
    virtual_8086 = bool(new.eflags & _VM)
    for segment_register, selector in zip(_SEGMENTS, new.selectors, strict=True):
        segment = Segment(selector, 0, 0, 0)
        if virtual_8086:
            segment = Segment(selector, selector << 4, 0xFFFF, _VIRTUAL_8086_FLAGS)
        state.set_segment(segment_register, segment)
    state.refresh(cpl=3 if virtual_8086 else new.selectors[SegmentRegister.CS] & 3)


def _load_segments(cpu: Core, new: _NewTask, *, external: bool) -> None:
    """LDTR and the segment registers, with the checks of SDM Vol. 3A Table 7-1."""
    state = cpu.state
    if not Selector(new.ldt).is_null:
        table = None if Selector(new.ldt).in_ldt else _descriptor(cpu, new.ldt, external=external)
        if table is None or table.system_type is not SystemDescriptorType.LDT or not table.present:
            raise invalid_tss(new.ldt, external=external)
        state.ldtr = Segment.from_descriptor(new.ldt, table)
    if new.eflags & _VM:
        return
    code, stack = new.selectors[SegmentRegister.CS], new.selectors[SegmentRegister.SS]
    cpl = code & 3
    _load(cpu, SegmentRegister.CS, code, _code(cpu, code, external=external))
    _load(cpu, SegmentRegister.SS, stack, _stack(cpu, stack, cpl, external=external))
    for register in (SegmentRegister.DS, SegmentRegister.ES, SegmentRegister.FS, SegmentRegister.GS):
        selector = new.selectors[register]
        if not Selector(selector).is_null:
            _load(cpu, register, selector, _data(cpu, selector, cpl, external=external))
    state.refresh(cpl=cpl)


def _load(cpu: Core, register: SegmentRegister, selector: int, descriptor: Descriptor) -> None:
    mark_accessed(cpu.state, cpu.memory, selector, descriptor)
    cpu.state.set_segment(register, accessed(Segment.from_descriptor(selector, descriptor)))
    cpu.state.refresh()


def _descriptor(cpu: Core, selector: int, *, external: bool) -> Descriptor:
    """The descriptor of a selector of the new task, which may not be null here."""
    if Selector(selector).is_null:
        raise invalid_tss(selector, external=external)
    try:
        return read_descriptor(cpu.state, cpu.memory, selector, external=external)
    except ProcessorFault as fault:
        if fault.vector is Vector.GP:
            raise invalid_tss(selector, external=external) from None
        raise


def _code(cpu: Core, selector: int, *, external: bool) -> Descriptor:
    code = _descriptor(cpu, selector, external=external)
    rpl = selector & 3
    if not code.is_code or (code.dpl > rpl if code.conforming else code.dpl != rpl):
        raise invalid_tss(selector, external=external)
    if not code.present:
        raise not_present(selector, external=external)
    return code


def _stack(cpu: Core, selector: int, cpl: int, *, external: bool) -> Descriptor:
    stack = _descriptor(cpu, selector, external=external)
    if not stack.writable or stack.dpl != cpl or selector & 3 != cpl:
        raise invalid_tss(selector, external=external)
    if not stack.present:
        raise stack_fault(selector, external=external)
    return stack


def _data(cpu: Core, selector: int, cpl: int, *, external: bool) -> Descriptor:
    data = _descriptor(cpu, selector, external=external)
    if not data.readable or (not data.conforming and data.dpl < max(cpl, selector & 3)):
        raise invalid_tss(selector, external=external)
    if not data.present:
        raise not_present(selector, external=external)
    return data


def _begin(cpu: Core, what: TaskSwitch, new: _NewTask, *, is_32_bit: bool) -> None:
    """The error code goes to the new stack; EIP is checked; a TSS with the T flag makes a debug exception."""
    state = cpu.state
    if what.error_code is not None:
        stack, size = Stack(cpu), 4 if is_32_bit else 2
        try:
            stack.require_room(size)
        except ProcessorFault:
            raise stack_fault(0, external=what.external) from None
        stack.set_pointer(stack.pushed((what.error_code,), size))
    if new.rip > state.segment(SegmentRegister.CS).limit:
        raise general_protection(0, external=what.external)
    if new.trap:
        cpu.trap_of_task_switch()
