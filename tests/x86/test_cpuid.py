from __future__ import annotations

import importlib
from typing import Any

import pytest

from simvirt.errors import UnknownNameError
from simvirt.x86.cpuid import CPU_MODELS, DEFAULT_CPU_MODEL, CpuModel, Feature, find_cpu_model

# Leaf 1 and 80000001H bit numbers from SDM Vol. 2A Tables 3-10 and 3-11, typed as they stand there.
EDX_1 = "FPU VME DE PSE TSC MSR PAE MCE CX8 APIC - SEP MTRR PGE MCA CMOV PAT PSE36 - CLFSH - - - MMX FXSR SSE SSE2"
ECX_1 = {"SSE3": 0, "PCLMULQDQ": 1, "MONITOR": 3, "VMX": 5, "SSSE3": 9, "CX16": 13, "PCID": 17, "SSE4_1": 19,
"SSE4_2": 20,
         "MOVBE": 22, "POPCNT": 23, "AES": 25, "XSAVE": 26, "AVX": 28, "RDRAND": 30, "HYPERVISOR": 31}  # fmt: skip

# One instruction of each feature, run below on the engine.
WITNESSES = {
    Feature.MMX: "0ffcc1", Feature.SSE: "0f58c1", Feature.SSE2: "660fd4c1", Feature.SSE3: "f20f7cc1",
    Feature.SSSE3: "660f3800c1", Feature.SSE4_1: "660f383bc1", Feature.SSE4_2: "660f3837c1", Feature.POPCNT: "f30fb8c1",
    Feature.AES: "660f38dcc1", Feature.PCLMULQDQ: "660f3a44c100", Feature.MOVBE: "0f38f007", Feature.CMOV: "0f44c1",
    Feature.CX8: "0fc70f", Feature.CX16: "480fc70f", Feature.FXSR: "0fae07", Feature.CLFSH: "0fae3f",
    Feature.TSC: "0f31", Feature.RDTSCP: "0f01f9", Feature.LAHF64: "9f", Feature.LZCNT: "f30fbdc1",
    Feature.PREFETCHW: "0f0d0f", Feature.BMI1: "c4e278f2c1", Feature.BMI2: "c4e27bf5c1", Feature.ADX: "660f38f6c1",
    Feature.FSGSBASE: "f3480faec0", Feature.SMAP: "0f01ca",
}  # fmt: skip


def test_feature_bits_are_the_manuals() -> None:
    for bit, name in enumerate(EDX_1.split()):
        if name != "-":
            assert (Feature[name].leaf, Feature[name].register.name, Feature[name].bit) == (1, "EDX", bit)
    for name, bit in ECX_1.items():
        assert (Feature[name].leaf, Feature[name].register.name, Feature[name].bit) == (1, "ECX", bit)
    assert Feature.LM.value[2] == 29
    assert len({feature.value for feature in Feature}) == len(Feature)


@pytest.mark.parametrize("feature", WITNESSES, ids=lambda feature: str(feature.name))
def test_the_engine_can_do_what_a_model_claims(feature: Feature) -> None:
    unicorn: Any = importlib.import_module("unicorn")
    x86: Any = importlib.import_module("unicorn.x86_const")
    engine = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    engine.ctl_set_cpu_model(x86.UC_CPU_X86_BROADWELL)
    engine.mem_map(0x1000, 0x3000)
    engine.mem_write(0x1000, bytes.fromhex(WITNESSES[feature]) + b"\x90")
    engine.reg_write(x86.UC_X86_REG_RDI, 0x2000)
    engine.reg_write(x86.UC_X86_REG_RAX, 0x2000)
    engine.reg_write(x86.UC_X86_REG_CR4, 0x1_0620)
    engine.emu_start(0x1000, 0, count=1)  # raises UC_ERR_INSN_INVALID if it is #UD


@pytest.mark.parametrize("model", CPU_MODELS.values(), ids=lambda model: model.name)
def test_the_flags_are_the_features(model: CpuModel) -> None:
    """And each feature has a witness (test_feature_witnesses.py)."""
    assert set(model.features) >= {Feature.FPU, Feature.TSC, Feature.MSR, Feature.CX8}
    known_bits = sum(
        1 << feature.bit for feature in model.features if (feature.leaf, feature.register.name) == (1, "EDX")
    )
    assert model.cpuid(1)[3] == known_bits


@pytest.mark.parametrize("model", CPU_MODELS.values(), ids=lambda model: model.name)
def test_every_model_is_an_intel_without_a_hypervisor(model: CpuModel) -> None:
    _, b, c, d = model.cpuid(0)
    assert b"".join(word.to_bytes(4, "little") for word in (b, d, c)) == b"GenuineIntel"
    assert not model.cpuid(1)[2] >> 31
    # Nothing at 40000000H, where hypervisors introduce themselves: the answer is that of the highest basic leaf.
    assert model.cpuid(0x4000_0000) == model.cpuid(model.highest_basic)
    assert model.physical_bits in range(32, 53)


def test_families() -> None:
    families = {name: model.cpuid(1)[0] >> 8 & 0xF for name, model in CPU_MODELS.items()}
    assert families == {"pentium": 5, "pentium4": 15, "core2": 6, "x86-64": 6}


def test_leaves_and_subleaves() -> None:
    model = find_cpu_model("x86-64")
    assert model.cpuid(7, 0)[1] >> 20 & 1  # SMAP
    assert model.cpuid(7, 1) == (0, 0, 0, 0)
    assert model.cpuid(1, 77) == model.cpuid(1)  # ECX does not matter
    assert model.cpuid(3) == (0, 0, 0, 0)
    assert model.cpuid(0x8000_0009) == model.cpuid(model.highest_basic)
    brand = b"".join(word.to_bytes(4, "little") for leaf in (2, 3, 4) for word in model.cpuid(0x8000_0000 + leaf))
    assert brand.rstrip(b"\0").decode() == "simvirt x86-64 1.00GHz"
    assert find_cpu_model("pentium").cpuid(0x8000_0000) == find_cpu_model("pentium").cpuid(1)
    assert not find_cpu_model("pentium").has_long_mode


def test_names() -> None:
    assert DEFAULT_CPU_MODEL in CPU_MODELS
    with pytest.raises(UnknownNameError, match="did you mean 'pentium4'"):
        find_cpu_model("pentium-4")
