"""The variants of the x86 that are analyzed: which encodings they have, which configuration, and what a VMM sets.

============== ====================================================================================
x86-32         the encodings of a Pentium, the processor of Robin and Irvine's paper (2000)
x86-32-modern  all that there are in 32-bit code
x86-32+umip    the same, and the VMM keeps CR4.UMIP set
x86-64         all that there are in 64-bit code
x86-64+umip    the same, and the VMM keeps CR4.UMIP set
============== ====================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.state import Architecture, Part
from simvirt.analyzer.x86 import layout
from simvirt.analyzer.x86.components import (
    ADDRESS_MAP,
    COPROCESSOR_INSTRUCTION_POINTER,
    IO_BITMAP,
    MODE,
    PORT,
    PROCESSOR,
    TIME_STAMP,
    Accessor,
    accessors,
)
from simvirt.errors import UnknownNameError
from simvirt.x86.flags import Cr0, Cr4, Efer
from simvirt.x86.forms import Encoding, EncodingForm, encoding_forms
from simvirt.x86.instruction import Bits

if TYPE_CHECKING:
    from simvirt.analyzer.model.state import Value

PENTIUM_FEATURES: Final = frozenset(
    {
        "INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "FPU", "FPU287", "FPU387", "CPUID", "TSC", "MSR",
        "CX8", "SMM",
    }
)  # fmt: skip
"""What brought the encodings that a Pentium has: the processors before it, and the features that it introduced."""

_NOT_ON_A_PENTIUM: Final = frozenset(
    {
        "CR4.PCE", "CR4.OSFXSR", "CR4.OSXMMEXCPT", "CR4.UMIP", "CR4.FSGSBASE", "IA32_EFER", "IA32_SYSENTER_CS",
        "IA32_SYSENTER_ESP", "IA32_SYSENTER_EIP", "IA32_STAR", "IA32_LSTAR", "IA32_CSTAR", "IA32_FMASK",
        "IA32_KERNEL_GS_BASE", "IA32_TSC_AUX", "IA32_PAT",
    }
)  # fmt: skip
"""Configuration that came later: pairs that differ in it say nothing about a Pentium."""


@dataclass(frozen=True)
class Variant:
    """One of the instruction sets."""

    name: str
    bits: Bits
    pentium: bool = False
    umip: bool = False

    @property
    def cpu_model(self) -> str:
        """The processor that CPUID tells of."""
        return "pentium" if self.pentium else "x86-64"

    @cached_property
    def forms(self) -> tuple[EncodingForm, ...]:
        """The encoding forms, in the library's order."""
        return tuple(form for form in encoding_forms() if form.exists_in(self.bits) and self._has(form))

    def _has(self, form: EncodingForm) -> bool:
        if not self.pentium:
            return True
        return form.encoding is Encoding.LEGACY and PENTIUM_FEATURES.issuperset(form.features)

    @cached_property
    def accessors(self) -> tuple[Accessor, ...]:
        """The components of a state."""
        return accessors(self.bits)

    @cached_property
    def configuration(self) -> dict[str, Value]:
        """The configuration from which the experiments start: nothing that could be forbidden is."""
        long = self.bits == Bits.CODE_64
        values: dict[str, Value] = {
            "EFLAGS.IOPL": 3,
            "CR0": int(Cr0.PE | Cr0.ET | Cr0.PG),
            "CR0.NE": 1,
            "CR4": int(Cr4.PAE) if long else 0,
            "CR4.PCE": 0 if self.pentium else 1,
            "CR4.OSFXSR": 0 if self.pentium else 1,
            "CR4.OSXMMEXCPT": 0 if self.pentium else 1,
            "CR4.FSGSBASE": int(long),
            ADDRESS_MAP: layout.TABLES,
            "GDTR.base": layout.GDT,
            "GDTR.limit": layout.GDT_LIMIT,
            "IDTR.base": layout.IDT,
            "IDTR.limit": 0xFFF if long else 0x7FF,
            "LDTR": layout.OWN_LDT,
            "TR": layout.OWN_TSS,
            "DR6": 0xFFFF0FF0,
            "DR7": 0x400,
            "IA32_EFER": int(Efer.SCE | Efer.LME | Efer.LMA | Efer.NXE)
            if long
            else int(Efer.SCE)
            if not self.pentium
            else 0,
            "IA32_PAT": 0x0007_0406_0007_0406,
            TIME_STAMP: 0x1234_5678,
            PROCESSOR: self.cpu_model,
            IO_BITMAP: "allows",
            COPROCESSOR_INSTRUCTION_POINTER: layout.COPROCESSOR_CODE + 2,
            PORT: 0x5A,
        }
        if not self.pentium:
            values |= {
                "IA32_SYSENTER_CS": layout.CS0,
                "IA32_SYSENTER_ESP": layout.INNER_STACK,
                "IA32_SYSENTER_EIP": layout.SYSTEM_TARGET,
                "IA32_STAR": layout.CS0 << 32 | (layout.CS0 | 3) << 48 | layout.SYSTEM_TARGET,
                "IA32_LSTAR": layout.SYSTEM_TARGET,
                "IA32_CSTAR": layout.SYSTEM_TARGET,
            }
        return values

    @cached_property
    def alternatives(self) -> tuple[tuple[str, Value], ...]:
        """Other values of single components: each makes a pair with the configuration."""
        pentium = self.pentium
        values: dict[str, Value] = {
            "EFLAGS.IF": 1, "EFLAGS.IOPL": 0, IO_BITMAP: "denies",
            "CR0.MP": 1, "CR0.EM": 1, "CR0.TS": 1, "CR0.NE": 0, "CR0.WP": 1, "CR0.AM": 1,
            "CR2": 0x5000, "CR4.TSD": 1, "CR4.DE": 1, "CR4.PCE": 0, "CR4.OSFXSR": 0, "CR4.OSXMMEXCPT": 0,
            "CR4.UMIP": 1, "CR4.FSGSBASE": int(self.bits != Bits.CODE_64),
            ADDRESS_MAP: layout.TABLES_B,
            "GDTR.base": layout.GDT_B, "GDTR.limit": layout.GDT_LIMIT_B, "IDTR.base": layout.IDT_B,
            "IDTR.limit": 0x43F if self.bits == Bits.CODE_64 else 0x21F,
            "LDTR": layout.OTHER_LDT, "TR": layout.OTHER_TSS, "DR0": 0x5000, "DR6": 0xFFFF0FF1,
            "IA32_SYSENTER_CS": 0, "IA32_SYSENTER_ESP": layout.INNER_STACK_B,
            "IA32_SYSENTER_EIP": layout.SYSTEM_TARGET + 8, "IA32_LSTAR": layout.SYSTEM_TARGET + 8,
            "IA32_STAR": layout.CS0 << 32 | (layout.CS0 | 3) << 48 | layout.SYSTEM_TARGET + 8,
            "IA32_CSTAR": layout.SYSTEM_TARGET + 8, "IA32_FMASK": 0x600, "IA32_KERNEL_GS_BASE": 0x5000,
            "IA32_TSC_AUX": 1, "IA32_PAT": 0x0007_0406_0007_0401, TIME_STAMP: 0x9ABC_DEF0,
            PROCESSOR: "core2" if pentium else "pentium4", PORT: 0xA5,
        }  # fmt: skip
        efer = self.configuration["IA32_EFER"]
        assert isinstance(efer, int)
        values["IA32_EFER"] = efer ^ int(Efer.SCE)
        return tuple((name, value) for name, value in values.items() if not (pentium and name in _NOT_ON_A_PENTIUM))

    @cached_property
    def vmm_configuration(self) -> dict[str, Value]:
        """C0: what a VMM sets while a de-privileged guest runs, so that all traps that there can be there are."""
        values: dict[str, Value] = {"EFLAGS.IOPL": 0, IO_BITMAP: "denies", "CR4.TSD": 1}
        if not self.pentium:
            values["CR4.PCE"] = 0
        if self.umip:
            values["CR4.UMIP"] = 1
        return values

    @cached_property
    def architecture(self) -> Architecture:
        """The x86 in terms of the model."""
        return Architecture(
            self.name,
            tuple(row.component for row in self.accessors),
            MODE,
            (0,),
            3,
            self.vmm_configuration,
            (
                "There is no relocation-bounds register: segments and paging take its place (the address map A).",
                "There is input and output, and there are interrupts, which Popek and Goldberg leave out.",
                "There are four privilege levels: 0 plays s, 3 plays u, and ring 1 is tried as unprivileged too.",
                "Time is left out: an instruction's duration is no result, the time-stamp counter is configuration.",
            ),
        )

    def part(self, name: str) -> Part:
        """The part of the model that a component belongs to."""
        return self.architecture.part(name)


VARIANTS: Final = (
    Variant("x86-32", Bits.CODE_32, pentium=True),
    Variant("x86-32-modern", Bits.CODE_32),
    Variant("x86-32+umip", Bits.CODE_32, umip=True),
    Variant("x86-64", Bits.CODE_64),
    Variant("x86-64+umip", Bits.CODE_64, umip=True),
)


def find_variant(name: str) -> Variant:
    """The variant of this name.

    Raises:
        UnknownNameError: there is none.
    """
    for variant in VARIANTS:
        if variant.name == name:
            return variant
    raise UnknownNameError("instruction set", name, [variant.name for variant in VARIANTS])
