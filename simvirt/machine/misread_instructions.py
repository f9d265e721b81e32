"""Instructions that the engine takes for others, or for none: each runs as one of the same length that it knows.

The engine stops in front of each of them (native/special.c). The bytes in memory are changed for the one instruction,
so that its length, its operands and its faults are its own; an instruction that reads its own bytes as its operand sees
the change.

==================================  ===============================  ==============================================
the manual                          the engine                       what it is given instead
==================================  ===============================  ==============================================
66 means nothing before a near      RIP is cut to 16 bits            F2 for 66, which means nothing there either
branch in 64-bit mode
(Vol. 2A "Jcc", "CALL")
F2 and F3 make another SSE          66 comes first; it makes CRC32   F2 or F3 once more for 66
instruction, and ADOX, behind 66    and POPCNT with REX.W of 16 bits
too (Vol. 2A §2.1.2); REX.W goes
before 66 (§2.2.1.2)
REX.R means nothing in MOV C6 /0    #UD                              REX without R
and C7 /0
CMPPS and its kin ignore bits 7     #UD                              the predicate's three bits
to 3 of their immediate
TEST F6 /1, F7 /1 and hints 0F 0D,  #UD                              /0; NOP (0F 1F)
0F 18 of a register (Vol. 2D
Tables A-2 to A-6)
LOCK NEG sets the flags of the      those of the operand             F3 for LOCK: there is one processor
result
==================================  ===============================  ==============================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.fills import Access
from simvirt.x86.prefixes import split_prefixes
from simvirt.x86.registers import SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simvirt.machine.core import Core
    from simvirt.machine.events import Event

_OPERAND_SIZE, _LOCK, _REPNE, _REPE = 0x66, 0xF0, 0xF2, 0xF3
_REG, _FIRST = 0x38, 0x08
_NEAR_BRANCHES: Final = frozenset(b"\xc2\xc3\xe0\xe1\xe2\xe3\xe8\xe9\xeb")
_SSE: Final = frozenset({*range(0x10, 0x18), *range(0x28, 0x30), *range(0x50, 0x80), 0xC2, *range(0xD0, 0xFF)})
_INDIRECT: Final = (0x10, 0x20)
_REX_R: Final = 4
_PREDICATE: Final = 7
_NOP: Final = 0x1F


def as_engine_reads_it(code: bytes, bits: int) -> bytes | None:
    """What the engine has to be given for this instruction; None if it reads it as it is.

    >>> as_engine_reads_it(bytes.fromhex("660f8f05000000"), 64).hex()  # JG with a displacement of 32 bits
    'f20f8f05000000'
    >>> as_engine_reads_it(bytes.fromhex("0fc2c108"), 32).hex()  # CMPEQPS
    '0fc2c100'
    """
    prefixes, opcode = split_prefixes(code, bits)
    at = len(code) - len(opcode)
    out = bytearray(code)
    repeats = [byte for byte in prefixes.legacy if byte in (_REPNE, _REPE)]
    if _OPERAND_SIZE in prefixes.legacy and (
        (bits == 64 and _is_near_branch(opcode)) or (repeats and _has_mandatory_prefix(opcode, prefixes.rex_w))
    ):
        _replace(out, at, _OPERAND_SIZE, repeats[-1] if repeats else _REPNE)
    elif opcode[0] in (0xC6, 0xC7) and prefixes.rex_r:
        out[at - 1] &= ~_REX_R
    elif opcode[0] in (0xF6, 0xF7) and opcode[1] & _REG == _FIRST:
        out[at + 1] &= ~_REG
    elif opcode[0] in (0xF6, 0xF7) and prefixes.lock:
        _replace(out, at, _LOCK, _REPE)
    elif opcode[:2] in (b"\x0f\x0d", b"\x0f\x18"):
        out[at + 1] = _NOP
    if opcode[:2] == b"\x0f\xc2":
        out[-1] &= _PREDICATE
    return bytes(out) if out != code else None


def _has_mandatory_prefix(opcode: bytes, rex_w: int) -> bool:
    """SSE instructions and ADOX; CRC32 and POPCNT with REX.W."""
    if opcode[0] != 0x0F:
        return False
    if opcode[1] == 0x38:
        return opcode[2] == 0xF6 or (bool(rex_w) and opcode[2] >> 1 == 0x78)
    return opcode[1] in _SSE or (bool(rex_w) and opcode[1] == 0xB8)


def _is_near_branch(opcode: bytes) -> bool:
    first = opcode[0]
    if first == 0x0F:
        return opcode[1] >> 4 == 8
    return first >> 4 == 7 or first in _NEAR_BRANCHES or (first == 0xFF and opcode[1] & _REG in _INDIRECT)


def _replace(out: bytearray, end: int, old: int, new: int) -> None:
    for at in range(end):
        if out[at] == old:
            out[at] = new


def run(cpu: Core, code: bytes, given: bytes) -> Event | None:
    """Run the instruction at RIP, whose bytes are `code`, as if they were others.

    :return: the event that it met, or None when it is done.
    """
    state = cpu.state
    base = 0 if state.code_64 else state.segment_base(SegmentRegister.CS)
    mask = 0xFFFF_FFFF_FFFF_FFFF if state.code_64 else 0xFFFF_FFFF
    places = [at for at in range(len(code)) if code[at] != given[at]]
    hosts = [
        cpu.engine.translate(state.rip + base + at & mask, Access.FETCH, user=state.cpl == 3, explicit=True)
        for at in places
    ]
    changes = [(host, at) for host, at in zip(hosts, places, strict=True) if host is not None]
    _write(cpu, changes, given)
    try:
        return cpu.run_natively()
    finally:
        _write(cpu, changes, code)
        cpu.engine.correct_code_bytes(given, code)  # what has met something is looked at by others


def _write(cpu: Core, changes: Sequence[tuple[int, int]], code: bytes) -> None:
    for host, at in changes:
        cpu.engine.memory.view[host] = code[at]
        cpu.engine.written(host, 1)
