"""Instructions that the engine executes otherwise than the manual says, done here by their pages in SDM Vol. 2.

The engine stops in front of each of them (native/special.c). Each routine raises its faults before it changes anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.faults import ProcessorFault, general_protection
from simvirt.machine.port_permission import io_allowed
from simvirt.machine.stack import Stack
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Eflags, iopl
from simvirt.x86.instruction import GeneralOperand, ImmediateOperand, Instruction, MemoryOperand, Operand, Repeat
from simvirt.x86.registers import GeneralRegister

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.core import Core

_CF, _ZF, _SF = int(Eflags.CF), int(Eflags.ZF), int(Eflags.SF)
_ARITHMETIC: Final = int(Eflags.ARITHMETIC)
_NEVER_PUSHED: Final = int(Eflags.VM | Eflags.RF)


def _width(instruction: Instruction) -> int:
    """Bits of the destination."""
    destination = instruction.operands[0]
    assert isinstance(destination, GeneralOperand)
    return destination.width


def _value(cpu: Core, operand: Operand, width: int) -> int:
    match operand:
        case GeneralOperand():
            return cpu.state.register(operand.register, width // 8)
        case MemoryOperand():
            address = cpu.linear_address(operand)
            return cpu.memory.read_integer(address, width // 8, user=cpu.state.cpl == 3, explicit=True)
        case ImmediateOperand():
            return operand.value
        case _:
            raise ProcessorFault(Vector.UD)


def _sources(cpu: Core, instruction: Instruction) -> tuple[int, ...]:
    return tuple(_value(cpu, operand, _width(instruction)) for operand in instruction.operands[1:])


def _finish(cpu: Core, instruction: Instruction, result: int, flags: int | None = None) -> None:
    """Write the destination and, unless they stay as they are, the arithmetic flags."""
    destination = instruction.operands[0]
    assert isinstance(destination, GeneralOperand)
    cpu.state.set_register(destination.register, destination.width // 8, result)
    if flags is not None:
        cpu.state.eflags = cpu.state.eflags & ~_ARITHMETIC | flags


def _bzhi(cpu: Core, instruction: Instruction) -> None:
    """BZHI: the bits from an index on are cleared, none of them if the index is not below the operand's size."""
    width = _width(instruction)
    source, index = _sources(cpu, instruction)
    index &= 0xFF
    result = source & (1 << index) - 1 if index < width else source
    flags = (_CF if index >= width else 0) | (0 if result else _ZF) | (_SF if result >> width - 1 else 0)
    _finish(cpu, instruction, result, flags)


def _bextr(cpu: Core, instruction: Instruction) -> None:
    """BEXTR: a field of bits; SF, AF and PF are undefined."""
    source, control = _sources(cpu, instruction)
    start, length = control & 0xFF, control >> 8 & 0xFF
    result = source >> start & (1 << length) - 1
    _finish(cpu, instruction, result, 0 if result else _ZF)


def _pdep(cpu: Core, instruction: Instruction) -> None:
    """PDEP: the low bits of the first source go to where the mask has ones."""
    source, mask = _sources(cpu, instruction)
    result, taken = 0, 0
    for bit in range(_width(instruction)):
        if mask >> bit & 1:
            result |= (source >> taken & 1) << bit
            taken += 1
    _finish(cpu, instruction, result)


def _pext(cpu: Core, instruction: Instruction) -> None:
    """PEXT: the bits of the first source where the mask has ones, brought together."""
    source, mask = _sources(cpu, instruction)
    result, taken = 0, 0
    for bit in range(_width(instruction)):
        if mask >> bit & 1:
            result |= (source >> bit & 1) << taken
            taken += 1
    _finish(cpu, instruction, result)


def _rorx(cpu: Core, instruction: Instruction) -> None:
    """RORX: rotate without flags."""
    width = _width(instruction)
    source, count = _sources(cpu, instruction)
    count &= width - 1
    _finish(cpu, instruction, (source >> count | source << width - count) & (1 << width) - 1)


def _andn(cpu: Core, instruction: Instruction) -> None:
    """ANDN: the second source where the first has zeros. This and the following are of 16-bit code alone."""
    mask, source = _sources(cpu, instruction)
    result = source & ~mask
    _finish(cpu, instruction, result, (0 if result else _ZF) | (_SF if result >> _width(instruction) - 1 else 0))


def _lowest_set_bit(cpu: Core, instruction: Instruction) -> None:
    """BLSI isolates it, BLSMSK makes a mask up to it, BLSR resets it; CF tells of a source of 0, BLSI's of another."""
    width = _width(instruction)
    (source,) = _sources(cpu, instruction)
    isolates = instruction.mnemonic == "blsi"
    if isolates:
        result = source & -source
    else:
        result = source ^ source - 1 if instruction.mnemonic == "blsmsk" else source & source - 1
    result &= (1 << width) - 1
    flags = (_CF if bool(source) == isolates else 0) | (0 if result else _ZF) | (_SF if result >> width - 1 else 0)
    _finish(cpu, instruction, result, flags)


def _mulx(cpu: Core, instruction: Instruction) -> None:
    """MULX: (E)DX times the source, without flags; the first destination takes the high half, and is written last."""
    width = _width(instruction)
    low = instruction.operands[1]
    assert isinstance(low, GeneralOperand)
    product = cpu.state.register(GeneralRegister.RDX, width // 8) * _value(cpu, instruction.operands[2], width)
    cpu.state.set_register(low.register, width // 8, product & (1 << width) - 1)
    _finish(cpu, instruction, product >> width)


def _shift(cpu: Core, instruction: Instruction) -> None:
    """SARX, SHLX, SHRX: shift without flags."""
    width = _width(instruction)
    source, count = _sources(cpu, instruction)
    count &= width - 1
    if instruction.mnemonic == "shlx":
        result = source << count
    elif instruction.mnemonic == "sarx" and source >> width - 1:
        result = source - (1 << width) >> count
    else:
        result = source >> count
    _finish(cpu, instruction, result & (1 << width) - 1)


def _popcnt(cpu: Core, instruction: Instruction) -> None:
    """POPCNT: ZF tells of a source of 0, the other flags are cleared."""
    (source,) = _sources(cpu, instruction)
    _finish(cpu, instruction, source.bit_count(), 0 if source else _ZF)


def _pushfd(cpu: Core, instruction: Instruction) -> None:
    """PUSHFD in virtual-8086 mode: VM and RF are 0 in the image (SDM Vol. 2B "PUSHF")."""
    del instruction
    state, stack = cpu.state, Stack(cpu)
    if iopl(state.eflags) < 3:
        raise general_protection(0)
    stack.set_pointer(stack.pushed((state.eflags & ~_NEVER_PUSHED,), 4))


def _scan(cpu: Core, instruction: Instruction) -> None:
    """F3 before BSF or BSR, which is TZCNT or LZCNT on processors that have these (SDM Vol. 2A "BSF", Vol. 2B "LZCNT").

    With a source of 0 the destination stays, and of the flags ZF alone is defined.
    """
    (source,) = _sources(cpu, instruction)
    if not source:
        cpu.state.eflags |= _ZF
        return
    found = source.bit_length() - 1 if instruction.mnemonic == "lzcnt" else (source & -source).bit_length() - 1
    _finish(cpu, instruction, found, cpu.state.eflags & _ARITHMETIC & ~_ZF)


_ROUTINES: Final[dict[str, Callable[[Core, Instruction], None]]] = {
    "bzhi": _bzhi,
    "bextr": _bextr,
    "pdep": _pdep,
    "pext": _pext,
    "rorx": _rorx,
    "andn": _andn,
    "blsi": _lowest_set_bit,
    "blsmsk": _lowest_set_bit,
    "blsr": _lowest_set_bit,
    "mulx": _mulx,
    "sarx": _shift,
    "shlx": _shift,
    "shrx": _shift,
    "popcnt": _popcnt,
    "pushfd": _pushfd,
    **dict.fromkeys(("tzcnt", "lzcnt"), _scan),
}


def is_done_here(instruction: Instruction) -> bool:
    """Is it one of them?"""
    return instruction.mnemonic in _ROUTINES


def perform(cpu: Core, instruction: Instruction) -> None:
    """Carry it out, but for what comes behind every instruction.

    :raises ProcessorFault: it faults; nothing has changed.
    """
    _ROUTINES[instruction.mnemonic](cpu, instruction)


def may_use_port(cpu: Core, instruction: Instruction) -> bool:
    """May INS or OUTS access its port? It is asked before memory is; a count of 0 accesses none.

    :raises ProcessorFault: #PF while the I/O permission bitmap is read.
    """
    state = cpu.state
    counter = state.register(GeneralRegister.RCX, instruction.address_size // 8)
    if instruction.repeat is not Repeat.NONE and not counter:
        return True
    size = {"b": 1, "w": 2, "d": 4}[instruction.mnemonic[-1]]
    return io_allowed(cpu, state.register(GeneralRegister.RDX, 2), size)
