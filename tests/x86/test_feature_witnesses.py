"""What CPU models claim beyond instructions: each feature names a test or conformance check that fails without it.

Instructions have the decoder library's table for a judge (test_model_instructions.py); what is left is here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simvirt.machine.fills import Access, Refusal
from simvirt.x86.cpuid import CPU_MODELS, Feature, find_cpu_model
from tests.conformance.expected import DEVIATIONS
from tests.conformance.suite import SUITE
from tests.support.pc import Pc, flat_pc
from tests.x86.test_model_instructions import KNOWN

CHECKS = {
    Feature.FPU: "x87_inexact_flag",
    Feature.DE: "ud_dr4_de",
    Feature.PSE: "pse_read",
    Feature.PAE: "pae_2m_read",
    Feature.SEP: "sysenter",
    Feature.SMEP: "smep_fetch",
    Feature.UMIP: "umip_sgdt",
    Feature.SYSCALL: "syscall",
    Feature.NX: "nx_user_fetch",
    Feature.PDPE1GB: "long_1g",
    Feature.LM: "zero_extension",
    Feature.APIC: "nmi",
}
"""Checks of docs/conformance.md, which pass."""
TESTS = {
    Feature.MSR: "machine/test_msrs.py::test_what_is_written_is_read",
    Feature.MTRR: "machine/test_msrs.py::test_what_is_written_is_read",
    Feature.PAT: "machine/test_msrs.py::test_values_that_are_refused",
    Feature.TSC: "machine/test_msrs.py::test_a_guest_moves_its_time_stamp_counter",
    Feature.TSC_ADJUST: "machine/test_msrs.py::test_a_guest_moves_its_time_stamp_counter",
    Feature.TSC_DEADLINE: "machine/devices/test_local_apic.py::test_the_tsc_deadline_fires_once_and_stops_the_count",
    Feature.ARCH_CAPABILITIES: "machine/test_msrs.py::test_what_the_processor_does_not_suffer_from",
    Feature.PGE: "x86/test_feature_witnesses.py::test_global_pages_are_no_reserved_bit_and_cr4_has_pge",
    Feature.PSE36: "x86/test_feature_witnesses.py::test_large_pages_above_4_gibytes",
    Feature.INVARIANT_TSC: "machine/test_clock.py::test_an_instruction_is_a_nanosecond",
    Feature.LAHF64: "x86/test_cpuid.py::test_the_engine_can_do_what_a_model_claims",
    Feature.LZCNT: "x86/test_model_instructions.py::test_counting_zeros_is_scanning_for_a_bit_where_it_does_not_exist",
    Feature.PREFETCHW: "x86/test_cpuid.py::test_the_engine_can_do_what_a_model_claims",
}
TESTS_ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("model", CPU_MODELS.values(), ids=lambda model: model.name)
def test_every_feature_that_a_model_claims_has_a_witness(model: object) -> None:
    claimed = set(find_cpu_model(model.name).features)  # type: ignore[attr-defined]
    assert claimed <= set(CHECKS) | set(TESTS) | set(KNOWN.values())


def test_the_checks_exist_and_pass() -> None:
    names = {check.identifier for guest in SUITE for check in guest.checks}
    assert set(CHECKS.values()) <= names - set(DEVIATIONS)


@pytest.mark.parametrize("name", sorted(set(TESTS.values())))
def test_the_tests_exist(name: str) -> None:
    path, _, function = name.partition("::")
    assert re.search(rf"^def {function}\(", (TESTS_ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name


def paged(model: str, entry: int, cr4: int) -> Pc:
    """32-bit paging with `entry` for the second 4 MiB."""
    pc = flat_pc(cpu_model=model)
    pc.engine.follow_model(pc.bus.cpu_model)
    pc.write32(0x10_0000, 0x83)
    pc.write32(0x10_0004, entry)
    pc.set_paging(0x10_0000, cr4=cr4)
    return pc


def test_large_pages_above_4_gibytes() -> None:
    """PSE-36: bits 16:13 of a directory entry are bits 35:32 of the address (SDM Vol. 3A §4.3)."""
    pc = paged("core2", 0x0040_0083 | 1 << 13, 0x10)
    assert pc.engine.translate(0x40_0123, Access.READ, user=False) is None
    assert pc.engine.verdict.refusal is Refusal.HOLE
    assert pc.engine.verdict.gpa == 0x1_0040_0123
    pc = paged("pentium", 0x0040_0083 | 1 << 13, 0x10)
    assert pc.engine.translate(0x40_0123, Access.READ, user=False) is None
    assert pc.engine.verdict.refusal is Refusal.PAGE_FAULT
    assert pc.engine.verdict.error_code & 8  # RSVD


def test_global_pages_are_no_reserved_bit_and_cr4_has_pge() -> None:
    pc = paged("core2", 0x0040_0183, 0x90)
    assert pc.engine.translate(0x40_0123, Access.READ, user=False) == 0x40_0123
    assert find_cpu_model("core2").cr4_features & 0x80
    assert not find_cpu_model("pentium").cr4_features & 0x80
