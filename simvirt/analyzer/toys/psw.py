"""The processor status word of the third-generation machine: M, P and R = (L, B) in one word (§2 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MODES: Final = ("s", "u")
ADDRESS_BITS: Final = 12
BOUND_BITS: Final = 13


@dataclass(frozen=True, slots=True)
class Psw:
    """Mode, program counter, relocation and bound."""

    mode: str
    p: int
    l: int  # noqa: E741 -- the paper's names
    b: int

    def pack(self, address: int = ADDRESS_BITS, bound: int = BOUND_BITS) -> int:
        """The word, of so many bits to an address and to a bound.

        >>> hex(Psw("u", 2, 0x100, 0x80).pack())
        '0x2004200080'
        """
        return ((MODES.index(self.mode) << address | self.p) << address | self.l) << bound | self.b

    @classmethod
    def unpack(cls, word: int, address: int = ADDRESS_BITS, bound: int = BOUND_BITS) -> Psw:
        """The four from a word."""
        mask = (1 << address) - 1
        return cls(
            mode=MODES[word >> (bound + 2 * address) & 1],
            p=word >> (bound + address) & mask,
            l=word >> bound & mask,
            b=word & ((1 << bound) - 1),
        )
