"""Every encoding form that the decoder library knows, with the facts that it declares of each, and how to encode one.

An *encoding form* is one row of the manual's opcode tables: an opcode with its prefixes and the kinds of its operands
(``8C /r``, ``MOV r32/m16, Sreg``). The library calls it a code, and has some 4,900 of them. Beside `x86.decode` this
is the only module that knows the library: decoding asks what bytes are, this asks what bytes there can be, and the two
share nothing but the library.

The names of forms are the library's names of its codes in lower case, with dashes: stable, and unlike mnemonics unique.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from simvirt.errors import UnknownNameError
from simvirt.x86.instruction import Bits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Setter = Callable[[Any, int, "Operands"], None]
    """Gives operand n of a library's instruction a value."""


class Encoding(StrEnum):
    """How an instruction is encoded (SDM Vol. 2A §2.1 to §2.7)."""

    LEGACY = "legacy"
    """Prefixes, opcode, ModRM: the only ones that the engine runs as it should."""
    THREE_D_NOW = "3DNow!"
    VEX = "VEX"
    EVEX = "EVEX"
    XOP = "XOP"
    MVEX = "MVEX"


class PrivilegeFact(StrEnum):
    """What the library says of the CPL that a form needs."""

    ANY = "any CPL"
    MAY_REQUIRE_CPL0 = "may require CPL 0"
    """Depends on a control bit, as RDTSC on CR4.TSD."""
    IO_PRIVILEGE = "CPL up to IOPL"
    """CLI, STI, and the I/O instructions, which a bitmap may allow all the same."""
    CPL0 = "CPL 0"


class ExitFact(StrEnum):
    """What the library says of VM exits of a form in VMX non-root operation."""

    NEVER = "never"
    MAY = "may"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Operands:
    """The values that the operands of an encoding are given."""

    ip: int = 0x1000
    """Where the instruction stands."""
    memory: int = 0x2000
    """Offset of a memory operand, which is always a bare displacement (below 64 KiB to be encodable everywhere)."""
    target: int = 0x1040
    """Of near branches, and the offset of far ones."""
    selector: int = 0x08
    """Of far pointers."""
    immediate: int = 0x11
    """Every immediate operand, cut to its size."""


@dataclass(frozen=True, slots=True)
class EncodedForm:
    """One encoding of a form."""

    code: bytes
    operands: tuple[str, ...]
    """What was chosen where there was a choice: "register", "memory", or a segment, control or debug register."""


@dataclass(frozen=True, slots=True)
class EncodingForm:
    """An opcode with the kinds of its operands, and what the decoder library declares of it."""

    name: str
    syntax: str
    """As the manual prints it: "MOV r32/m16, Sreg"."""
    opcode: str
    """As the manual prints it: "o32 8C /r"."""
    mnemonic: str
    encoding: Encoding
    features: tuple[str, ...]
    """Names of the CPUID features, or of the processors, that brought it."""
    privilege: PrivilegeFact
    exits: ExitFact
    modes: frozenset[Bits]
    """The code sizes in which it exists."""
    foreign_modes: frozenset[Bits] = frozenset()
    """Those of them in which Intel's processors of today decode its bytes otherwise: LOADALL of the 286, Cyrix's own
    instructions, Knights Corner's, AMD's branches of 16 bits in 64-bit code."""
    behind_wait: bool = False
    """Is it WAIT and an instruction of its own, to the processor, as FSTSW is WAIT and FNSTSW?"""

    def exists_in(self, bits: Bits | int) -> bool:
        """Is there such an instruction in code of this size?"""
        return Bits(bits) in self.modes

    def encode(self, bits: Bits | int, operands: Operands | None = None) -> tuple[EncodedForm, ...]:
        """Every choice of operands, encoded: register or memory, each segment, control and debug register.

        Choices that cannot be encoded, as POP of CS, are left out. General registers are RCX where the instruction
        has one of ModRM.rm or in the opcode, RBX in ModRM.reg.
        """
        return _encode(self.name, Bits(bits), operands or Operands())


def encoding_forms() -> tuple[EncodingForm, ...]:
    """All forms of all modes, in the library's order.

    >>> len(encoding_forms()) > 4900
    True
    """
    return tuple(_catalogue().values())


def find_form(name: str) -> EncodingForm:
    """The form of this name.

    >>> form = find_form("mov-r32m16-sreg")
    >>> form.syntax, form.opcode, form.features
    ('MOV r32/m16, Sreg', 'o32 8C /r', ('INTEL386',))
    >>> [(e.code.hex(), e.operands) for e in form.encode(32)][:2]
    [('8cc1', ('register', 'es')), ('8cc9', ('register', 'cs'))]

    Raises:
        UnknownNameError: there is none.
    """
    try:
        return _catalogue()[name]
    except KeyError:
        raise UnknownNameError("encoding form", name, _catalogue()) from None


def form_of(code: bytes, bits: Bits | int) -> EncodingForm | None:
    r"""The form that the instruction at the start of `code` is of; None if it is no instruction.

    >>> form_of(b"\x9d", 32).syntax
    'POPFD'
    """
    raw = _iced().Decoder(int(bits), code[:15]).decode()
    return _catalogue()[_names()[raw.code]] if raw else None


# ------------------------------------------------------------------------------------------------------ the library


@cache
def _iced() -> Any:
    import iced_x86

    return iced_x86


def _members(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


@cache
def _names() -> dict[int, str]:
    return {value: name.lower().replace("_", "-") for value, name in _members(_iced().Code).items()}


@cache
def _codes() -> dict[str, int]:
    return {name: value for value, name in _names().items()}


@cache
def _catalogue() -> dict[str, EncodingForm]:
    iced = _iced()
    encodings = {
        iced.EncodingKind.LEGACY: Encoding.LEGACY,
        iced.EncodingKind.D3NOW: Encoding.THREE_D_NOW,
        iced.EncodingKind.VEX: Encoding.VEX,
        iced.EncodingKind.EVEX: Encoding.EVEX,
        iced.EncodingKind.XOP: Encoding.XOP,
        iced.EncodingKind.MVEX: Encoding.MVEX,
    }
    mnemonics, features = _members(iced.Mnemonic), _members(iced.CpuidFeature)
    forms = {}
    for code, name in _names().items():
        info = iced.OpCodeInfo(code)
        if not info.is_instruction:
            continue
        raw = iced.Instruction()
        raw.code = code
        forms[name] = EncodingForm(
            name,
            info.instruction_string,
            info.op_code_string,
            mnemonics[info.mnemonic].lower(),
            encodings[info.encoding],
            tuple(features[number] for number in raw.cpuid_features()),
            _privilege(info),
            ExitFact.ALWAYS if info.intel_vm_exit else ExitFact.MAY if info.intel_may_vm_exit else ExitFact.NEVER,
            frozenset(bits for bits in Bits if info.is_available_in_mode(int(bits))),
            foreign_modes=frozenset(
                bits
                for bits, intel in _intel_modes(info)
                if info.is_available_in_mode(int(bits)) and (info.decoder_option or not intel)
            ),
            behind_wait=info.fwait,
        )
    return forms


def _intel_modes(info: Any) -> tuple[tuple[Bits, bool], ...]:
    return (
        (Bits.CODE_16, info.intel_decoder16),
        (Bits.CODE_32, info.intel_decoder32),
        (Bits.CODE_64, info.intel_decoder64),
    )


def _privilege(info: Any) -> PrivilegeFact:
    if info.must_be_cpl0:
        return PrivilegeFact.CPL0
    if info.is_privileged:
        return PrivilegeFact.IO_PRIVILEGE
    return PrivilegeFact.MAY_REQUIRE_CPL0 if info.may_require_cpl0 else PrivilegeFact.ANY


# ------------------------------------------------------------------------------------------------------ encoding


@lru_cache(maxsize=65536)
def _encode(name: str, bits: Bits, values: Operands) -> tuple[EncodedForm, ...]:
    iced = _iced()
    info = iced.OpCodeInfo(_codes()[name])
    kinds = _members(iced.OpCodeOperandKind)
    choices = [
        _choices(kinds[info.op_kind(number)], bits, info.address_size or int(bits)) for number in range(info.op_count)
    ]
    return tuple(_encodings(info, bits, values, choices))


def _encodings(
    info: Any, bits: Bits, values: Operands, choices: list[list[tuple[str, Setter]]]
) -> Iterator[EncodedForm]:
    iced = _iced()
    seen = set()
    for chosen in product(*choices):
        raw = iced.Instruction()
        raw.code = info.code
        for number, (_, setter) in enumerate(chosen):
            setter(raw, number, values)
        if info.require_op_mask_register:
            raw.op_mask = iced.Register.K1
        encoder = iced.Encoder(int(bits))
        try:
            encoder.encode(raw, values.ip)
        except ValueError:
            continue  # not every combination exists: no POP of CS, no MOV of one memory operand to another
        code = bytes(encoder.take_buffer())
        if code in seen or not _decodes_back(code, bits, info, values.ip):
            continue
        seen.add(code)
        yield EncodedForm(code, tuple(name for name, _ in chosen if name))


def _decodes_back(code: bytes, bits: Bits, info: Any, ip: int) -> bool:
    """Do the bytes mean this form again, by a decoder of the processors that have it?

    An instruction behind WAIT, being two, is taken for what was asked.
    """
    if info.fwait:
        return True
    iced = _iced()
    raw = iced.Decoder(int(bits), code, info.decoder_option or iced.DecoderOptions.NONE, ip=ip).decode()
    if raw.code != info.code:
        raw = iced.Decoder(int(bits), code, iced.DecoderOptions.AMD, ip=ip).decode()
    return bool(raw) and raw.code == info.code and raw.len == len(code)


_REGISTERS: Final = {  # operand kind -> (register in ModRM.reg or VEX.vvvv, in ModRM.rm or the opcode)
    "R8": ("BL", "CL"), "R16": ("BX", "CX"), "R32": ("EBX", "ECX"), "R64": ("RBX", "RCX"),
    "MM": ("MM1", "MM2"), "XMM": ("XMM1", "XMM2"), "YMM": ("YMM1", "YMM2"), "ZMM": ("ZMM1", "ZMM2"),
    "K": ("K2", "K3"), "BND": ("BND1", "BND2"), "TMM": ("TMM1", "TMM2"), "TR": ("TR6", "TR6"),
    "XMMP3": ("XMM4", "XMM4"), "ZMMP3": ("ZMM4", "ZMM4"), "KP1": ("K2", "K2"),
}  # fmt: skip
_THIRD: Final = {"R32": "EDX", "R64": "RDX", "K": "K4", "XMM": "XMM3", "YMM": "YMM3", "ZMM": "ZMM3", "TMM": "TMM3"}
"""The register in VEX.vvvv or the last immediate byte."""
_CHOICES: Final = {
    "SEG_REG": ("ES", "CS", "SS", "DS", "FS", "GS"),
    "CR_REG": ("CR0", "CR2", "CR3", "CR4", "CR8"),
    "DR_REG": tuple(f"DR{number}" for number in range(8)),
    "TR_REG": ("TR6", "TR7"),
}
_IMMEDIATES: Final = {
    "IMM4_M2Z": "IMMEDIATE8", "IMM8": "IMMEDIATE8", "IMM8_CONST_1": "IMMEDIATE8", "IMM8SEX16": "IMMEDIATE8TO16",
    "IMM8SEX32": "IMMEDIATE8TO32", "IMM8SEX64": "IMMEDIATE8TO64", "IMM16": "IMMEDIATE16", "IMM32": "IMMEDIATE32",
    "IMM32SEX64": "IMMEDIATE32TO64", "IMM64": "IMMEDIATE64",
}  # fmt: skip
_BRANCHES: Final = {"BR16": 16, "BR32": 32, "BR64": 64, "XBEGIN": 0, "BRDISP": 0}


def _choices(kind: str, bits: Bits, address_size: int) -> list[tuple[str, Setter]]:
    """What an operand of `kind` can be, each with a name for people where there is a choice."""
    if kind in _CHOICES:  # CR8 outside of 64-bit mode is AMD's alone
        names = (name for name in _CHOICES[kind] if name != "CR8" or bits == Bits.CODE_64)
        return [(name.lower(), _register(name)) for name in names]
    if kind in _IMMEDIATES:
        return [("", _immediate(kind))]
    if kind.startswith(("MEM", "SIBMEM")):
        return [("", _memory(kind, bits, address_size))]
    if kind in ("SEG_RSI", "ES_RDI", "SEG_RDI", "SEG_RBX_AL"):
        return [("", _string(kind, bits, address_size))]
    if (branch := kind.partition("_")[0]) in _BRANCHES:
        size = _BRANCHES[branch] or (int(bits) if bits != Bits.CODE_16 else 16)
        return [("", _branch(16 if kind.endswith("_2") and branch != "BR16" and bits == Bits.CODE_16 else size))]
    if kind.startswith("FARBR"):
        return [("", _far(16 if kind == "FARBR2_2" else 32))]
    stem, _, place = kind.partition("_")
    if stem == "STI":
        return [("", _register("ST2"))]
    if stem not in _REGISTERS:
        return [("", _register(stem))]  # a register that the opcode implies
    reg, rm = _REGISTERS[stem]
    if place.startswith("OR_MEM"):
        return [("register", _register(rm)), ("memory", _memory("MEM", bits, address_size))]
    if place.startswith(("VVVV", "IS")):
        return [("", _register(_THIRD.get(stem, reg)))]
    return [("", _register(rm if place.startswith(("RM", "OPCODE")) else reg))]


def _register(name: str) -> Setter:
    def put(raw: Any, number: int, _values: Operands) -> None:
        iced = _iced()
        raw.set_op_kind(number, iced.OpKind.REGISTER)
        raw.set_op_register(number, getattr(iced.Register, name))

    return put


def _immediate(kind: str) -> Setter:
    name = _IMMEDIATES[kind]
    stored, _, extended = name.removeprefix("IMMEDIATE").partition("TO")
    size = int(stored)
    mask = {"IMM4_M2Z": 3}.get(kind, (1 << size) - 1)

    def put(raw: Any, number: int, values: Operands) -> None:
        kinds = _iced().OpKind
        value = 1 if kind == "IMM8_CONST_1" else values.immediate & mask
        if number and raw.op_kind(number - 1) in (kinds.IMMEDIATE8, kinds.IMMEDIATE16):  # EXTRQ, INSERTQ, ENTER
            raw.set_op_kind(number, kinds.IMMEDIATE8_2ND)
            raw.immediate8_2nd = value
            return
        raw.set_op_kind(number, getattr(kinds, name))
        if extended or size == 64:
            raw.set_immediate_i64(number, value - (1 << size) if value >> size - 1 else value)
        else:
            setattr(raw, f"immediate{size}", value)

    return put


def _memory(kind: str, bits: Bits, address_size: int) -> Setter:
    """A bare displacement; where the encoding needs a base or an index, EAX or RAX is the base."""
    has_base = kind in ("MEM_MIB", "SIBMEM") or kind.startswith("MEM_VSIB")

    def put(raw: Any, number: int, values: Operands) -> None:
        iced = _iced()
        raw.set_op_kind(number, iced.OpKind.MEMORY)
        raw.memory_displacement = values.memory
        raw.memory_displ_size = address_size // 8
        if has_base:
            raw.memory_base = iced.Register.RAX if bits == Bits.CODE_64 else iced.Register.EAX
        if kind.startswith("MEM_VSIB"):
            raw.memory_index = getattr(iced.Register, f"{kind[-1]}MM5")

    return put


def _string(kind: str, bits: Bits, address_size: int) -> Setter:
    size = {16: "", 32: "E", 64: "R"}[address_size or int(bits)]
    name = {
        "SEG_RSI": f"MEMORY_SEG_{size}SI",
        "ES_RDI": f"MEMORY_ES{size}DI",
        "SEG_RDI": f"MEMORY_SEG_{size}DI",
        "SEG_RBX_AL": "MEMORY",
    }[kind]

    def put(raw: Any, number: int, _values: Operands) -> None:
        iced = _iced()
        raw.set_op_kind(number, getattr(iced.OpKind, name))
        if kind == "SEG_RBX_AL":
            raw.memory_base = getattr(iced.Register, f"{size}BX")
            raw.memory_index = iced.Register.AL

    return put


def _branch(size: int) -> Setter:
    def put(raw: Any, number: int, values: Operands) -> None:
        kinds = _iced().OpKind
        raw.set_op_kind(number, getattr(kinds, f"NEAR_BRANCH{size}"))
        setattr(raw, f"near_branch{size}", values.target)

    return put


def _far(size: int) -> Setter:
    def put(raw: Any, number: int, values: Operands) -> None:
        kinds = _iced().OpKind
        raw.set_op_kind(number, getattr(kinds, f"FAR_BRANCH{size}"))
        raw.far_branch_selector = values.selector
        setattr(raw, f"far_branch{size}", values.target)

    return put
