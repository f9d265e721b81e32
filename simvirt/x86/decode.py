"""Bytes to instructions: beside `x86.forms` the only module that knows the decoder library.

The library is iced-x86, for facts and for text alike: its tables say which CPL an instruction needs, what it reads
and writes and how it moves the stack, and text from the same decoder cannot contradict them. (Capstone, the usual
choice for text, would be a second decoder with opinions of its own on what a byte string is.) It is imported at the
first decode, not with this module.

A decode that misses the cache costs some 20 µs, a hit a fraction of one. The cache is keyed by the bytes, so
rewritten code is never seen stale.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from simvirt.x86.instruction import (
    Access,
    Bits,
    BranchOperand,
    ControlOperand,
    DebugOperand,
    FarPointerOperand,
    Flow,
    GeneralOperand,
    ImmediateOperand,
    Instruction,
    MemoryOperand,
    Operand,
    OtherRegisterOperand,
    Repeat,
    SegmentOperand,
    UsedMemory,
)
from simvirt.x86.naming import address_size, operation_of
from simvirt.x86.operations import Operation
from simvirt.x86.registers import ControlRegister, DebugRegister, GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from types import ModuleType

    import iced_x86

__all__ = [
    "MAX_INSTRUCTION_LENGTH",
    "Bits",
    "Instruction",
    "access_size",
    "decode",
    "disassemble",
    "instruction_length",
    "memory_operand",
    "reads_descriptors",
    "reads_memory",
    "used_memory",
]

MAX_INSTRUCTION_LENGTH: Final = 15
"""A longer instruction is #GP(0) (SDM Vol. 2A §2.3.11, Vol. 3B §23.25)."""


@lru_cache(maxsize=32768)
def decode(code: bytes, ip: int, bits: Bits | int) -> Instruction:
    r"""Decode the instruction at the start of `code`, which lies at offset `ip` of the code segment.

    Give up to 15 bytes; more are not looked at. Never raises: bytes that are no instruction give one with `is_valid`
    False, operation INVALID and a length of at least one byte (none for no bytes at all).

    >>> i = decode(b"\x9d", 0x1000, Bits.CODE_32)
    >>> i.mnemonic, i.operation, i.length, i.operand_size, i.is_privileged
    ('popfd', <Operation.POPF: 'popf'>, 1, 32, False)
    >>> decode(b"\xcd\x80", 0, Bits.CODE_32).immediate
    128
    """
    return _library().instruction(code, ip, Bits(bits))


def instruction_length(code: bytes, bits: Bits | int) -> int:
    """Length in bytes of the instruction at the start of `code`, 0 if it is none or is cut off."""
    return _library().length(code, int(bits))


@lru_cache(maxsize=8192)
def disassemble(code: bytes, ip: int, bits: Bits | int) -> str:
    r"""The instruction at the start of `code` in Intel syntax, for people; bytes that are none as data.

    >>> disassemble(b"\x0f\x01\x0d\x00\x10\x00\x00", 0, 32), disassemble(b"\x0f\xff", 0, 32)[:3]
    ('sidt [0x1000]', 'db ')
    """
    return _library().text(code, ip, int(bits))


@lru_cache(maxsize=8192)
def used_memory(instruction: Instruction) -> tuple[UsedMemory, ...]:
    r"""Every access to memory that `instruction` makes, implicit ones included.

    >>> [(str(use.access), use.operand.size) for use in used_memory(decode(b"\x60", 0, 32))][:1]
    [('Access.WRITE', 4)]
    """
    return _library().memory_uses(instruction)


def memory_operand(code: bytes, ip: int, bits: Bits | int) -> MemoryOperand | None:
    """The (first) operand in memory that the instruction at the start of `code` names, None if there is none."""
    return decode(code, ip, bits).memory


def access_size(code: bytes, ip: int, bits: Bits | int, *, is_write: bool) -> int:
    r"""Bytes of one access of the instruction at the start of `code`, of the given direction; 0 if it makes none.

    An operand that the instruction names goes before the stack; one iteration counts under a repeat prefix.

    >>> access_size(b"\xf3\xa4", 0, 32, is_write=True), access_size(b"\xff\x30", 0, 32, is_write=False)
    (1, 4)
    """
    instruction = decode(code, ip, bits)
    uses = [use for use in used_memory(instruction) if (use.access.writes if is_write else use.access.reads)]
    if not uses:
        return 0
    return next((use.operand.size for use in uses if use.operand.size), 0) or (
        instruction.memory.size if instruction.memory else 0
    )


def reads_memory(code: bytes, ip: int, bits: Bits | int) -> bool:
    """Does the instruction at the start of `code` read (or perhaps read) memory?"""
    return any(use.access.reads for use in used_memory(decode(code, ip, bits)))


_DESCRIPTOR_READERS: Final = frozenset(
    {
        Operation.LAR,
        Operation.LSL,
        Operation.VERR,
        Operation.VERW,
        Operation.POP_SEGMENT,
        Operation.MOV_TO_SEGMENT,
        Operation.LOAD_FAR_POINTER,
        Operation.LLDT,
        Operation.LTR,
        Operation.CALL_FAR,
        Operation.JMP_FAR,
        Operation.RET_FAR,
        Operation.IRET,
        Operation.INT_N,
        Operation.INT3,
        Operation.INT1,
        Operation.INTO,
    }
)


def reads_descriptors(code: bytes, bits: Bits | int) -> bool:
    """May the instruction at the start of `code` read a descriptor table or a TSS by itself?

    Those accesses are implicit supervisor-mode accesses whatever the CPL (SDM Vol. 3A §4.6.1).
    """
    return decode(code, 0, bits).operation in _DESCRIPTOR_READERS


@lru_cache(maxsize=1)
def _library() -> _Iced:
    import iced_x86

    return _Iced(iced_x86)


_STRING_BASES: Final = {
    "SI": (GeneralRegister.RSI, 16),
    "ESI": (GeneralRegister.RSI, 32),
    "RSI": (GeneralRegister.RSI, 64),
    "DI": (GeneralRegister.RDI, 16),
    "EDI": (GeneralRegister.RDI, 32),
    "RDI": (GeneralRegister.RDI, 64),
}
"""The pointer that a string operand's kind ends in, by the decoder's names."""


class _Iced:
    """iced-x86 behind the types of this package."""

    def __init__(self, iced: ModuleType) -> None:
        self.iced: Any = iced
        self._mnemonics = {value: name.lower() for name, value in vars(iced.Mnemonic).items() if isinstance(value, int)}
        self._features = {value: name for name, value in vars(iced.CpuidFeature).items() if isinstance(value, int)}
        self._registers = {value: name for name, value in vars(iced.Register).items() if isinstance(value, int)}
        self._general: dict[int, GeneralOperand] = {}
        self._segments: dict[int, SegmentRegister] = {}
        self._special: dict[int, Operand] = {}
        self._name_registers()
        self._string_operands: dict[int, tuple[bool, GeneralRegister, int]] = {
            value: (
                name.startswith("MEMORY_ES"),
                *_STRING_BASES[name.removeprefix("MEMORY_SEG_").removeprefix("MEMORY_ES")],
            )
            for name, value in vars(iced.OpKind).items()
            if name.startswith("MEMORY_")
        }
        flows = iced.FlowControl
        self._flows = {
            flows.NEXT: Flow.NEXT,
            flows.UNCONDITIONAL_BRANCH: Flow.JUMP,
            flows.INDIRECT_BRANCH: Flow.INDIRECT_JUMP,
            flows.CONDITIONAL_BRANCH: Flow.CONDITIONAL_JUMP,
            flows.RETURN: Flow.RETURN,
            flows.CALL: Flow.CALL,
            flows.INDIRECT_CALL: Flow.INDIRECT_CALL,
            flows.INTERRUPT: Flow.INTERRUPT,
            flows.XBEGIN_XABORT_XEND: Flow.TRANSACTION,
            flows.EXCEPTION: Flow.EXCEPTION,
        }
        accesses = iced.OpAccess
        self._accesses = {
            accesses.NONE: (Access.NONE, False),
            accesses.NO_MEM_ACCESS: (Access.NONE, False),
            accesses.READ: (Access.READ, False),
            accesses.COND_READ: (Access.READ, True),
            accesses.WRITE: (Access.WRITE, False),
            accesses.COND_WRITE: (Access.WRITE, True),
            accesses.READ_WRITE: (Access.READ_WRITE, False),
            accesses.READ_COND_WRITE: (Access.READ_WRITE, True),
        }
        self._sizes: dict[int, int] = {}
        self._widths: dict[int, int] = {}
        self._features_of: dict[int, tuple[str, ...]] = {}
        self._info = iced.InstructionInfoFactory()
        self._formatter = iced.Formatter(iced.FormatterSyntax.MASM)
        self._formatter.hex_prefix = "0x"
        self._formatter.hex_suffix = ""
        self._formatter.uppercase_hex = False
        self._formatter.space_after_operand_separator = True
        self._formatter.show_branch_size = False
        self._formatter.branch_leading_zeros = False
        self._formatter.masm_add_ds_prefix32 = False

    def _name_registers(self) -> None:
        numbers = {name: value for value, name in self._registers.items()}
        for register in GeneralRegister:
            for width in (8, 16, 32, 64):
                # The decoder calls the low byte of R8 R8L.
                name = (
                    f"{register.name}L"
                    if width == 8 and register >= GeneralRegister.R8
                    else register.name_at(width).upper()
                )
                self._general[numbers[name]] = GeneralOperand(register, width)
        for register in tuple(GeneralRegister)[:4]:
            self._general[numbers[register.name_at(8, high_byte=True).upper()]] = GeneralOperand(
                register, 8, high_byte=True
            )
        self._special.update(self._general)
        for segment in SegmentRegister:
            self._segments[numbers[segment.name]] = segment
            self._special[numbers[segment.name]] = SegmentOperand(segment)
        for control in ControlRegister:
            self._special[numbers[control.name]] = ControlOperand(control)
        for debug in DebugRegister:
            self._special[numbers[debug.name]] = DebugOperand(debug)

    def _raw(self, code: bytes, ip: int, bits: int) -> tuple[iced_x86.Instruction, int]:
        decoder = self.iced.Decoder(bits, code[:MAX_INSTRUCTION_LENGTH], ip=ip)
        return decoder.decode(), decoder.last_error

    def length(self, code: bytes, bits: int) -> int:
        raw, _ = self._raw(code, 0, bits)
        return raw.len if raw else 0

    def text(self, code: bytes, ip: int, bits: int) -> str:
        raw, _ = self._raw(code, ip, bits)
        if raw:
            return str(self._formatter.format(raw))
        return "db " + ", ".join(f"{byte:#04x}" for byte in code[: max(1, raw.len)])

    def instruction(self, code: bytes, ip: int, bits: Bits) -> Instruction:
        raw, error = self._raw(code, ip, bits)
        if not raw:
            # Without bytes enough the decoder consumes what there is.
            return Instruction(
                code[: max(1, raw.len)], ip, bits, "(bad)", Operation.INVALID, (), 0, 0, Flow.EXCEPTION, Repeat.NONE,
                has_lock=False, segment_override=None, is_privileged=False, stack_pointer_increment=0, is_valid=False,
                is_truncated=error == self.iced.DecoderError.NO_MORE_BYTES,
            )  # fmt: skip
        mnemonic = self._mnemonics[raw.mnemonic]
        operands = tuple(self._operand(raw, number) for number in range(raw.op_count))
        encoding = code[: raw.len]
        return Instruction(
            encoding=encoding,
            address=ip,
            bits=bits,
            mnemonic=mnemonic,
            operation=operation_of(mnemonic, operands, is_far=_is_far(raw)),
            operands=operands,
            operand_size=self._operand_size(raw),
            address_size=address_size(encoding, bits),
            flow=self._flows[raw.flow_control],
            repeat=Repeat.REPNE if raw.has_repne_prefix else Repeat.REPE if raw.has_rep_prefix else Repeat.NONE,
            has_lock=raw.has_lock_prefix,
            segment_override=self._segments.get(raw.segment_prefix),
            is_privileged=raw.is_privileged,
            stack_pointer_increment=raw.stack_pointer_increment,
            cpuid_features=self._needed_features(raw),
        )

    def memory_uses(self, instruction: Instruction) -> tuple[UsedMemory, ...]:
        raw, _ = self._raw(instruction.encoding, instruction.address, instruction.bits)
        if not raw:
            return ()
        uses = []
        for use in self._info.info(raw).used_memory():
            access, conditional = self._accesses[use.access]
            base, index = self._general.get(use.base), self._general.get(use.index)
            width = base.width if base else index.width if index else instruction.address_size
            operand = MemoryOperand(
                self._segments.get(use.segment, SegmentRegister.DS),
                base.register if base else None,
                index.register if index else None,
                use.scale,
                use.displacement,
                width,
                self._memory_bytes(use.memory_size),
            )
            uses.append(UsedMemory(operand, access, conditional))
        return tuple(uses)

    def _memory_bytes(self, memory_size: int) -> int:
        if (size := self._sizes.get(memory_size)) is None:
            size = self._sizes[memory_size] = int(self.iced.MemorySizeExt.size(memory_size))
        return size

    def _operand_size(self, raw: iced_x86.Instruction) -> int:
        if (size := self._widths.get(raw.code)) is None:
            size = self._widths[raw.code] = raw.op_code().operand_size
        return size

    def _needed_features(self, raw: iced_x86.Instruction) -> tuple[str, ...]:
        if (features := self._features_of.get(raw.code)) is None:
            features = self._features_of[raw.code] = tuple(self._features[number] for number in raw.cpuid_features())
        return features

    def _operand(self, raw: iced_x86.Instruction, number: int) -> Operand:
        kinds = self.iced.OpKind
        kind = raw.op_kind(number)
        if kind == kinds.REGISTER:
            register = raw.op_register(number)
            return self._special.get(register) or OtherRegisterOperand(self._registers[register].lower())
        if kind == kinds.MEMORY:
            return self._memory(raw)
        if (string := self._string_operands.get(kind)) is not None:
            in_es, pointer, width = string
            segment = SegmentRegister.ES if in_es else self._segments[raw.memory_segment]
            return MemoryOperand(segment, pointer, None, 1, 0, width, self._memory_bytes(raw.memory_size))
        if kind in (kinds.NEAR_BRANCH16, kinds.NEAR_BRANCH32, kinds.NEAR_BRANCH64):
            return BranchOperand(raw.near_branch_target)
        if kind == kinds.FAR_BRANCH16:
            return FarPointerOperand(raw.far_branch_selector, raw.far_branch16)
        if kind == kinds.FAR_BRANCH32:
            return FarPointerOperand(raw.far_branch_selector, raw.far_branch32)
        return ImmediateOperand(raw.immediate(number))

    def _memory(self, raw: iced_x86.Instruction) -> MemoryOperand:
        base, index = self._general.get(raw.memory_base), self._general.get(raw.memory_index)
        if base is not None or index is not None:
            width = (base or index).width  # type: ignore[union-attr]
        else:
            # Relative to the instruction pointer, or a bare displacement, whose size in bytes the decoder tells.
            names = {"RIP": 64, "EIP": 32}
            width = names.get(self._registers[raw.memory_base], {2: 16, 4: 32, 8: 64}.get(raw.memory_displ_size, 32))
        return MemoryOperand(
            self._segments[raw.memory_segment],
            base.register if base else None,
            index.register if index else None,
            raw.memory_index_scale,
            raw.memory_displacement,
            width,
            self._memory_bytes(raw.memory_size),
        )


def _is_far(raw: iced_x86.Instruction) -> bool:
    return raw.is_call_far or raw.is_call_far_indirect or raw.is_jmp_far or raw.is_jmp_far_indirect
