"""SVM guest mode, the engine's source of precise exits: its exit codes, and what can be intercepted.

It is AMD's, QEMU left it in Unicorn, and no guest of this PC ever sees it. The machine's own VMX is built on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Final


class SvmExit(IntEnum):
    """SVM exit codes, as the engine reports them behind 0x100 (AMD APM Vol. 2 Appendix C)."""

    CR_READ = 0x00
    CR_WRITE = 0x10
    DR_READ = 0x20
    DR_WRITE = 0x30
    EXCEPTION = 0x40
    VINTR = 0x64
    IDTR_READ = 0x66
    GDTR_READ = 0x67
    LDTR_READ = 0x68
    TR_READ = 0x69
    IDTR_WRITE = 0x6A
    GDTR_WRITE = 0x6B
    LDTR_WRITE = 0x6C
    TR_WRITE = 0x6D
    RDTSC = 0x6E
    RDPMC = 0x6F
    PUSHF = 0x70
    POPF = 0x71
    CPUID = 0x72
    RSM = 0x73
    IRET = 0x74
    SWINT = 0x75
    INVD = 0x76
    PAUSE = 0x77
    HLT = 0x78
    INVLPG = 0x79
    INVLPGA = 0x7A
    MSR = 0x7C
    SHUTDOWN = 0x7F
    VMRUN = 0x80
    VMMCALL = 0x81
    VMLOAD = 0x82
    VMSAVE = 0x83
    STGI = 0x84
    CLGI = 0x85
    SKINIT = 0x86
    RDTSCP = 0x87
    WBINVD = 0x89
    MONITOR = 0x8A
    MWAIT = 0x8B


INSTRUCTIONS_BASE: Final = 0x60
"""The exit code of the intercept in bit 0 of the control block's instruction intercepts."""
ALWAYS_INTERCEPTED: Final = frozenset(
    {
        SvmExit.VINTR,
        SvmExit.RDTSC,
        SvmExit.RDPMC,
        SvmExit.CPUID,
        SvmExit.SWINT,
        SvmExit.HLT,
        SvmExit.INVLPG,
        SvmExit.INVLPGA,
        SvmExit.MSR,
        SvmExit.SHUTDOWN,
        SvmExit.LDTR_WRITE,
        SvmExit.TR_WRITE,
        SvmExit.RSM,
        SvmExit.INVD,
        SvmExit.PAUSE,
        SvmExit.WBINVD,
        SvmExit.VMRUN,
        SvmExit.VMMCALL,
        SvmExit.VMLOAD,
        SvmExit.VMSAVE,
        SvmExit.STGI,
        SvmExit.CLGI,
        SvmExit.SKINIT,
        SvmExit.RDTSCP,
        SvmExit.MONITOR,
        SvmExit.MWAIT,
    }
)
"""What the processor of this PC completes itself, whoever runs on it; all exceptions come on top."""


TABLE_LOADS: Final = frozenset({SvmExit.GDTR_WRITE, SvmExit.IDTR_WRITE})
"""LGDT and LIDT, whose base the engine does not look at."""
UMIP_READS: Final = frozenset({SvmExit.GDTR_READ, SvmExit.IDTR_READ, SvmExit.LDTR_READ, SvmExit.TR_READ})
"""SGDT, SIDT, SLDT and STR, which CR4.UMIP forbids above CPL 0 (SDM Vol. 3A §2.5); SMSW is a read of CR0."""


@dataclass(frozen=True, slots=True)
class Intercepts:
    """Which instructions, beyond `ALWAYS_INTERCEPTED`, the engine hands over before they take effect."""

    instructions: frozenset[SvmExit] = frozenset()
    cr_reads: int = 1 << 8
    """Bit n: MOV from CRn (and SMSW for CR0)."""
    cr_writes: int = 1 << 0 | 1 << 4 | 1 << 8
    """Bit n: MOV to CRn (and LMSW, CLTS for CR0)."""
    dr_reads: int = 0
    dr_writes: int = 0xFF


@cache
def intercept_mask(instructions: frozenset[SvmExit]) -> int:
    """The intercept bits of these instructions and of those that are always intercepted."""
    return sum(1 << (code - INSTRUCTIONS_BASE) for code in instructions | ALWAYS_INTERCEPTED)


NO_INTERCEPTS: Final = Intercepts(cr_reads=0, cr_writes=0, dr_writes=0)
