"""The legacy and REX prefixes in front of an opcode (SDM Vol. 2A §2.1.1 and §2.2.1).

A full decoder costs some ten microseconds; where only the opcode and its prefixes matter, as for an instruction that
has been intercepted and so is known to be valid, this is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_REPEAT: Final = b"\xf2\xf3"
_LEGACY: Final = frozenset(b"\xf0\xf2\xf3\x2e\x36\x3e\x26\x64\x65\x66\x67")
_SEGMENTS: Final = {0x26: 0, 0x2E: 1, 0x36: 2, 0x3E: 3, 0x64: 4, 0x65: 5}


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The prefixes of one instruction."""

    legacy: bytes = b""
    """In the order in which they stand."""
    rex: int = 0
    """The REX prefix, 0 when there is none."""

    @property
    def repeated(self) -> bool:
        """REP, REPE or REPNE."""
        return any(byte in _REPEAT for byte in self.legacy)

    @property
    def lock(self) -> bool:
        """Is there a LOCK prefix?"""
        return 0xF0 in self.legacy

    @property
    def segment(self) -> int | None:
        """Encoding of the segment register of the last segment override."""
        return next((_SEGMENTS[byte] for byte in reversed(self.legacy) if byte in _SEGMENTS), None)

    @property
    def rex_b(self) -> int:
        """REX.B: bit 3 of ModRM.rm, SIB.base or the opcode's register (SDM Vol. 2A Table 2-4)."""
        return self.rex & 1

    @property
    def rex_r(self) -> int:
        """REX.R: bit 3 of ModRM.reg."""
        return self.rex >> 2 & 1

    @property
    def rex_w(self) -> int:
        """REX.W: 64-bit operand size."""
        return self.rex >> 3 & 1

    def operand_size(self, bits: int) -> int:
        """Operand size in bytes, in code of `bits` bits, of an instruction whose default is not 64 bits."""
        if self.rex_w:
            return 8
        return (4 if bits == 16 else 2) if 0x66 in self.legacy else (2 if bits == 16 else 4)

    def address_size(self, bits: int) -> int:
        """Address size in bytes, in code of `bits` bits."""
        if 0x67 in self.legacy:
            return {16: 4, 32: 2, 64: 4}[bits]
        return bits // 8


_NONE: Final = Prefixes()


def split_prefixes(code: bytes, bits: int) -> tuple[Prefixes, bytes]:
    r"""The prefixes of the instruction in `code`, code of `bits` bits, and what follows them.

    >>> split_prefixes(bytes.fromhex("f36e90"), 32)
    (Prefixes(legacy=b'\xf3', rex=0), b'n\x90')
    """
    if code[0] not in _LEGACY and not (bits == 64 and code[0] >> 4 == 4):
        return _NONE, code
    i = 0
    while i < len(code) and code[i] in _LEGACY:
        i += 1
    rex = 0
    if bits == 64 and i < len(code) and code[i] >> 4 == 4:
        rex = code[i]
        return Prefixes(code[:i], rex), code[i + 1 :]
    return Prefixes(code[:i]), code[i:]
