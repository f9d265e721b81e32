"""The headings under which tables list the x86's instructions."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from simvirt.x86.decode import decode
from simvirt.x86.forms import Encoding
from simvirt.x86.instruction import Flow
from simvirt.x86.operations import Operation

if TYPE_CHECKING:
    from simvirt.x86.forms import EncodingForm


class Group(StrEnum):
    """A heading; the order is that of the tables, what touches the machine first."""

    TABLES = "descriptor-table registers"
    CONTROL = "control and debug registers"
    FLAGS = "interrupt flag and IOPL"
    DESCRIPTORS = "descriptor inspection"
    SEGMENTS = "segment registers"
    TRANSFERS = "far transfers and interrupts"
    SYSTEM_CALLS = "system calls"
    PORTS = "input and output"
    TIME = "clock, counters, identity"
    MSRS = "model-specific registers"
    CACHES = "caches, translations, halting"
    VIRTUALIZATION = "virtual-machine extensions"
    BRANCHES = "near branches and calls"
    STACK = "stack"
    STRINGS = "strings"
    INTEGER = "integers and data moves"
    X87 = "x87"
    MMX = "MMX and 3DNow!"
    SSE = "SSE"
    AVX = "AVX and later"
    OTHER = "other extensions"


_O = Operation
_OPERATIONS: Final = {
    Group.TABLES: (_O.SGDT, _O.SIDT, _O.SLDT, _O.STR, _O.LGDT, _O.LIDT, _O.LLDT, _O.LTR),
    Group.CONTROL: (
        _O.SMSW, _O.LMSW, _O.CLTS, _O.MOV_TO_CR, _O.MOV_FROM_CR, _O.MOV_TO_DR, _O.MOV_FROM_DR, _O.XGETBV, _O.XSETBV,
        _O.RDPKRU, _O.WRPKRU, _O.XSAVES, _O.XRSTORS,
    ),
    Group.FLAGS: (_O.PUSHF, _O.POPF, _O.CLI, _O.STI, _O.CLAC, _O.STAC),
    Group.DESCRIPTORS: (_O.LAR, _O.LSL, _O.VERR, _O.VERW, _O.ARPL),
    Group.SEGMENTS: (
        _O.PUSH_SEGMENT, _O.POP_SEGMENT, _O.MOV_FROM_SEGMENT, _O.MOV_TO_SEGMENT, _O.LOAD_FAR_POINTER, _O.RDFSBASE,
        _O.RDGSBASE, _O.WRFSBASE, _O.WRGSBASE, _O.SWAPGS,
    ),
    Group.TRANSFERS: (
        _O.CALL_FAR, _O.JMP_FAR, _O.RET_FAR, _O.INT_N, _O.INT3, _O.INT1, _O.INTO, _O.BOUND, _O.IRET, _O.RSM,
    ),
    Group.SYSTEM_CALLS: (_O.SYSENTER, _O.SYSEXIT, _O.SYSCALL, _O.SYSRET),
    Group.PORTS: (_O.IN, _O.OUT, _O.INS, _O.OUTS),
    Group.TIME: (_O.RDTSC, _O.RDTSCP, _O.RDPID, _O.RDPMC, _O.CPUID, _O.RDRAND, _O.RDSEED),
    Group.MSRS: (_O.RDMSR, _O.WRMSR),
    Group.CACHES: (_O.INVD, _O.WBINVD, _O.INVLPG, _O.INVPCID, _O.HLT, _O.MONITOR, _O.MWAIT, _O.PAUSE),
    Group.VIRTUALIZATION: (
        _O.VMCALL, _O.VMCLEAR, _O.VMLAUNCH, _O.VMRESUME, _O.VMPTRLD, _O.VMPTRST, _O.VMREAD, _O.VMWRITE, _O.VMXON,
        _O.VMXOFF, _O.VMFUNC, _O.INVEPT, _O.INVVPID, _O.VMRUN, _O.VMMCALL, _O.VMLOAD, _O.VMSAVE, _O.STGI, _O.CLGI,
        _O.SKINIT, _O.INVLPGA, _O.GETSEC,
    ),
}  # fmt: skip
_BY_OPERATION: Final = {operation: group for group, operations in _OPERATIONS.items() for operation in operations}
_NEAR: Final = frozenset(
    {Flow.JUMP, Flow.CONDITIONAL_JUMP, Flow.INDIRECT_JUMP, Flow.CALL, Flow.INDIRECT_CALL, Flow.RETURN}
)
_STRINGS: Final = frozenset(f"{stem}{size}" for stem in ("movs", "cmps", "scas", "lods", "stos") for size in "bwdq")
_STACK: Final = ("push", "pop", "enter", "leave")
_OLD: Final = (
    "INTEL",
    "X64",
    "CMOV",
    "CX8",
    "CMPXCHG16B",
    "MULTIBYTENOP",
    "BMI",
    "LZCNT",
    "POPCNT",
    "ADX",
    "MOVBE",
    "LAHF",
)


def group_of(form: EncodingForm, code: bytes, bits: int) -> Group:
    """The heading of a form, `code` being one of its encodings (or nothing)."""
    features = form.features
    if form.encoding not in (Encoding.LEGACY, Encoding.THREE_D_NOW):
        return Group.AVX
    instruction = decode(code, 0, bits)
    if (group := _BY_OPERATION.get(instruction.operation)) is not None:
        return group
    if any(feature.startswith(("FPU", "CYRIX_FPU")) for feature in features):
        return Group.X87
    if form.encoding is Encoding.THREE_D_NOW or any(f in ("MMX", "CYRIX_EMMI", "D3NOW") for f in features):
        return Group.MMX
    if any(feature.startswith(("SSE", "SSSE", "FXSR", "AES", "PCLMUL", "SHA", "GFNI")) for feature in features):
        return Group.SSE
    if instruction.flow in _NEAR:
        return Group.BRANCHES
    if form.mnemonic in _STRINGS:
        return Group.STRINGS
    if form.mnemonic.startswith(_STACK):
        return Group.STACK
    if any(feature.startswith(_OLD) for feature in features):
        return Group.INTEGER
    return Group.OTHER
