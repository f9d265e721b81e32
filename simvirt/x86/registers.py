"""The registers a program can name, each with the number that instructions encode it by.

A general register is one register of 64 bits that instructions see through windows of 8, 16, 32 or 64 bits; its
*number* is what a ModR/M byte, a VM-exit qualification and an EPT instruction-information field all use (SDM Vol. 2A
§2.1.5 Table 2-2, Vol. 3C §28.2.1 Table 28-3). Names by width live here, so that nobody else keeps a list of them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class GeneralRegister(IntEnum):
    """A general-purpose register by its encoding (SDM Vol. 2A Table 2-2, Vol. 3C Table 28-3)."""

    RAX = 0
    RCX = 1
    RDX = 2
    RBX = 3
    RSP = 4
    RBP = 5
    RSI = 6
    RDI = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15

    def name_at(self, width: int, *, high_byte: bool = False) -> str:
        """Name of the window of `width` bits; `high_byte` is bits 15:8, which only the first four registers have.

        >>> (
        ...     GeneralRegister.RAX.name_at(32),
        ...     GeneralRegister.RAX.name_at(8, high_byte=True),
        ...     GeneralRegister.R9.name_at(16),
        ... )
        ('eax', 'ah', 'r9w')

        Raises:
            ValueError: there is no such window.
        """
        if high_byte:
            if width != 8 or self > GeneralRegister.RBX:
                raise ValueError(f"{self.name} has no high-byte window of {width} bits")
            return _HIGH_BYTE_NAMES[self]
        try:
            return _NAMES[width][self]
        except KeyError:
            raise ValueError(f"a general register is seen at 8, 16, 32 or 64 bits, not {width}") from None


_HIGH_BYTE_NAMES: Final = ("ah", "ch", "dh", "bh")
_NAMES: Final[dict[int, tuple[str, ...]]] = {
    8: ("al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil", *(f"r{n}b" for n in range(8, 16))),
    16: ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", *(f"r{n}w" for n in range(8, 16))),
    32: ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", *(f"r{n}d" for n in range(8, 16))),
    64: ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16))),
}

GENERAL_REGISTERS_32: Final = tuple(GeneralRegister)[:8]
"""The general registers of 16-bit and 32-bit code: the eight that need no REX prefix."""


class SegmentRegister(IntEnum):
    """A segment register by its encoding (SDM Vol. 2A §3.1.1.3 "Sreg"; Vol. 3C Table 28-8)."""

    ES = 0
    CS = 1
    SS = 2
    DS = 3
    FS = 4
    GS = 5


class SystemSegmentRegister(IntEnum):
    """The two system registers that hold a selector (SDM Vol. 3A §2.4), numbered on from the segment registers."""

    LDTR = 6
    TR = 7


class ControlRegister(IntEnum):
    """A control register by its encoding (SDM Vol. 3A §2.5); naming any other is #UD."""

    CR0 = 0
    CR2 = 2
    CR3 = 3
    CR4 = 4
    CR8 = 8


class DebugRegister(IntEnum):
    """A debug register by its encoding (SDM Vol. 3B §18.2); DR4 and DR5 are DR6 and DR7, or #UD if CR4.DE is 1."""

    DR0 = 0
    DR1 = 1
    DR2 = 2
    DR3 = 3
    DR4 = 4
    DR5 = 5
    DR6 = 6
    DR7 = 7


class Ring(IntEnum):
    """A privilege level: of code (CPL), of a descriptor (DPL), of a request (RPL); less is more (SDM Vol. 3A §5.5)."""

    RING0 = 0
    RING1 = 1
    RING2 = 2
    RING3 = 3
