"""The interpreter of a de-privileging VMM: what a trapped instruction would have done on the guest's own machine.

Instructions whose work `machine.completion` does for the bare PC are handed to it as the event that they would have
been there; the rest is here, and in `guest_far_transfers`: the interrupt flag, descriptor-table
registers, segment loads and far transfers, all of which the bare PC runs natively. Each function reads like the
operation section of its page in SDM Vol. 2, and raises `ProcessorFault` where that says #GP, #NP, #SS or #TS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.faults import ProcessorFault, general_protection
from simvirt.machine.segment_loading import load_local_descriptor_table, load_task_register
from simvirt.machine.stack import Stack
from simvirt.machine.state import DescriptorTable
from simvirt.vmm.guest_far_transfers import GuestFarTransfers, refuse_task
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Eflags, iopl
from simvirt.x86.instruction import Instruction, SegmentOperand
from simvirt.x86.operations import Operation
from simvirt.x86.prefixes import split_prefixes
from simvirt.x86.registers import SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.vmm.virtual_cpu import VirtualCpu

_TF: Final = int(Eflags.TF)
_RF: Final = int(Eflags.RF)
_AC: Final = int(Eflags.AC)
_FAR_POINTER_LOADS: Final = {
    "lds": SegmentRegister.DS,
    "les": SegmentRegister.ES,
    "lfs": SegmentRegister.FS,
    "lgs": SegmentRegister.GS,
    "lss": SegmentRegister.SS,
}


class Interpreter:
    """Interpreter routines for the instructions that trap and that `machine.completion` does not cover.

    :ivar operations: what can be interpreted here.
    """

    def __init__(self, cpu: VirtualCpu) -> None:
        self._cpu = cpu
        self._loads = cpu.loads
        self._stack = Stack(cpu)
        self._far = far = GuestFarTransfers(cpu)
        cpu.task_switch_filter = refuse_task
        self._routines: dict[Operation, Callable[[Instruction], None]] = {
            Operation.CLI: self._cli,
            Operation.STI: self._sti,
            Operation.CLAC: self._clac,
            Operation.STAC: self._stac,
            Operation.SGDT: self._store_table,
            Operation.SIDT: self._store_table,
            Operation.SLDT: self._store_selector,
            Operation.STR: self._store_selector,
            Operation.LGDT: self._lgdt,
            Operation.LIDT: self._lidt,
            Operation.LLDT: self._lldt,
            Operation.LTR: self._ltr,
            Operation.MOV_TO_SEGMENT: self._mov_to_segment,
            Operation.POP_SEGMENT: self._pop_segment,
            Operation.LOAD_FAR_POINTER: self._load_far_pointer,
            Operation.JMP_FAR: far.branch,
            Operation.CALL_FAR: far.branch,
            Operation.RET_FAR: far.far_return,
            Operation.IRET: far.iret,
            Operation.SYSEXIT: far.sysexit,
        }
        self.operations = frozenset(self._routines)

    def interpret(self, instruction: Instruction) -> None:
        """Carry `instruction`, one of `operations`, out on the guest's machine.

        :raises ProcessorFault: the guest's machine would have raised it.
        :raises UnsupportedGuestError: sound, but not virtualized so far.
        """
        self._routines[instruction.operation](instruction)

    def returns_to_virtual_8086(self, iret: Instruction) -> bool:
        """Is VM set in the image of EFLAGS that an IRET would load?"""
        return self._far.returns_to_virtual_8086(iret)

    def _require_ring_0(self) -> None:
        if self._cpu.state.cpl:
            raise general_protection(0)

    # ---------------------------------------------------------------------------------------- flags

    def _cli(self, instruction: Instruction) -> None:
        self._require_io_privilege()
        self._cpu.state.interrupt_flag = False
        self._cpu.advance(instruction.length)

    def _sti(self, instruction: Instruction) -> None:
        """Where IF was 0, interrupts wait for one instruction more, unless a trap comes first (Vol. 2B "STI")."""
        self._require_io_privilege()
        state = self._cpu.state
        was = state.interrupt_shadow or state.interrupt_flag
        state.interrupt_flag = True
        if state.eflags & _TF:
            self._cpu.advance(instruction.length)
        else:
            self._advance_into_shadow(instruction, was_in_shadow=was)

    def _require_io_privilege(self) -> None:
        state = self._cpu.state
        if state.cpl > iopl(state.eflags):
            raise general_protection(0)

    def _clac(self, instruction: Instruction) -> None:
        self._cpu.state.eflags &= ~_AC
        self._cpu.advance(instruction.length)

    def _stac(self, instruction: Instruction) -> None:
        self._cpu.state.eflags |= _AC
        self._cpu.advance(instruction.length)

    def _advance_into_shadow(self, instruction: Instruction, *, was_in_shadow: bool) -> None:
        """Step over the instruction and block interrupts and debug traps for the next one.

        Of several such instructions in a row the first alone does (SDM Vol. 3A §6.8.3).
        """
        state = self._cpu.state
        state.rip = state.rip + instruction.length & 0xFFFFFFFF
        state.eflags &= ~_RF
        self._cpu.retire(stepping=False)
        state.interrupt_shadow = not was_in_shadow
        state.shadow_of_mov_ss = instruction.operation is not Operation.STI

    # --------------------------------------------------------------------------------------- descriptor-table registers

    def _table_operand(self, instruction: Instruction) -> DescriptorTable:
        """Limit and base; of the base, code with operands of 16 bits takes 24 (SDM Vol. 2A "LGDT/LIDT")."""
        limit, base = self._cpu.operand(instruction, 2), self._cpu.operand(instruction, 4, offset=2)
        return DescriptorTable(base if _operand_size(instruction) == 4 else base & 0xFFFFFF, limit)

    def _lgdt(self, instruction: Instruction) -> None:
        self._require_ring_0()
        self._cpu.state.gdtr = self._table_operand(instruction)
        self._cpu.advance(instruction.length)

    def _lidt(self, instruction: Instruction) -> None:
        self._require_ring_0()
        self._cpu.state.idtr = self._table_operand(instruction)
        self._cpu.advance(instruction.length)

    def _store_table(self, instruction: Instruction) -> None:
        """SGDT and SIDT of a guest that runs with CR4.UMIP: the virtual register, as LGDT and LIDT have left it."""
        self._require_ring_0()
        state = self._cpu.state
        table = state.gdtr if instruction.operation is Operation.SGDT else state.idtr
        base = table.base if _operand_size(instruction) == 4 else table.base & 0xFFFFFF
        self._cpu.store(instruction, table.limit.to_bytes(2, "little") + base.to_bytes(4, "little"))
        self._cpu.advance(instruction.length)

    def _store_selector(self, instruction: Instruction) -> None:
        """SLDT and STR likewise; a 32-bit register is zero-extended, memory takes 16 bits."""
        self._require_ring_0()
        state = self._cpu.state
        segment = state.ldtr if instruction.operation is Operation.SLDT else state.tr
        size = 2 if instruction.memory is not None else _operand_size(instruction)
        self._cpu.store(instruction, segment.selector.to_bytes(size, "little"))
        self._cpu.advance(instruction.length)

    def _lldt(self, instruction: Instruction) -> None:
        self._require_ring_0()
        load_local_descriptor_table(self._cpu.state, self._cpu.memory, self._cpu.operand(instruction, 2))
        self._cpu.advance(instruction.length)

    def _ltr(self, instruction: Instruction) -> None:
        self._require_ring_0()
        load_task_register(self._cpu.state, self._cpu.memory, self._cpu.operand(instruction, 2))
        self._cpu.advance(instruction.length)

    # ---------------------------------------------------------------------------------------- segment registers

    def _segment_register(self, instruction: Instruction) -> SegmentRegister:
        return next(o.register for o in instruction.operands if isinstance(o, SegmentOperand))

    def _mov_to_segment(self, instruction: Instruction) -> None:
        register = self._segment_register(instruction)
        if register is SegmentRegister.CS:
            raise ProcessorFault(Vector.UD)
        was = self._cpu.state.interrupt_shadow
        self._loads.load(register, self._cpu.operand(instruction, 2))
        self._loaded(instruction, register, was_in_shadow=was)

    def _pop_segment(self, instruction: Instruction) -> None:
        register = self._segment_register(instruction)
        was = self._cpu.state.interrupt_shadow
        width, pointer = self._stack.width, self._stack.pointer
        self._loads.load(register, self._stack.peek(0, 2))
        self._stack.set_pointer(pointer + abs(instruction.stack_pointer_increment), width)
        self._loaded(instruction, register, was_in_shadow=was)

    def _loaded(self, instruction: Instruction, register: SegmentRegister, *, was_in_shadow: bool) -> None:
        """MOV SS and POP SS block interrupts and single-step traps until after the next instruction."""
        if register is SegmentRegister.SS:
            self._advance_into_shadow(instruction, was_in_shadow=was_in_shadow)
        else:
            self._cpu.advance(instruction.length)

    def _load_far_pointer(self, instruction: Instruction) -> None:
        """LDS, LES, LFS, LGS, LSS; the last of them blocks nothing."""
        destination = instruction.general
        if destination is None or instruction.memory is None:
            raise ProcessorFault(Vector.UD)
        size = destination.width // 8
        offset, selector = self._cpu.operand(instruction, size), self._cpu.operand(instruction, 2, offset=size)
        self._loads.load(_FAR_POINTER_LOADS[instruction.mnemonic], selector)
        self._cpu.state.set_register(destination.register, size, offset)
        self._cpu.advance(instruction.length)


def _operand_size(instruction: Instruction) -> int:
    """Bytes of operands by the code's default and the operand-size prefix (SDM Vol. 1 Table 3-3)."""
    prefixes, _ = split_prefixes(instruction.encoding, instruction.bits)
    return prefixes.operand_size(instruction.bits)
