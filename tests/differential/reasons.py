"""Why two machines may differ: what the manual leaves undefined, what QEMU does wrong, what this engine does not do.

`judge` takes from a difference what needs no explanation by the instruction (flags that are undefined, flags of
floating-point exceptions, RF); for the rest it looks for the first rule that fits. What no rule fits is unexplained.
Each reason that is this PC's own ("here: ...") is listed in docs/deviations.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from iced_x86 import Code, CpuidFeature, Mnemonic

from tests.differential.encodings import is_allowed
from tests.differential.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

from simvirt.x86.flags import Eflags

_M: Final = Mnemonic
_RF: Final = int(Eflags.RF)
_VIRTUAL: Final = int(Eflags.VIF | Eflags.VIP)
_DB, _UD, _SS, _GP, _PF, _MF, _XM = 1, 6, 12, 13, 14, 16, 19
_STATUS, _STATUS_HIGH, _CONTROL_HIGH, _MXCSR, _MXCSR_HIGH = 2, 3, 1, 24, 25
"""Bytes of an FXSAVE image."""
_SSE_FLAGS_THAT_DIFFER: Final = 0x02
"""DE, which is not set here."""
_USER: Final = 4
"""Of the error code of a page fault."""
_EXPONENTS: Final = frozenset(32 + 16 * number + byte for number in range(8) for byte in (8, 9))


class Reason(Enum):
    """Where a difference comes from."""

    UNDEFINED_FLAGS = "undefined: flags after the instruction"
    UNDEFINED_RESULT = "undefined: BSWAP of 16 bits, upper half of SMSW of 32 bits"
    APPROXIMATION = "undefined: the last bits of RCPPS and RSQRTPS"
    STORE_ORDER = "undefined: which page of a decimal number or of an image faults first, and what of it is stored then"
    QEMU_RF = "QEMU: RF is 0 in the EFLAGS image of a fault (SDM Vol. 3B 18.3.1.1 wants 1)"
    QEMU_LOST_TRAP = "QEMU: the single-step trap after PAUSE, STI and LSS comes one instruction late"
    QEMU_STACK_FAULT = "QEMU: a non-canonical address in SS is #GP, not #SS"
    QEMU_GATE_ERROR = "QEMU: the error code of a gate fault in long mode is the vector times 16"
    QEMU_ADX = "QEMU: ADCX and ADOX spoil RFLAGS"
    QEMU_MMX_REX = "QEMU: REX.R and REX.B before an MMX instruction choose registers that do not exist"
    QEMU_AH_REX = "QEMU: SAHF and LAHF behind a REX prefix use SPL for AH"
    QEMU_REP_IO = "QEMU: REP INS and OUTS with a count of 0 check the port"
    QEMU_FAR_STACK = "QEMU: far transfers access the stack of ring 3 as supervisor"
    QEMU_SYSCALL = (
        "QEMU: SYSCALL in compatibility mode is not #UD, as on AMD's processors, and in 64-bit mode clears CF to OF"
    )
    QEMU_CMPXCHG = "QEMU: CMPXCHG that fails does not extend its 32-bit destination with zeros"
    QEMU_IRET = "QEMU: IRET enters virtual-8086 mode at any CPL and in long mode, and leaves VIF and VIP as they are"
    QEMU_NULL_SELECTOR = "QEMU: null data segment registers keep their RPL on the way to an outer ring"
    QEMU_CALL_LIMIT = "QEMU: far transfers beyond the limit name the segment"
    QEMU_RETURN_LIMIT = "QEMU: far returns go beyond the limit of CS"
    QEMU_LONG_AND_DEFAULT = "QEMU: far transfers to code with L and D both set are not #GP"
    QEMU_OVERRIDE = "QEMU: far transfers in 64-bit code add the base that an override prefix names"
    QEMU_MOVBE = "QEMU: 66 before REX.W MOVBE makes it a word"
    QEMU_REBIAS = "QEMU: masked overflow and underflow give other results"
    QEMU_PARTIAL_LOAD = "QEMU: an SSE load that faults in its second half has changed the first half of the register"
    BY_CHANCE = "not compared: ports and tables of the machine, or the bench's own memory, met by chance"
    QEMU_LONG_STRING = "QEMU: PCMPESTRI and PCMPESTRM cut 64-bit lengths to 32 bits"
    QEMU_ENTER = "QEMU: ENTER with a 32-bit operand on a 16-bit stack writes all of EBP"
    X87_FLAGS = "here: DE, SF, C1 and IE of stack faults are not set; imprecise instructions set flags of their own"
    X87_FAULT = "here: unmasked denormal operands and stack faults are not #MF"
    QEMU_MF = "QEMU: pending x87 exceptions are reported by WAIT alone"
    X87_PRECISION = "here: transcendental instructions, constants, remainders and decimal numbers have 53 bits"
    X87_PRECISION_CONTROL = "here: x87 results at reduced precision are rounded otherwise"
    X87_DENORMAL = "here: x87 arithmetic with denormal numbers and unsupported encodings"
    X87_STORE = "here: FST of a number too small or too large for its format"
    FISTTP = "here: FISTTP of what does not fit"
    MXCSR_FLAGS = "here: DE is not set in MXCSR; QEMU: nothing is by what it does not finish"
    QEMU_MXCSR = "QEMU: reserved bits of MXCSR are ignored"
    SCALAR_READS = "here: ROUNDSS and ROUNDSD read 16 bytes"
    SSE_ALIGNMENT = "here: SSE instructions accept unaligned memory operands"
    HORIZONTAL = "here: horizontal additions of a register to itself are wrong"
    STRING_SEARCH = "here: PCMPESTRI and its kin find no needle that the end of the haystack cuts"
    DOT_PRODUCT = "here: DPPS and DPPD add their products in another order"
    MMX_STATE = "here: MMX forms of SSSE3 instructions leave TOP and the tag word as they are"
    MMX_FAULT = "here: conversions to and from MMX operands change TOP and the tag word although they fault"
    MMX_EXPONENT = "here: MMX results leave bits 79:64 of the x87 register"
    X87_SIGNALLING = "here: loads leave signalling NaNs as they are"
    QEMU_NEAR_BRANCH = "QEMU: 66 before a near branch in 64-bit mode makes it one of 16 bits, as on AMD's processors"
    QEMU_FAR_STACK_WIDTH = "QEMU: far returns of 16 and 32 bits in 64-bit mode pop from ESP"
    FLOATING_POINT_POINTERS = "undefined: FIP, FCS, FDP, FDS and FOP in stored images, which the two write differently"
    QEMU_VEX = "QEMU: VEX prefixes in 16-bit protected mode are #UD"
    QEMU_BLSI = "QEMU: CF behind BLSI tells of a source of 0"
    QEMU_TEST = "QEMU: the second encoding of TEST (F6 /1, F7 /1) and the hints 0F 0D and 0F 18 of a register are #UD"
    QEMU_SYSRET = "QEMU: SYSRET outside of 64-bit mode is not #UD, as on AMD's processors"
    QEMU_FAR_POINTER = "QEMU: LFS, LGS and LSS with REX.W take offsets of 32 bits, as AMD's processors do"
    QEMU_REX_W = "QEMU: 66 makes CRC32 with REX.W one of 16 bits"
    QEMU_UNMASKED = "QEMU: an unmasked invalid operation or division by zero of the x87 gives its result all the same"
    QEMU_NULL_STACK = "QEMU: a null selector in SS may have another RPL than CPL in 64-bit mode"
    QEMU_SYSEXIT = "QEMU: SYSEXIT to compatibility mode takes all of RDX and RCX"
    QEMU_BASE = "QEMU: in 64-bit mode a prefix for ES, CS, SS or DS adds the base of the segment"
    QEMU_ES = "QEMU: FLDENV, FLDCW and FRSTOR do not renew ES, and a pending exception is forgotten"
    QEMU_INT1 = "QEMU: INT1 is #UD"
    QEMU_XM = "QEMU: unmasked SSE exceptions are not #XM, and leave other results"


@dataclass(frozen=True, slots=True)
class Verdict:
    """An explanation.

    :ivar ends_case: what follows in the case follows from this difference, and is not looked at.
    """

    reason: Reason
    ends_case: bool


def judge(step: Step) -> Verdict | None:
    """The reason for a difference, or None."""
    null = "segments" in step.fields and step.ours_is_null_where_theirs_is
    if null:
        step.fields.discard("segments")
    of_flags, of_floating_point = _take_flags(step), _take_floating_point_flags(step)
    reason = of_flags or of_floating_point or (Reason.QEMU_NULL_SELECTOR if null else None)
    if not step.fields:
        return Verdict(reason or Reason.UNDEFINED_FLAGS, ends_case=null)
    if len(step.fields) > 1 and not step.writes_memory:
        step.fields.discard("sum")  # a stack in the sandbox, on which the bench has saved registers
    for each, fits in _RULES:
        if fits(step):
            return Verdict(each, ends_case=True)
    return None


def _take_flags(step: Step) -> Reason | None:
    """RFLAGS: RF in the image of a fault, what a wrong IRET left behind, what is undefined."""
    difference = step.flags_difference
    if not difference:
        return None
    reason = None
    for part, name in (
        (_RF if step.here != _DB and int(step.ours["rflags"]) & _RF else 0, Reason.QEMU_RF),
        (_VIRTUAL if not step.is_v86 else 0, Reason.QEMU_IRET),
        (step.undefined_flags, Reason.UNDEFINED_FLAGS),
    ):
        if difference & part:
            difference &= ~part
            reason = name
    if not difference:
        step.fields.discard("rflags")
    return reason


def _take_floating_point_flags(step: Step) -> Reason | None:
    """Exception flags of the x87 and of SSE, which stay behind in every later step."""
    if "fx" not in step.fields:
        return None
    reason = None
    if step.places & {_STATUS, _STATUS_HIGH} and step.byte_difference(_STATUS_HIGH) & 0x7F == 0:  # but for B
        step.places -= {_STATUS, _STATUS_HIGH}
        reason = Reason.X87_FLAGS
    if _MXCSR in step.places and step.byte_difference(_MXCSR) & ~_SSE_FLAGS_THAT_DIFFER == 0:
        step.places.discard(_MXCSR)
        reason = Reason.MXCSR_FLAGS
    if not step.places:
        step.fields.discard("fx")
    return reason


_COMPARES: Final = frozenset({_M.CMPPS, _M.CMPPD, _M.CMPSS, _M.CMPSD})
_IMPRECISE: Final = frozenset(
    {
        *(_M.F2XM1, _M.FYL2X, _M.FYL2XP1, _M.FPATAN, _M.FPTAN, _M.FSIN, _M.FCOS, _M.FSINCOS, _M.FPREM, _M.FPREM1),
        *(_M.FLDL2T, _M.FLDL2E, _M.FLDPI, _M.FLDLG2, _M.FLDLN2, _M.FSCALE, _M.FXTRACT, _M.FBLD, _M.FBSTP),
        *(_M.FRNDINT, _M.FXAM),
    }
)
_HORIZONTAL: Final = frozenset(
    {_M.PHADDW, _M.PHADDD, _M.PHADDSW, _M.PHSUBW, _M.PHSUBD, _M.PHSUBSW, _M.HADDPS, _M.HADDPD, _M.HSUBPS, _M.HSUBPD}
)
_APPROXIMATE: Final = frozenset({_M.RCPPS, _M.RCPSS, _M.RSQRTPS, _M.RSQRTSS})
_LONG_STRINGS: Final = frozenset({_M.PCMPESTRI64, _M.PCMPESTRM64})
_MXCSR_LOADS: Final = frozenset({_M.LDMXCSR, _M.FXRSTOR, _M.FXRSTOR64})
_FAR_TRANSFERS: Final = frozenset({_M.CALL, _M.JMP, _M.RETF})
_STRINGS: Final = frozenset({_M.PCMPESTRI, _M.PCMPESTRM, _M.PCMPISTRI, _M.PCMPISTRM})
_PUSH_FLAGS: Final = frozenset({_M.PUSHF, _M.PUSHFD, _M.PUSHFQ})
_INS: Final = frozenset({_M.INSB, _M.INSW, _M.INSD})
_OUTS: Final = frozenset({_M.OUTSB, _M.OUTSW, _M.OUTSD})
_SYSRET: Final = frozenset({_M.SYSRET, _M.SYSRETQ})
_FAR_POINTER_LOADS: Final = frozenset({_M.LSS, _M.LFS, _M.LGS})
_SECOND_ENCODINGS: Final = frozenset(
    {
        *(Code.TEST_RM8_IMM8_F6R1, Code.TEST_RM16_IMM16_F7R1, Code.TEST_RM32_IMM32_F7R1, Code.TEST_RM64_IMM32_F7R1),
        *(Code.RESERVEDNOP_RM16_R16_0F0D, Code.RESERVEDNOP_RM32_R32_0F0D, Code.RESERVEDNOP_RM64_R64_0F0D),
        *(Code.RESERVEDNOP_RM16_R16_0F18, Code.RESERVEDNOP_RM32_R32_0F18, Code.RESERVEDNOP_RM64_R64_0F18),
    }
)
_IMAGES: Final = frozenset({_M.FNSTENV, _M.FNSAVE, _M.FXSAVE, _M.FXSAVE64})
_TO_MMX: Final = frozenset({_M.CVTTPD2PI, _M.CVTPD2PI, _M.CVTPS2PI, _M.CVTTPS2PI, _M.CVTPI2PS, _M.CVTPI2PD})
_MOV_IMMEDIATE: Final = frozenset({Code.MOV_RM8_IMM8, Code.MOV_RM16_IMM16, Code.MOV_RM32_IMM32, Code.MOV_RM64_IMM32})
_FAR: Final = frozenset({_M.RETF, _M.IRET, _M.IRETD, _M.IRETQ, _M.CALL})

_RULES: Final[tuple[tuple[Reason, Callable[[Step], bool]], ...]] = (
    (Reason.BY_CHANCE, lambda s: not is_allowed(s.instruction, kernel=s.case.flavour.ring == 0)),
    (Reason.BY_CHANCE, lambda s: s.reaches_bench),
    (
        Reason.QEMU_LONG_AND_DEFAULT,
        lambda s: s.mnemonic in _FAR and s.in_long_mode and s.differs_in("error") and int(s.ours["error"]) == 0x170,
    ),
    (Reason.QEMU_NULL_SELECTOR, lambda s: s.differs_in("general", "sum") and s.stores_null_selector),
    (Reason.QEMU_OVERRIDE, lambda s: s.bits == 64 and s.mnemonic in _FAR_TRANSFERS and s.has_void_override),
    (Reason.QEMU_PARTIAL_LOAD, lambda s: s.is_sse and s.here == s.there == _PF and s.differs_in("fx")),
    (
        Reason.QEMU_IRET,
        lambda s: s.mnemonic in _PUSH_FLAGS and bool(int(s.theirs["rflags"]) & _VIRTUAL) and s.differs_in("sum"),
    ),
    (
        Reason.FLOATING_POINT_POINTERS,
        lambda s: s.mnemonic in _IMAGES and s.here == s.there == _DB and s.differs_in("sum"),
    ),
    (
        Reason.QEMU_FAR_STACK_WIDTH,
        lambda s: s.bits == 64 and s.mnemonic == _M.RETF and s.here == _SS and not s.rex & 8 and s.has_high_stack,
    ),
    (
        Reason.QEMU_NULL_STACK,
        lambda s: s.bits == 64 and s.loads_ss and s.here == _GP and s.ours["error"] == 0 and 0 < s.theirs["ss"] < 3,
    ),
    (
        Reason.QEMU_SYSEXIT,
        lambda s: s.mnemonic == _M.SYSEXIT and s.bits == 64 and s.differs_in("rip", "general") and s.agrees_in_32_bits,
    ),
    (Reason.QEMU_BASE, lambda s: s.has_void_override and s.override_base != 0 and s.here == _DB),
    (Reason.QEMU_VEX, lambda s: s.bits == 16 and b"\xc4" in s.code[:4] and s.there == _UD and not s.case.flavour.low),
    (Reason.QEMU_BLSI, lambda s: s.mnemonic == _M.BLSI and s.differs_in("rflags") and s.flags_difference == 1),
    (Reason.QEMU_TEST, lambda s: s.instruction.code in _SECOND_ENCODINGS and s.there == _UD and s.here != _UD),
    (Reason.QEMU_SYSRET, lambda s: s.mnemonic in _SYSRET and s.bits != 64 and s.here == _UD and s.there == _GP),
    (Reason.QEMU_FAR_POINTER, lambda s: s.mnemonic in _FAR_POINTER_LOADS and bool(s.rex & 8)),
    (Reason.QEMU_REX_W, lambda s: s.mnemonic == _M.CRC32 and s.has_66 and bool(s.rex & 8) and s.differs_in("general")),
    (
        Reason.QEMU_UNMASKED,
        lambda s: (
            s.is_x87
            and s.here == s.there == _DB
            and s.differs_in("fx", "sum", "rflags")
            and s.has_unmasked_invalid_operation
        ),
    ),
    (Reason.QEMU_ES, lambda s: s.mnemonic == _M.WAIT and s.here == _MF and s.there != _MF),
    (Reason.QEMU_INT1, lambda s: s.mnemonic == _M.INT1 and s.here in (_DB, _GP) and s.there == _UD),
    (Reason.MMX_STATE, lambda s: CpuidFeature.SSSE3 in s.features and s.differs_in("fx") and s.is_mmx),
    (Reason.SCALAR_READS, lambda s: s.mnemonic in (_M.ROUNDSS, _M.ROUNDSD) and s.here == _PF and s.there == _DB),
    (Reason.SSE_ALIGNMENT, lambda s: s.there == _GP and s.here in (_DB, _PF) and s.has_unaligned_16_bytes),
    (Reason.QEMU_MF, lambda s: s.here == _MF and s.there != _MF and s.mnemonic != _M.WAIT),
    (Reason.QEMU_MXCSR, lambda s: s.mnemonic in _MXCSR_LOADS and s.here == _GP and s.there == _DB),
    (Reason.X87_FAULT, lambda s: s.there == _MF and s.here == _DB),
    (Reason.X87_FLAGS, lambda s: s.mnemonic == _M.FNSTSW and s.differs_in("general", "sum")),
    (Reason.MXCSR_FLAGS, lambda s: s.mnemonic == _M.STMXCSR and s.differs_in("sum")),
    (Reason.X87_PRECISION, lambda s: s.mnemonic in _IMPRECISE and s.here == _DB and s.differs_in("fx", "sum")),
    (
        Reason.QEMU_REP_IO,
        lambda s: s.mnemonic in _INS | _OUTS and s.here == _DB and s.there == _GP and s.repeats_zero_times,
    ),
    (Reason.APPROXIMATION, lambda s: s.mnemonic in _APPROXIMATE and s.differs_in("fx") and s.is_near(2.0**-10)),
    (Reason.HORIZONTAL, lambda s: s.mnemonic in _HORIZONTAL and s.differs_in("fx") and s.is_register_with_itself),
    (Reason.QEMU_NEAR_BRANCH, lambda s: s.bits == 64 and s.has_66 and s.is_near_branch),
    (Reason.QEMU_LOST_TRAP, lambda s: s.mnemonic in (_M.PAUSE, _M.STI, _M.LSS) and s.here == _DB and s.has_moved_on),
    (Reason.QEMU_STACK_FAULT, lambda s: s.here == _SS and s.there == _GP and s.in_long_mode and s.differs_in("vector")),
    (
        Reason.QEMU_GATE_ERROR,
        lambda s: s.here == s.there == _GP and s.differs_in("error") and s.in_long_mode and s.error_counts_gates_of_16,
    ),
    (Reason.QEMU_ADX, lambda s: s.mnemonic in (_M.ADCX, _M.ADOX) and s.differs_in("rflags")),
    (
        Reason.UNDEFINED_RESULT,
        lambda s: (
            s.differs_in("general")
            and ((s.mnemonic == _M.SMSW and s.agrees_in_16_bits) or (s.mnemonic == _M.BSWAP and s.has_word_register))
        ),
    ),
    (
        Reason.STORE_ORDER,
        lambda s: (
            (s.mnemonic == _M.FBSTP and s.here == s.there == _PF and s.differs_in("cr2", "fx", "sum"))
            or (s.mnemonic in _IMAGES and s.here == s.there == _PF and s.differs_in("cr2", "sum"))
        ),
    ),
    (Reason.MMX_FAULT, lambda s: s.mnemonic in _TO_MMX and s.here == s.there != _DB and s.differs_in("fx")),
    (Reason.QEMU_MMX_REX, lambda s: s.bits == 64 and s.is_mmx and s.has_rex_register),
    (Reason.MMX_EXPONENT, lambda s: s.is_mmx and s.differs_in("fx") and s.places <= _EXPONENTS),
    (Reason.DOT_PRODUCT, lambda s: s.mnemonic in (_M.DPPS, _M.DPPD) and s.differs_in("fx") and s.is_in_destination),
    (Reason.QEMU_XM, lambda s: s.here == _XM and s.there != _XM),
    (
        Reason.X87_DENORMAL,
        lambda s: s.is_x87 and s.differs_in("sum", "fx", "general", "rflags") and s.has_odd_number,
    ),
    (Reason.X87_STORE, lambda s: s.mnemonic in (_M.FST, _M.FSTP) and s.differs_in("fx", "sum")),
    (
        Reason.X87_PRECISION_CONTROL,
        lambda s: s.is_x87 and s.differs_in("fx") and s.fx_before[_CONTROL_HIGH] & 3 != 3,
    ),
    (Reason.FISTTP, lambda s: s.mnemonic == _M.FISTTP and s.differs_in("fx", "sum")),
    (Reason.QEMU_MOVBE, lambda s: s.mnemonic == _M.MOVBE and s.has_66 and bool(s.rex & 8)),
    (Reason.QEMU_AH_REX, lambda s: s.mnemonic in (_M.SAHF, _M.LAHF) and s.bits == 64 and s.rex != 0),
    (Reason.QEMU_SYSCALL, lambda s: s.mnemonic == _M.SYSCALL and s.here == _UD),
    (Reason.QEMU_CMPXCHG, lambda s: s.mnemonic == _M.CMPXCHG and s.differs_in("general") and s.agrees_in_32_bits),
    (Reason.QEMU_ENTER, lambda s: s.mnemonic == _M.ENTER and s.bits == 16 and s.has_66 and s.differs_in("general")),
    (
        Reason.QEMU_IRET,
        lambda s: s.mnemonic in (_M.IRET, _M.IRETD, _M.IRETQ) and bool(int(s.theirs["rflags"]) & int(Eflags.VM)),
    ),
    (
        Reason.QEMU_LONG_AND_DEFAULT,
        lambda s: s.mnemonic in _FAR_TRANSFERS and s.in_long_mode and s.here == _GP and s.there == _DB,
    ),
    (
        Reason.STRING_SEARCH,
        lambda s: s.mnemonic in _STRINGS and s.instruction.immediate8 & 0xC == 0xC and s.here == s.there == _DB,
    ),
    (
        Reason.QEMU_CALL_LIMIT,
        lambda s: (
            s.mnemonic == _M.CALL and s.here == s.there == _GP and s.ours["error"] == 0 and s.differs_in("error", "sum")
        ),
    ),
    (
        Reason.QEMU_RETURN_LIMIT,
        lambda s: s.mnemonic in _FAR and s.here == _GP and s.ours["error"] == 0 and s.there == _DB,
    ),
    (
        Reason.QEMU_REBIAS,
        lambda s: (
            s.differs_in("fx", "sum")
            and bool(
                (s.is_sse and int(s.theirs["fx"][_MXCSR]) & 0x18) or (s.is_x87 and int(s.theirs["fx"][_STATUS]) & 0x18)
            )
        ),
    ),
    (Reason.QEMU_LONG_STRING, lambda s: s.mnemonic in _LONG_STRINGS and s.here == s.there == _DB),
    (
        Reason.X87_SIGNALLING,
        lambda s: s.mnemonic == _M.FLD and s.differs_in("fx") and bool(int(s.theirs["fx"][_STATUS]) & 1),
    ),
    (
        Reason.QEMU_FAR_STACK,
        lambda s: (
            s.mnemonic in _FAR
            and s.here == _PF
            and bool(int(s.ours["error"]) & _USER)
            and (s.there != _PF or s.differs_in("error", "cr2"))
        ),
    ),
)
"""Reasons that belong to one instruction, the first that fits; what follows in the case hangs on its result."""
