"""What an instruction under test finds to work on: the values of its operands, chosen so that its behaviour shows.

A segment load wants selectors of every kind and privilege, POPF images with IF and IOPL set and clear, INT n gates of
either privilege. Which values are worth trying depends on the operation; an instruction that only computes gets one
set of values with which it does not fault.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.x86 import layout
from simvirt.x86.decode import decode
from simvirt.x86.flags import Cr0, Cr4, Eflags
from simvirt.x86.forms import Operands
from simvirt.x86.msrs import Msr
from simvirt.x86.operations import Operation
from simvirt.x86.registers import GeneralRegister

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simvirt.x86.forms import EncodingForm
    from simvirt.x86.instruction import Instruction

_R = GeneralRegister


@dataclass(frozen=True, slots=True)
class Situation:
    """An encoding, and the registers and memory that it works on."""

    code: bytes
    title: str = ""
    """What is special about it, for people: "selector 0x10", "immediate 0x80"."""
    registers: tuple[tuple[GeneralRegister, int], ...] = ()
    """Beside those of `REGISTERS`."""
    cells: tuple[tuple[int, int, int], ...] = ()
    """(address, value, bytes), beside the usual contents."""
    flags: int = 0
    """Status flags."""
    plain: bool = True
    """Is it the first with this choice of registers and memory? The others differ from it in values."""


REGISTERS: Final = {
    _R.RAX: 7, _R.RCX: layout.TARGET, _R.RDX: layout.PORT, _R.RBX: layout.DATA, _R.RSP: layout.STACK,
    _R.RBP: layout.STACK + 0x40, _R.RSI: layout.DATA + 0x40, _R.RDI: layout.DATA + 0x80, _R.R11: 2,
}  # fmt: skip
"""General registers at the start; the rest are 0. Chosen so that quotients fit, pointers point to data, and the
registers that forms are encoded with (RCX, RBX) make a good branch target and a good pointer."""

_SELECTORS: Final = (
    layout.DS0, layout.DS3, layout.DS1, layout.CS0, layout.CS3, layout.CONFORMING, layout.NOT_PRESENT_DATA | 3,
    layout.CALL_GATE_0, layout.CALL_GATE_3 | 3, layout.OWN_LDT, layout.OWN_TSS, layout.SPECIAL_DATA | 3, layout.IN_LDT,
    layout.BEYOND, layout.DATA_16 | 3, 0,
)  # fmt: skip
_CODE_SELECTORS: Final = (
    layout.CS0, layout.CS3, layout.CS1, layout.CONFORMING, layout.NOT_PRESENT_CODE | 3, layout.CALL_GATE_0,
    layout.CALL_GATE_3 | 3, layout.SPECIAL_CODE | 3, layout.DS0,
)  # fmt: skip
_FLAG_IMAGES: Final = (
    int(Eflags.ALWAYS_ONE),
    int(Eflags.ALWAYS_ONE | Eflags.IF),
    int(Eflags.ALWAYS_ONE | Eflags.IOPL | Eflags.CF),
    int(Eflags.ALWAYS_ONE | Eflags.IF | Eflags.IOPL),
)


_OPERANDS: Final = Operands(layout.CODE, layout.DATA, layout.TARGET, layout.CS0, 0x11)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Values for the operands of a form, before it is encoded with them."""

    title: str = ""
    operands: Operands = _OPERANDS
    registers: dict[GeneralRegister, int] = field(default_factory=dict)
    cells: tuple[tuple[int, int, int], ...] = ()
    flags: int = 0


_COMPARE: Final = frozenset({"cmpps", "cmppd", "cmpss", "cmpsd"})
"""SSE's comparisons: their immediate is one of eight predicates."""


def _any(instruction: Instruction) -> Iterator[_Choice]:
    yield _Choice(operands=replace(_OPERANDS, immediate=1) if instruction.mnemonic in _COMPARE else _OPERANDS)


def _selectors(instruction: Instruction) -> Iterator[_Choice]:
    """A selector in RCX, in memory, in a far pointer in memory, and on top of the stack."""
    width = instruction.operand_size // 8 or 4
    is_pointer = instruction.operation is Operation.LOAD_FAR_POINTER
    for selector in _SELECTORS:
        operand = (layout.DATA + width, selector, 2) if is_pointer else (layout.DATA, selector, 2)
        cells = ((layout.DATA, layout.TARGET, width), operand) if is_pointer else (operand,)
        stack = ((layout.STACK, selector, width),) if instruction.operation is Operation.POP_SEGMENT else ()
        yield _Choice(f"selector {selector:#x}", registers={_R.RCX: selector}, cells=(*cells, *stack))


def _far_branches(instruction: Instruction) -> Iterator[_Choice]:
    width = instruction.operand_size // 8 or 4
    for selector in _CODE_SELECTORS:
        cells = ((layout.DATA, layout.TARGET, width), (layout.DATA + width, selector, 2))
        yield _Choice(f"selector {selector:#x}", replace(_OPERANDS, selector=selector), cells=cells)


def _stack(width: int, *words: int) -> tuple[tuple[int, int, int], ...]:
    return tuple((layout.STACK + width * number, word, width) for number, word in enumerate(words))


_OUTER: Final = {layout.CS0: layout.DS0, layout.CS3: layout.DS3, layout.CS1: layout.DS1}


def _far_returns(instruction: Instruction) -> Iterator[_Choice]:
    width = instruction.operand_size // 8 or 4
    released = instruction.immediate if instruction.immediate is not None else 0
    for selector in (*_OUTER, layout.NOT_PRESENT_CODE | 3):
        frame = _stack(width, layout.TARGET, selector)
        outer = (layout.STACK + 2 * width + released, layout.STACK + 0x100, width)
        segment = (layout.STACK + 3 * width + released, _OUTER.get(selector, layout.DS3), width)
        yield _Choice(f"to selector {selector:#x}", cells=(*frame, outer, segment))


def _interrupt_returns(instruction: Instruction) -> Iterator[_Choice]:
    width = instruction.operand_size // 8 or 4
    for selector, stack in _OUTER.items():
        for flags in _FLAG_IMAGES:
            frame = _stack(width, layout.TARGET, selector, flags, layout.STACK + 0x100, stack)
            yield _Choice(f"to selector {selector:#x} with flags {flags:#x}", cells=frame)


def _flag_images(instruction: Instruction) -> Iterator[_Choice]:
    for flags in _FLAG_IMAGES:
        yield _Choice(f"flags {flags:#x}", cells=_stack(instruction.operand_size // 8 or 4, flags))


def _vectors(_instruction: Instruction) -> Iterator[_Choice]:
    for vector in (layout.VECTOR_DPL3, layout.VECTOR_DPL0, layout.VECTOR_TRAP_GATE, layout.VECTOR_NOT_PRESENT):
        yield _Choice(f"vector {vector:#x}", replace(_OPERANDS, immediate=vector))


def _ports(_instruction: Instruction) -> Iterator[_Choice]:
    yield _Choice(operands=replace(_OPERANDS, immediate=layout.PORT))


def _overflow(_instruction: Instruction) -> Iterator[_Choice]:
    yield _Choice("OF = 1", flags=int(Eflags.OF))
    yield _Choice("OF = 0")


def _bounds(instruction: Instruction) -> Iterator[_Choice]:
    width = instruction.operand_size // 8 or 4
    yield _Choice("inside", cells=((layout.DATA, 0, width), (layout.DATA + width, 0x7FFF, width)))
    yield _Choice("outside", cells=((layout.DATA, 0, width), (layout.DATA + width, 1, width)))


def _table_pointers(instruction: Instruction) -> Iterator[_Choice]:
    base = {Operation.LGDT: layout.GDT_B, Operation.LIDT: layout.IDT_B}[instruction.operation]
    yield _Choice(cells=((layout.DATA, layout.GDT_LIMIT_B, 2), (layout.DATA + 2, base, 8)))


def _system_selectors(_instruction: Instruction) -> Iterator[_Choice]:
    for selector in (layout.OTHER_LDT, layout.AVAILABLE_TSS, layout.OWN_TSS, layout.DS0, layout.BEYOND, 0):
        yield _Choice(f"selector {selector:#x}", registers={_R.RCX: selector}, cells=((layout.DATA, selector, 2),))


_CR0: Final = int(Cr0.PE | Cr0.ET | Cr0.NE | Cr0.PG)


def _status_words(_instruction: Instruction) -> Iterator[_Choice]:
    for word in (int(Cr0.PE | Cr0.TS), int(Cr0.PE | Cr0.MP)):
        yield _Choice(f"value {word:#x}", registers={_R.RCX: word}, cells=((layout.DATA, word, 2),))


def _control_registers(instruction: Instruction) -> Iterator[_Choice]:
    values: dict[str, tuple[int, ...]] = {
        "cr0": (_CR0 | int(Cr0.TS), _CR0 & ~int(Cr0.NE)),
        "cr2": (0x1234,),
        "cr3": (layout.TABLES_B,),
        "cr4": (int(Cr4.TSD | (Cr4.PAE if instruction.bits == 64 else 0)),),
        "cr8": (0,),
    }
    name = str(getattr(instruction.operands[0], "register", "")).lower()
    for value in values.get(name.rpartition(".")[2], (0,)):
        yield _Choice(f"value {value:#x}", registers={_R.RCX: value})


def _debug_registers(_instruction: Instruction) -> Iterator[_Choice]:
    yield _Choice(registers={_R.RCX: 0x400})


def _model_specific(_instruction: Instruction) -> Iterator[_Choice]:
    for msr in (Msr.IA32_TIME_STAMP_COUNTER, Msr.IA32_SYSENTER_CS, Msr.IA32_EFER, Msr.IA32_PAT):
        value = layout.CS0 if msr is Msr.IA32_SYSENTER_CS else 0x0006 if msr is Msr.IA32_PAT else 0
        yield _Choice(msr.name, registers={_R.RCX: int(msr), _R.RAX: value, _R.RDX: 0})
    yield _Choice("no such register", registers={_R.RCX: 0xFFFF})


def _leaves(_instruction: Instruction) -> Iterator[_Choice]:
    for leaf in (1, 0):
        yield _Choice(f"leaf {leaf}", registers={_R.RAX: leaf, _R.RCX: 0})


def _index_zero(_instruction: Instruction) -> Iterator[_Choice]:
    yield _Choice(registers={_R.RCX: 0})


def _system_exit(_instruction: Instruction) -> Iterator[_Choice]:
    yield _Choice(registers={_R.RDX: layout.TARGET, _R.RCX: layout.STACK})


def _system_return(_instruction: Instruction) -> Iterator[_Choice]:
    for flags in _FLAG_IMAGES:
        yield _Choice(f"flags {flags:#x}", registers={_R.RCX: layout.TARGET, _R.R11: flags})


_MAKERS: Final[dict[Operation, Callable[[Instruction], Iterator[_Choice]]]] = {
    **dict.fromkeys(
        (
            Operation.LAR, Operation.LSL, Operation.VERR, Operation.VERW, Operation.MOV_TO_SEGMENT,
            Operation.POP_SEGMENT, Operation.LOAD_FAR_POINTER,
        ),
        _selectors,
    ),
    **dict.fromkeys((Operation.CALL_FAR, Operation.JMP_FAR), _far_branches),
    Operation.RET_FAR: _far_returns,
    Operation.IRET: _interrupt_returns,
    Operation.POPF: _flag_images,
    Operation.INT_N: _vectors,
    **dict.fromkeys((Operation.IN, Operation.OUT), _ports),
    Operation.INTO: _overflow,
    Operation.BOUND: _bounds,
    **dict.fromkeys((Operation.LGDT, Operation.LIDT), _table_pointers),
    **dict.fromkeys((Operation.LLDT, Operation.LTR), _system_selectors),
    Operation.LMSW: _status_words,
    Operation.MOV_TO_CR: _control_registers,
    Operation.MOV_TO_DR: _debug_registers,
    **dict.fromkeys((Operation.RDMSR, Operation.WRMSR), _model_specific),
    Operation.CPUID: _leaves,
    **dict.fromkeys((Operation.RDPMC, Operation.XGETBV), _index_zero),
    Operation.SYSEXIT: _system_exit,
    Operation.SYSRET: _system_return,
}  # fmt: skip


@cache
def situations(form: EncodingForm, bits: int) -> tuple[Situation, ...]:
    """Every encoding of `form` with every set of values worth trying, the plainest first.

    Empty where the form cannot be encoded.
    """
    found: dict[Situation, None] = {}
    for number, unfilled in enumerate(form.encode(bits, _OPERANDS)):
        instruction = decode(unfilled.code, layout.CODE, bits)
        for rank, choice in enumerate(_MAKERS.get(instruction.operation, _any)(instruction)):
            encoded = form.encode(bits, choice.operands)[number]
            title = ", ".join(part for part in (" ".join(encoded.operands), choice.title) if part)
            registers = tuple(choice.registers.items())
            found[Situation(encoded.code, title, registers, choice.cells, choice.flags, rank == 0)] = None
    return tuple(found)
