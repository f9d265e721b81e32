"""CPUID: the features it tells of, and the processors that the simulated PC can be.

A model claims what its namesake had *and* this PC can do, nothing else: no machine check, no VME, no
MONITOR, no AVX, no RDRAND, and no hypervisor bit. And it can do what it claims, nothing else: an SSE4 instruction is
#UD on the "pentium" (native/features.c), a bit of CR4 or an MSR that goes with a missing feature #GP. CPUID is what a
guest asks, and it is answered the same on every host (SDM Vol. 2A "CPUID—CPU Identification").
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnknownNameError
from simvirt.x86.flags import Cr4

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

HYPERVISOR: Final = 0x4000_0000
"""The first leaf of those in which a hypervisor introduces itself; no processor has them."""
EXTENDED: Final = 0x8000_0000
"""The first leaf of the extended range."""


class Register(Enum):
    """A register of CPUID's answer; its value is the place in the tuple (eax, ebx, ecx, edx)."""

    EAX = 0
    EBX = 1
    ECX = 2
    EDX = 3


class Feature(Enum):
    """A feature flag: leaf, register, bit (SDM Vol. 2A Tables 3-8, 3-10 and 3-11)."""

    FPU = (1, Register.EDX, 0)
    VME = (1, Register.EDX, 1)
    DE = (1, Register.EDX, 2)
    PSE = (1, Register.EDX, 3)
    TSC = (1, Register.EDX, 4)
    MSR = (1, Register.EDX, 5)
    PAE = (1, Register.EDX, 6)
    MCE = (1, Register.EDX, 7)
    CX8 = (1, Register.EDX, 8)
    APIC = (1, Register.EDX, 9)
    SEP = (1, Register.EDX, 11)
    MTRR = (1, Register.EDX, 12)
    PGE = (1, Register.EDX, 13)
    MCA = (1, Register.EDX, 14)
    CMOV = (1, Register.EDX, 15)
    PAT = (1, Register.EDX, 16)
    PSE36 = (1, Register.EDX, 17)
    CLFSH = (1, Register.EDX, 19)
    MMX = (1, Register.EDX, 23)
    FXSR = (1, Register.EDX, 24)
    SSE = (1, Register.EDX, 25)
    SSE2 = (1, Register.EDX, 26)
    SSE3 = (1, Register.ECX, 0)
    PCLMULQDQ = (1, Register.ECX, 1)
    MONITOR = (1, Register.ECX, 3)
    VMX = (1, Register.ECX, 5)
    SSSE3 = (1, Register.ECX, 9)
    CX16 = (1, Register.ECX, 13)
    PCID = (1, Register.ECX, 17)
    SSE4_1 = (1, Register.ECX, 19)
    SSE4_2 = (1, Register.ECX, 20)
    MOVBE = (1, Register.ECX, 22)
    POPCNT = (1, Register.ECX, 23)
    TSC_DEADLINE = (1, Register.ECX, 24)
    AES = (1, Register.ECX, 25)
    XSAVE = (1, Register.ECX, 26)
    AVX = (1, Register.ECX, 28)
    RDRAND = (1, Register.ECX, 30)
    HYPERVISOR = (1, Register.ECX, 31)
    """Zero on every processor; hypervisors set it to say that they are there."""
    FSGSBASE = (7, Register.EBX, 0)
    TSC_ADJUST = (7, Register.EBX, 1)
    BMI1 = (7, Register.EBX, 3)
    SMEP = (7, Register.EBX, 7)
    BMI2 = (7, Register.EBX, 8)
    INVPCID = (7, Register.EBX, 10)
    RDSEED = (7, Register.EBX, 18)
    ADX = (7, Register.EBX, 19)
    SMAP = (7, Register.EBX, 20)
    UMIP = (7, Register.ECX, 2)
    RDPID = (7, Register.ECX, 22)
    ARCH_CAPABILITIES = (7, Register.EDX, 29)
    """IA32_ARCH_CAPABILITIES exists."""
    LAHF64 = (0x8000_0001, Register.ECX, 0)
    LZCNT = (0x8000_0001, Register.ECX, 5)
    PREFETCHW = (0x8000_0001, Register.ECX, 8)
    SYSCALL = (0x8000_0001, Register.EDX, 11)
    """SYSCALL and SYSRET, in 64-bit mode."""
    NX = (0x8000_0001, Register.EDX, 20)
    PDPE1GB = (0x8000_0001, Register.EDX, 26)
    RDTSCP = (0x8000_0001, Register.EDX, 27)
    LM = (0x8000_0001, Register.EDX, 29)
    INVARIANT_TSC = (0x8000_0007, Register.EDX, 8)

    @property
    def leaf(self) -> int:
        """The leaf that tells of it (subleaf 0)."""
        return self.value[0]

    @property
    def register(self) -> Register:
        """The register of the answer."""
        return self.value[1]

    @property
    def bit(self) -> int:
        """The bit of that register."""
        return self.value[2]


Answer = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""


@dataclass(frozen=True, slots=True)
class CpuModel:
    """A processor, as far as CPUID tells."""

    name: str
    """As given to `--cpu`."""
    title: str
    summary: str
    leaves: Mapping[tuple[int, int], Answer] = field(repr=False)
    """Answers by leaf and subleaf; a leaf that is absent and below the highest one is all zero."""

    def cpuid(self, leaf: int, subleaf: int = 0) -> Answer:
        """What CPUID leaves in EAX, EBX, ECX and EDX.

        A leaf above the highest one of its range answers like the highest *basic* leaf (SDM Vol. 2A "CPUID", "Inputs").

        >>> model = find_cpu_model("core2")
        >>> b"".join(model.cpuid(0)[i].to_bytes(4, "little") for i in (1, 3, 2))
        b'GenuineIntel'
        """
        if (leaf, subleaf) in self.leaves:
            return self.leaves[leaf, subleaf]
        if (HYPERVISOR <= leaf < EXTENDED) and (leaf, 0) in self.leaves:
            return self.leaves[leaf, 0]
        if self.highest_basic < leaf < EXTENDED or leaf > self.highest_extended:
            leaf = self.highest_basic
        # Leaves without subleaves ignore ECX.
        if (leaf, subleaf) not in self.leaves and leaf not in _LEAVES_WITH_SUBLEAVES:
            subleaf = 0
        return self.leaves.get((leaf, subleaf), (0, 0, 0, 0))

    @property
    def highest_basic(self) -> int:
        """EAX of leaf 0."""
        return self.leaves[0, 0][0]

    @property
    def highest_extended(self) -> int:
        """EAX of leaf 80000000H, 0 if the model has no extended leaves."""
        return self.leaves.get((EXTENDED, 0), (0, 0, 0, 0))[0]

    def has(self, feature: Feature) -> bool:
        """Does it claim `feature`?

        >>> find_cpu_model("pentium").has(Feature.CMOV), find_cpu_model("x86-64").has(Feature.HYPERVISOR)
        (False, False)
        """
        answer = self.leaves.get((feature.leaf, 0))
        return answer is not None and bool(answer[feature.register.value] >> feature.bit & 1)

    def without(self, *features: Feature) -> CpuModel:
        """The same processor without some features, as one whose surroundings lack what they need.

        >>> find_cpu_model("core2").without(Feature.APIC).has(Feature.APIC)
        False
        """
        leaves = dict(self.leaves)
        for feature in features:
            answer = list(leaves.get((feature.leaf, 0), (0, 0, 0, 0)))
            answer[feature.register.value] &= ~(1 << feature.bit)
            if (feature.leaf, 0) in leaves:
                leaves[feature.leaf, 0] = (answer[0], answer[1], answer[2], answer[3])
        return replace(self, leaves=leaves)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Everything it claims, in the order of `Feature`."""
        return tuple(feature for feature in Feature if self.has(feature))

    @property
    def has_rdtscp(self) -> bool:
        """RDTSCP exists."""
        return self.has(Feature.RDTSCP)

    @property
    def has_sysenter(self) -> bool:
        """SYSENTER and SYSEXIT exist."""
        return self.has(Feature.SEP)

    @property
    def has_syscall(self) -> bool:
        """SYSCALL exists, in 64-bit mode."""
        return self.has(Feature.SYSCALL)

    def native_leaves(self) -> list[tuple[int, int | None, Answer]]:
        """The stored answers as (leaf, subleaf or None where ECX does not matter, EAX to EDX): a table without rules.

        What is not in it, `cpuid` answers.
        """
        return [
            (leaf, subleaf if leaf in _LEAVES_WITH_SUBLEAVES else None, answer)
            for (leaf, subleaf), answer in self.leaves.items()
        ]

    @property
    def has_long_mode(self) -> bool:
        """EFER.LME can be set."""
        return self.has(Feature.LM)

    @property
    def cr4_features(self) -> int:
        """The bits of CR4 that stand for what it claims; any other is reserved (SDM Vol. 3A §2.5)."""
        bits = sum(int(bit) for bit, feature in _CR4_BITS.items() if self.has(feature))
        return bits | int(Cr4.PCE) if self.family > _FAMILY_WITHOUT_RDPMC else bits

    @property
    def family(self) -> int:
        """Family ID of the signature: 5 for the Pentium, 6, or 15 for the Pentium 4."""
        return self.leaves[1, 0][0] >> 8 & 0xF

    @property
    def physical_bits(self) -> int:
        """MAXPHYADDR: leaf 80000008H, or 36 with PAE and 32 without (SDM Vol. 3A §4.1.4)."""
        if (told := self.leaves.get((0x8000_0008, 0))) is not None:
            return told[0] & 0xFF
        return 36 if self.has(Feature.PAE) else 32


_FAMILY_WITHOUT_RDPMC: Final = 5
"""That of the Pentium; CPUID has no flag for RDPMC, which later families have."""
_CR4_BITS: Final = {
    Cr4.TSD: Feature.TSC,
    Cr4.DE: Feature.DE,
    Cr4.PSE: Feature.PSE,
    Cr4.PAE: Feature.PAE,
    Cr4.PGE: Feature.PGE,
    Cr4.OSFXSR: Feature.FXSR,
    Cr4.OSXMMEXCPT: Feature.SSE,
    Cr4.UMIP: Feature.UMIP,
    Cr4.FSGSBASE: Feature.FSGSBASE,
    Cr4.SMEP: Feature.SMEP,
    Cr4.SMAP: Feature.SMAP,
}
CR4_FEATURES: Final = sum(int(bit) for bit in _CR4_BITS) | int(Cr4.PCE)
"""All bits of CR4 that some model has."""
_LEAVES_WITH_SUBLEAVES: Final = frozenset({4, 7, 0xB, 0xD})
TIME_LEAF: Final = 0x15
"""Time-stamp counter and core crystal clock, which feeds the local APIC's timer: both tick each nanosecond."""
NS_PER_SECOND: Final = 1_000_000_000
_VENDOR: Final = b"GenuineIntel"


def _model(
    name: str,
    title: str,
    summary: str,
    *,
    signature: int,
    highest: int,
    features: Iterable[Feature],
    physical_bits: int = 0,
) -> CpuModel:
    """A model from its signature (leaf 1 EAX), highest basic leaf and features; with `physical_bits`, extended ones."""
    words: dict[int, list[int]] = {}
    for feature in features:
        words.setdefault(feature.leaf, [0, 0, 0, 0])[feature.register.value] |= 1 << feature.bit
    b, d, c = (int.from_bytes(_VENDOR[i : i + 4], "little") for i in (0, 4, 8))
    basic = words.setdefault(1, [0, 0, 0, 0])
    basic[Register.EAX.value] = signature
    if Feature.CLFSH in features:
        basic[Register.EBX.value] = 64 // 8 << 8  # cache line that CLFLUSH flushes, in units of 8 bytes
    leaves: dict[tuple[int, int], Answer] = {(0, 0): (highest, b, c, d)}
    if highest >= TIME_LEAF:
        leaves[TIME_LEAF, 0] = (1, 1, NS_PER_SECOND, 0)
    if highest >= 2:
        leaves[2, 0] = (1, 0, 0, 0)  # one call suffices, and no cache is described: none is modelled
    if physical_bits:
        leaves[EXTENDED, 0] = (EXTENDED + 8, 0, 0, 0)
        brand = f"simvirt {title} 1.00GHz".encode().ljust(48, b"\0")
        for number in range(3):
            part = brand[16 * number : 16 * number + 16]
            leaves[EXTENDED + 2 + number, 0] = (
                int.from_bytes(part[:4], "little"),
                int.from_bytes(part[4:8], "little"),
                int.from_bytes(part[8:12], "little"),
                int.from_bytes(part[12:], "little"),
            )
        leaves[EXTENDED + 8, 0] = (physical_bits | 48 << 8, 0, 0, 0)
    for leaf, (eax, ebx, ecx, edx) in words.items():
        leaves[leaf, 0] = (eax, ebx, ecx, edx)
    return CpuModel(name, title, summary, leaves)


_F = Feature
_PENTIUM: Final = frozenset({_F.FPU, _F.DE, _F.PSE, _F.TSC, _F.MSR, _F.CX8, _F.APIC})
_PENTIUM_4: Final = _PENTIUM | {
    _F.PAE, _F.SEP, _F.MTRR, _F.PGE, _F.CMOV, _F.PAT, _F.PSE36, _F.CLFSH, _F.MMX, _F.FXSR, _F.SSE, _F.SSE2, _F.SSE3,
    _F.CX16, _F.SYSCALL, _F.NX, _F.LM,
}  # fmt: skip
_CORE_2: Final = _PENTIUM_4 | {_F.SSSE3, _F.LAHF64}
_X86_64: Final = _CORE_2 | {
    _F.SSE4_1, _F.SSE4_2, _F.POPCNT, _F.AES, _F.PCLMULQDQ, _F.MOVBE, _F.LZCNT, _F.PREFETCHW, _F.RDTSCP, _F.PDPE1GB,
    _F.BMI1, _F.BMI2, _F.ADX, _F.FSGSBASE, _F.SMEP, _F.SMAP, _F.UMIP, _F.TSC_DEADLINE, _F.INVARIANT_TSC,
    _F.ARCH_CAPABILITIES, _F.TSC_ADJUST,
}  # fmt: skip

CPU_MODELS: Final[dict[str, CpuModel]] = {
    model.name: model
    for model in (
        _model(
            "pentium", "Pentium", "32-bit, as Robin and Irvine studied it: no PAE, no SYSENTER, no UMIP",
            signature=0x52C, highest=1, features=_PENTIUM,
        ),
        _model(
            "pentium4", "Pentium 4 672", "the first processor with VT-x, which Adams and Agesen measured: SSE3, 64-bit",
            signature=0xF43, highest=2, features=_PENTIUM_4, physical_bits=36,
        ),
        _model(
            "core2", "Core 2 Duo", "32-bit and 64-bit code with SSE up to SSSE3; the default",
            signature=0x6F6, highest=10, features=_CORE_2, physical_bits=36,
        ),
        _model(
            "x86-64", "x86-64", "everything that this PC can do: SSE4.2, AES, BMI, SMEP, SMAP, UMIP, RDTSCP",
            signature=0x306D4, highest=TIME_LEAF, features=_X86_64, physical_bits=39,
        ),
    )
}  # fmt: skip
"""The models by name, oldest first."""

DEFAULT_CPU_MODEL: Final = "core2"


def find_cpu_model(name: str) -> CpuModel:
    """The model called `name`.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    try:
        return CPU_MODELS[name]
    except KeyError:
        raise UnknownNameError("CPU model", name, CPU_MODELS) from None
