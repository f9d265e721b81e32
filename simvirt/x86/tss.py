"""The task-state segment: where its fields lie, for 16-bit, 32-bit and 64-bit tasks.

The processor reads stacks for inner rings, interrupt stacks and the I/O permission bitmap from it, and in the older
modes switches tasks through it (SDM Vol. 3A §7.2.1 Figure 7-2, §7.6 Figure 7-10, §7.7 Figure 7-11).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Tss16(IntEnum):
    """Byte offsets in a 16-bit TSS (the 80286's; SDM Vol. 3A Figure 7-10). Every field has 16 bits."""

    LINK = 0
    SP0 = 2
    SS0 = 4
    SP1 = 6
    SS1 = 8
    SP2 = 10
    SS2 = 12
    IP = 14
    FLAGS = 16
    AX = 18
    CX = 20
    DX = 22
    BX = 24
    SP = 26
    BP = 28
    SI = 30
    DI = 32
    ES = 34
    CS = 36
    SS = 38
    DS = 40
    LDT = 42


class Tss32(IntEnum):
    """Byte offsets in a 32-bit TSS (SDM Vol. 3A Figure 7-2). Fields have 32 bits, of which a selector takes 16."""

    LINK = 0
    ESP0 = 4
    SS0 = 8
    ESP1 = 12
    SS1 = 16
    ESP2 = 20
    SS2 = 24
    CR3 = 28
    EIP = 32
    EFLAGS = 36
    EAX = 40
    ECX = 44
    EDX = 48
    EBX = 52
    ESP = 56
    EBP = 60
    ESI = 64
    EDI = 68
    ES = 72
    CS = 76
    SS = 80
    DS = 84
    FS = 88
    GS = 92
    LDT = 96
    TRAP = 100
    IO_MAP_BASE = 102


class Tss64(IntEnum):
    """Byte offsets in a 64-bit TSS (SDM Vol. 3A Figure 7-11). Stack pointers have 64 bits, the I/O map base has 16."""

    RSP0 = 4
    RSP1 = 12
    RSP2 = 20
    IST1 = 36
    IST2 = 44
    IST3 = 52
    IST4 = 60
    IST5 = 68
    IST6 = 76
    IST7 = 84
    IO_MAP_BASE = 102


TSS16_MINIMUM_LIMIT: Final = 0x2B
TSS32_MINIMUM_LIMIT: Final = 0x67
"""A smaller limit is #TS on a task switch (SDM Vol. 3A §7.2.2)."""
TSS64_MINIMUM_LIMIT: Final = 0x67


def inner_stack_offsets(ring: int, *, is_32_bit: bool = True) -> tuple[int, int]:
    """Offsets of the stack pointer and the stack selector for `ring` 0, 1 or 2 in a 32-bit or 16-bit TSS.

    >>> inner_stack_offsets(0), inner_stack_offsets(1, is_32_bit=False)
    ((4, 8), (6, 8))

    Raises:
        ValueError: ring 3 has no stack in a TSS, since nothing more privileged is entered there.
    """
    if ring not in (0, 1, 2):
        raise ValueError(f"a TSS holds stacks for rings 0 to 2, not for ring {ring}")
    return (4 + 8 * ring, 8 + 8 * ring) if is_32_bit else (2 + 4 * ring, 4 + 4 * ring)
