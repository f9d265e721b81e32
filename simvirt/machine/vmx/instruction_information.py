"""The VM-exit instruction-information field, from the instruction that exited (SDM Vol. 3C §28.2.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError
from simvirt.x86.instruction import GeneralOperand, MemoryOperand
from simvirt.x86.operations import Operation
from simvirt.x86.prefixes import split_prefixes
from simvirt.x86.registers import SegmentRegister
from simvirt.x86.vmx import (
    DescriptorTableInformation,
    DescriptorTableInstruction,
    LocalTableInformation,
    LocalTableInstruction,
    MemoryAddressing,
    StringIoInformation,
)

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.events import PortAccess
    from simvirt.x86.instruction import Instruction

_TABLES: Final = {
    Operation.SGDT: DescriptorTableInstruction.SGDT,
    Operation.SIDT: DescriptorTableInstruction.SIDT,
    Operation.LGDT: DescriptorTableInstruction.LGDT,
    Operation.LIDT: DescriptorTableInstruction.LIDT,
}
_LOCAL: Final = {
    Operation.SLDT: LocalTableInstruction.SLDT,
    Operation.STR: LocalTableInstruction.STR,
    Operation.LLDT: LocalTableInstruction.LLDT,
    Operation.LTR: LocalTableInstruction.LTR,
}


def addressing(memory: MemoryOperand) -> MemoryAddressing:
    """How a memory operand is addressed, in the field's terms."""
    return MemoryAddressing(memory.segment, memory.base, memory.index, memory.scale, memory.address_bits)


def descriptor_table(instruction: Instruction) -> int:
    """Of LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR."""
    memory = instruction.memory
    if (table := _TABLES.get(instruction.operation)) is not None and memory is not None:
        return DescriptorTableInformation(table, addressing(memory), instruction.operand_size != 16).encode()
    local = _LOCAL.get(instruction.operation)
    register = instruction.general
    if local is None or (memory is None and register is None):
        raise MonitorError(f"{instruction.mnemonic} is no access to a descriptor-table register")
    operand = addressing(memory) if memory is not None else register.register if register is not None else None
    assert operand is not None
    return LocalTableInformation(local, operand).encode()


def vmx(instruction: Instruction) -> int:
    """Of an instruction of VMX with a memory operand (Tables 28-13, 28-14): addressing, and register operand."""
    memory = instruction.memory
    assert memory is not None
    register = next((o.register for o in instruction.operands if isinstance(o, GeneralOperand)), None)
    return addressing(memory).encode() | (register << 28 if register is not None else 0)


def string_segment(cpu: Cpu, event: PortAccess) -> SegmentRegister:
    """The segment of the memory operand: ES for INS, DS or an override for OUTS."""
    if not event.is_out:
        return SegmentRegister.ES
    prefixes, _ = split_prefixes(cpu.engine.code_bytes, cpu.state.bits)
    return SegmentRegister.DS if prefixes.segment is None else SegmentRegister(prefixes.segment)


def string_port(event: PortAccess, segment: SegmentRegister) -> int:
    """Of INS and OUTS."""
    return StringIoInformation(event.address_size * 8, segment).encode()
