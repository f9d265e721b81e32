"""From a decoder's words to `Operation`s: many mnemonics are one operation, and one mnemonic, MOV, is several."""

from __future__ import annotations

from typing import Final

from simvirt.x86.instruction import Bits, ControlOperand, DebugOperand, Operand, SegmentOperand
from simvirt.x86.operations import Operation

_RENAMED: Final[dict[str, Operation]] = {
    "retf": Operation.RET_FAR,
    "int": Operation.INT_N,
    "wbnoinvd": Operation.WBINVD,
    "getsecq": Operation.GETSEC,
    "sysexitq": Operation.SYSEXIT,
    "sysretq": Operation.SYSRET,
    "invlpgb": Operation.OTHER,
    **{f"{stem}{size}": Operation(stem) for stem in ("pushf", "popf", "iret") for size in ("", "d", "q")},
    **{f"{stem}{size}": Operation(stem) for stem in ("ins", "outs") for size in "bwd"},
    **{
        f"{stem}{size}": Operation(stem)
        for stem in ("vmrun", "vmload", "vmsave", "invlpga")
        for size in ("w", "d", "q")
    },
    **{f"{stem}{size}": Operation(stem) for stem in ("monitor", "mwait") for size in ("w", "d", "q")},
    **{f"{stem}64": Operation(stem) for stem in ("xsaves", "xrstors")},
    **dict.fromkeys(("lds", "les", "lfs", "lgs", "lss"), Operation.LOAD_FAR_POINTER),
}
"""Mnemonics whose operation has another name."""
_DIRECT: Final = {
    operation.value: operation for operation in Operation if operation not in (Operation.OTHER, Operation.INVALID)
}


def operation_of(mnemonic: str, operands: tuple[Operand, ...], *, is_far: bool) -> Operation:
    """The operation of an instruction by its mnemonic (lower case), operands and, for CALL and JMP, its distance."""
    if mnemonic == "mov":
        return _move(operands)
    if mnemonic in ("push", "pop"):
        if isinstance(operands[0], SegmentOperand):
            return Operation.PUSH_SEGMENT if mnemonic == "push" else Operation.POP_SEGMENT
        return Operation.OTHER
    if mnemonic == "call":
        return Operation.CALL_FAR if is_far else Operation.OTHER
    if mnemonic == "jmp":
        return Operation.JMP_FAR if is_far else Operation.OTHER
    return _RENAMED.get(mnemonic, _DIRECT.get(mnemonic, Operation.OTHER))


def _move(operands: tuple[Operand, ...]) -> Operation:
    destination, source = operands
    match destination:
        case SegmentOperand():
            return Operation.MOV_TO_SEGMENT
        case ControlOperand():
            return Operation.MOV_TO_CR
        case DebugOperand():
            return Operation.MOV_TO_DR
        case _:
            pass
    match source:
        case SegmentOperand():
            return Operation.MOV_FROM_SEGMENT
        case ControlOperand():
            return Operation.MOV_FROM_CR
        case DebugOperand():
            return Operation.MOV_FROM_DR
        case _:
            return Operation.OTHER


_LEGACY_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")


def address_size(encoding: bytes, bits: Bits) -> int:
    """Address size after an address-size prefix (SDM Vol. 2A §2.1.1, Vol. 1 Table 3-4)."""
    for byte in encoding:
        if byte == 0x67:
            return {Bits.CODE_16: 32, Bits.CODE_32: 16, Bits.CODE_64: 32}[bits]
        # A REX prefix followed by a legacy one is ignored, so it does not end the prefixes.
        if byte not in _LEGACY_PREFIXES and not (bits == Bits.CODE_64 and byte & 0xF0 == 0x40):
            break
    return int(bits)
