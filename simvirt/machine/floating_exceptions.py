"""Exceptions of the x87 and of SSE: the flags that tell of them, and #MF and #XM where they are not masked.

The engine accumulates what its operations meet and reports nothing. While every exception is masked that suffices:
native/special.c adds the flags to the x87 status word when a program looks at it. What accesses MXCSR comes here, and
so does, while an exception is unmasked, each instruction that could meet one: it runs alone, and what it met decides.

An x87 exception leaves its instruction undone or done and is reported before the next instruction that waits (SDM Vol.
1 §8.6), by #MF or, while CR0.NE is 0, by FERR# (§8.7); an SSE exception is a fault (§11.5). Sources of the table below:
Vol. 1 §8.5, §11.5.2, Table 11-1.

===================  =================================  ====================================================
when                 exceptions                         what an unmasked one leaves
===================  =================================  ====================================================
before computing     invalid, denormal, zero divide     the operands as they were, nothing stored
after computing      overflow, underflow, inexact       x87: the result, unless it would go to memory
===================  =================================  ====================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.core import opcode
from simvirt.machine.events import ExceptionRaised, X87ErrorReported
from simvirt.machine.faults import ProcessorFault
from simvirt.x86.decode import used_memory
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr0, Cr4, Eflags

if TYPE_CHECKING:
    from simvirt.machine.core import Core
    from simvirt.machine.events import Event
    from simvirt.x86.instruction import Instruction

_BEFORE_COMPUTING: Final = 0x07
_NOT_STORED: Final = 0x1F
"""An x87 store does nothing when one of these is not masked: all but inexact."""
_INEXACT: Final = 0x20
_ARITHMETIC: Final = int(Eflags.ARITHMETIC)
_MXCSR_RESERVED: Final = 0xFFFF_0000
_WAIT: Final = 0x9B
_MXCSR_LOADS: Final = (1, 2)
"""FXRSTOR and LDMXCSR, by the digit of 0F AE."""
_RSQRT, _RCP, _ROUND = 0x52, 0x53, range(0x08, 0x0C)
_REPEAT: Final = frozenset({0xF2, 0xF3})
_MANDATORY: Final = _REPEAT | {0x66}
_CONVERSIONS_OF_MMX: Final = frozenset({0x2A, 0x2C, 0x2D})
_NO_PRECISION_EXCEPTION: Final = 8
"""Bit 3 of the immediate byte of ROUNDPS and its kin."""


def perform(cpu: Core, instruction: Instruction) -> Event | None:
    """Run the x87 or SSE instruction at RIP, and look after its exceptions; the event that it met, or None."""
    prefixes, code = opcode(cpu)
    if code[0] == _WAIT or code[0] & 0xF8 == 0xD8:
        return _x87(cpu, instruction, code)
    if code[1] == 0xAE:
        return _access_mxcsr(cpu, code)
    if _MANDATORY.isdisjoint(prefixes.legacy) or (
        code[1] in _CONVERSIONS_OF_MMX and _REPEAT.isdisjoint(prefixes.legacy)
    ):
        reported = _pending(cpu, code) if _is_mmx(code) else None
        if reported is not None:
            return reported
    return _sse(cpu, instruction, code)


def _is_mmx(code: bytes) -> bool:
    """Does an instruction without the prefixes of SSE use MMX registers?"""
    second, third = code[1], code[2]
    if second in (0x38, 0x3A):
        return third < 0x20 if second == 0x38 else third == 0x0F
    return second in _CONVERSIONS_OF_MMX or second in (0xC4, 0xC5) or 0x60 <= second <= 0x7F or second >= 0xD0


# -------------------------------------------------------------------------------------------- x87


def _x87(cpu: Core, instruction: Instruction, code: bytes) -> Event | None:
    state, engine = cpu.state, cpu.engine
    if _waits(code) and (reported := _pending(cpu, code)) is not None:
        return reported
    state.settle_x87_status()
    before, count = bytes(state.image), engine.count
    destination = _destination(cpu, instruction)
    event = cpu.run_alone(engine.pass_floating)
    if engine.count == count:
        return event
    met = state.take_x87_exceptions()
    state.settle_x87_status(met)
    unmasked = met & ~state.image[engine.platform.state.fpuc]
    if unmasked & (_NOT_STORED if destination is not None else _BEFORE_COMPUTING):
        _undo_x87(cpu, before, met)
        if destination is not None:
            cpu.memory.write(*destination)
    state.ignne = state.ignne and state.x87_error
    engine.follow_floating_masks()
    return event


def _pending(cpu: Core, code: bytes) -> Event | None:
    """What reports a pending exception in front of an instruction, if there is one: #MF or FERR#."""
    state = cpu.state
    state.settle_x87_status()
    if not state.x87_error or _device_not_available(cpu, code):
        return None
    if state.cr0 & int(Cr0.NE):
        return ExceptionRaised(Vector.MF)
    return None if state.ignne else X87ErrorReported()


def _waits(code: bytes) -> bool:
    """Does the instruction report pending exceptions? All of the x87's but FNINIT, FNCLEX, FNSTSW and their kin do."""
    if code[0] == _WAIT:
        return True
    digit, memory = code[1] >> 3 & 7, code[1] < 0xC0
    match code[0]:
        case 0xD9:
            return not (memory and digit in (6, 7))
        case 0xDB:
            return not 0xE0 <= code[1] <= 0xE4
        case 0xDD:
            return not (memory and digit in (6, 7))
        case 0xDF:
            return code[1] != 0xE0
        case _:
            return True


def _device_not_available(cpu: Core, code: bytes) -> bool:
    """#NM has precedence over #MF (SDM Vol. 3A Table 9-3)."""
    cr0 = cpu.state.cr0
    if code[0] == _WAIT:
        return cr0 & int(Cr0.MP | Cr0.TS) == int(Cr0.MP | Cr0.TS)
    return bool(cr0 & int(Cr0.EM | Cr0.TS))


def _destination(cpu: Core, instruction: Instruction) -> tuple[int, bytes] | None:
    """Where the instruction stores to memory, and what is there now."""
    for use in used_memory(instruction):
        if use.access.writes:
            address = cpu.linear_address(use.operand)
            try:
                return address, cpu.memory.read(address, use.operand.size, user=cpu.state.cpl == 3, explicit=True)
            except ProcessorFault:  # the instruction will meet it, too
                return None
    return None


def _undo_x87(cpu: Core, before: bytes, met: int) -> None:
    """Registers, tags and TOP as they were; the flags tell of the exception, and the pointers of the instruction."""
    state, o = cpu.state, cpu.engine.platform.state
    state.image[o.efer + 8 : o.fpop] = before[o.efer + 8 : o.fpop]
    flags = int.from_bytes(before[o.eflags : o.eflags + 8], "little")
    state.eflags = state.eflags & ~_ARITHMETIC | flags & _ARITHMETIC  # of FCOMI and its kin
    state.settle_x87_status(met)


# -------------------------------------------------------------------------------------------- SSE


def _access_mxcsr(cpu: Core, code: bytes) -> Event | None:
    """FXSAVE, FXRSTOR, LDMXCSR, STMXCSR: MXCSR shows what was met, and takes no reserved bits (SDM Vol. 1 §10.2.3)."""
    state, engine = cpu.state, cpu.engine
    state.settle_x87_status()
    state.settle_mxcsr()
    before, count = bytes(state.image), engine.count
    event = cpu.run_alone(engine.pass_floating)
    if code[2] >> 3 & 7 not in _MXCSR_LOADS or engine.count == count:
        return event
    if state.mxcsr & _MXCSR_RESERVED:
        state.image[:] = before
        engine.count = count
        return ExceptionRaised(Vector.GP, 0)
    state.settle_x87_status()
    engine.follow_floating_masks()
    return event


def _sse(cpu: Core, instruction: Instruction, code: bytes) -> Event | None:
    state, engine = cpu.state, cpu.engine
    state.settle_mxcsr()
    before, count = bytes(state.image), engine.count
    event = cpu.run_alone(engine.pass_floating)
    if engine.count == count:
        return event
    met = state.take_simd_exceptions()
    if code[1] in (_RSQRT, _RCP):
        met = 0
    elif code[1] == 0x3A and code[2] in _ROUND and (instruction.immediate or 0) & _NO_PRECISION_EXCEPTION:
        met &= ~_INEXACT
    unmasked = met & ~(state.mxcsr >> 7)
    if not unmasked:
        state.settle_mxcsr(met)
        return event
    state.image[:] = before
    engine.count = count
    state.settle_mxcsr(met & _BEFORE_COMPUTING if unmasked & _BEFORE_COMPUTING else met)
    return ExceptionRaised(Vector.XM if state.cr4 & int(Cr4.OSXMMEXCPT) else Vector.UD)
