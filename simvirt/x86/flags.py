"""The bits of EFLAGS, CR0, CR4 and IA32_EFER, under the manual's names.

These are `IntFlag`s: they compare, mask and print as what they are, and mix with plain integers. To clear bits of a
plain register value write ``value & ~int(Eflags.IF)``: the complement of a *flag* is a flag and knows only the named
bits.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final


class Eflags(IntFlag):
    """Bits of EFLAGS / RFLAGS (SDM Vol. 1 §3.4.3, the system flags in Vol. 3A §2.3)."""

    CF = 1 << 0
    ALWAYS_ONE = 1 << 1
    PF = 1 << 2
    AF = 1 << 4
    ZF = 1 << 6
    SF = 1 << 7
    TF = 1 << 8
    IF = 1 << 9
    DF = 1 << 10
    OF = 1 << 11
    IOPL = 3 << 12
    """Both bits of the I/O privilege level; see `iopl`."""
    NT = 1 << 14
    RF = 1 << 16
    VM = 1 << 17
    AC = 1 << 18
    VIF = 1 << 19
    VIP = 1 << 20
    ID = 1 << 21
    ARITHMETIC = CF | PF | AF | ZF | SF | OF
    """The status flags: results of arithmetic, no state of the machine."""
    SYSTEM = TF | IF | IOPL | NT | RF | VM | AC | VIF | VIP | ID
    """The system flags: the part of EFLAGS that makes PUSHF and POPF sensitive."""


IOPL_SHIFT: Final = 12
EFLAGS_DEFINED: Final = int(Eflags.ARITHMETIC | Eflags.SYSTEM | Eflags.DF | Eflags.ALWAYS_ONE)
EFLAGS_RESERVED_ZERO: Final = 0xFFFF_FFFF & ~EFLAGS_DEFINED
"""Bits 3, 5, 15 and 31:22: read as zero, whatever is written."""
EFLAGS_AT_RESET: Final = int(Eflags.ALWAYS_ONE)
"""SDM Vol. 3A Table 10-1: 00000002H after power-up, reset or INIT."""


def iopl(eflags: int) -> int:
    """The I/O privilege level in `eflags`, 0 to 3.

    >>> iopl(0x3202)
    3
    """
    return eflags >> IOPL_SHIFT & 3


def normal_eflags(value: int) -> int:
    """`value` as EFLAGS would hold it: bit 1 set, reserved bits clear."""
    return value & EFLAGS_DEFINED | int(Eflags.ALWAYS_ONE)


class Cr0(IntFlag):
    """Bits of CR0 (SDM Vol. 3A §2.5)."""

    PE = 1 << 0
    MP = 1 << 1
    EM = 1 << 2
    TS = 1 << 3
    ET = 1 << 4
    NE = 1 << 5
    WP = 1 << 16
    AM = 1 << 18
    NW = 1 << 29
    CD = 1 << 30
    PG = 1 << 31
    MACHINE_STATUS_WORD = PE | MP | EM | TS
    """What LMSW may load (PE can be set by it, not cleared; SDM Vol. 2A "LMSW")."""


CR0_DEFINED: Final = int(
    Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS | Cr0.ET | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.NW | Cr0.CD | Cr0.PG
)
CR0_RESERVED_LOW: Final = 0xFFFF_FFFF & ~CR0_DEFINED
"""Reserved bits 31:0: ignored when written. Any of bits 63:32 is #GP(0) (SDM Vol. 2B "MOV to CR")."""
CR0_AT_RESET: Final = int(Cr0.CD | Cr0.NW | Cr0.ET)
"""60000010H (SDM Vol. 3A Table 10-1)."""


class Cr4(IntFlag):
    """Bits of CR4 (SDM Vol. 3A §2.5). A write of a bit that the CPU does not have is #GP(0)."""

    VME = 1 << 0
    PVI = 1 << 1
    TSD = 1 << 2
    DE = 1 << 3
    PSE = 1 << 4
    PAE = 1 << 5
    MCE = 1 << 6
    PGE = 1 << 7
    PCE = 1 << 8
    OSFXSR = 1 << 9
    OSXMMEXCPT = 1 << 10
    UMIP = 1 << 11
    LA57 = 1 << 12
    VMXE = 1 << 13
    SMXE = 1 << 14
    FSGSBASE = 1 << 16
    PCIDE = 1 << 17
    OSXSAVE = 1 << 18
    KL = 1 << 19
    SMEP = 1 << 20
    SMAP = 1 << 21
    PKE = 1 << 22
    CET = 1 << 23
    PKS = 1 << 24
    UINTR = 1 << 25


CR4_DEFINED: Final = sum(Cr4)
CR4_RESERVED: Final = 0xFFFF_FFFF_FFFF_FFFF & ~CR4_DEFINED


class Efer(IntFlag):
    """Bits of IA32_EFER (SDM Vol. 3A §2.2.1, Vol. 4 Table 2-2; SVME: AMD APM Vol. 2 §3.1.7)."""

    SCE = 1 << 0
    LME = 1 << 8
    LMA = 1 << 10
    NXE = 1 << 11
    SVME = 1 << 12


EFER_DEFINED: Final = int(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)
"""What an Intel processor has; SVME is AMD's."""
EFER_RESERVED: Final = 0xFFFF_FFFF_FFFF_FFFF & ~EFER_DEFINED


class Dr6(IntFlag):
    """Bits of DR6, the debug status register (SDM Vol. 3B §18.2.3)."""

    B0 = 1 << 0
    B1 = 1 << 1
    B2 = 1 << 2
    B3 = 1 << 3
    BD = 1 << 13
    BS = 1 << 14
    BT = 1 << 15


DR6_BREAKPOINTS: Final = 0xF
"""B0 to B3: of the latest debug exception only. The other bits stay until the program clears them."""
DR6_ALWAYS_ONE: Final = 0xFFFF_0FF0
"""Bits that read as one (and the value of DR6 at reset) on a processor without RTM and bus-lock detection."""
DR7_ALWAYS_ONE: Final = 0x0000_0400
