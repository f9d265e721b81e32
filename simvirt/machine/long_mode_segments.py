"""Loads of segment registers in 64-bit code that the engine does otherwise than Intel's processors.

It takes a null selector into SS whatever its RPL, and with a hidden DPL of 0, which is the CPL from then on; and it
reads the operand of LFS, LGS and LSS with REX.W as m16:32, as AMD's processors do, not as m16:64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.faults import general_protection
from simvirt.machine.state import Segment
from simvirt.x86.instruction import SegmentOperand
from simvirt.x86.operations import Operation
from simvirt.x86.registers import SegmentRegister
from simvirt.x86.segments import Selector

if TYPE_CHECKING:
    from simvirt.machine.core import Core
    from simvirt.machine.segment_loads import SegmentLoads
    from simvirt.x86.instruction import Instruction

OPERATIONS: Final = frozenset({Operation.MOV_TO_SEGMENT, Operation.LOAD_FAR_POINTER})
_FAR_POINTER_LOADS: Final = {"lss": SegmentRegister.SS, "lfs": SegmentRegister.FS, "lgs": SegmentRegister.GS}


def perform(cpu: Core, loads: SegmentLoads, instruction: Instruction) -> None:
    """MOV to a segment register, LFS, LGS or LSS (SDM Vol. 2B "MOV", Vol. 2A "LDS/LES/LFS/LGS/LSS").

    :raises ProcessorFault: it faults; nothing has changed.
    """
    if instruction.operation is Operation.MOV_TO_SEGMENT:
        register = next(one.register for one in instruction.operands if isinstance(one, SegmentOperand))
        was = cpu.state.interrupt_shadow
        _load(cpu, loads, register, cpu.operand(instruction, 2))
        if register is SegmentRegister.SS:
            _advance_into_shadow(cpu, instruction.length, was_in_shadow=was)
        else:
            cpu.advance(instruction.length)
        return
    destination = instruction.general
    assert destination is not None
    size = destination.width // 8
    offset, selector = cpu.operand(instruction, size), cpu.operand(instruction, 2, offset=size)
    _load(cpu, loads, _FAR_POINTER_LOADS[instruction.mnemonic], selector)
    cpu.state.set_register(destination.register, size, offset)
    cpu.advance(instruction.length)


def _load(cpu: Core, loads: SegmentLoads, register: SegmentRegister, selector: int) -> None:
    """Load the register; SS takes null outside of ring 3, if its RPL is CPL."""
    cpl = int(cpu.state.cpl)
    if register is not SegmentRegister.SS or not Selector(selector).is_null:
        loads.load(register, selector)
        return
    if cpl == 3 or Selector(selector).rpl != cpl:
        raise general_protection(0)
    cpu.state.set_segment(register, Segment.null_stack(cpl))
    cpu.state.refresh()


def _advance_into_shadow(cpu: Core, length: int, *, was_in_shadow: bool) -> None:
    """Of several such instructions in a row the first alone blocks interrupts and traps (SDM Vol. 3A §6.8.3)."""
    cpu.state.step_over(length)
    cpu.retire(stepping=False)
    cpu.state.interrupt_shadow = not was_in_shadow
    cpu.state.shadow_of_mov_ss = True
