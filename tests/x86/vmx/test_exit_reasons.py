from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.x86.vmx import EXIT_REASONS, ExitReason, ExitReasonField

# Beginnings of the names in SDM Vol. 3D Table C-1, by number; a dash is a number that is not assigned.
TABLE_C_1 = """
Exception|External interrupt|Triple fault|INIT|Start-up IPI|I/O system-management|Other SMI|Interrupt window|NMI window
Task switch|CPUID|GETSEC|HLT|INVD|INVLPG|RDPMC|RDTSC|RSM|VMCALL|VMCLEAR
VMLAUNCH|VMPTRLD|VMPTRST|VMREAD|VMRESUME|VMWRITE|VMXOFF|VMXON|Control-register|MOV DR
I/O instruction|RDMSR|WRMSR|VM-entry failure due to invalid guest|VM-entry failure due to MSR|-|MWAIT
Monitor trap flag
-|MONITOR|PAUSE|VM-entry failure due to machine|-|TPR below|APIC access|Virtualized EOI|Access to GDTR|Access to LDTR
EPT violation|EPT misconf|INVEPT|RDTSCP|VMX-preemption|INVVPID|WBINVD|XSETBV|APIC write|RDRAND|INVPCID|VMFUNC
ENCLS|RDSEED|Page-modification|XSAVES|XRSTORS|PCONFIG|SPP-related|UMWAIT|TPAUSE|LOADIWKEY
ENCLV|-|ENQCMD PASID|ENQCMDS PASID|Bus lock|Instruction timeout
"""
NAMES = [name for line in TABLE_C_1.split("\n") if line for name in line.split("|")]


def test_numbers_and_names_are_table_c_1() -> None:
    assert [int(reason) for reason in ExitReason] == [number for number, name in enumerate(NAMES) if name != "-"]
    for reason in ExitReason:
        assert reason.title.startswith(NAMES[reason])


def test_every_reason_has_its_row() -> None:
    assert set(EXIT_REASONS) == set(ExitReason)
    for reason, row in EXIT_REASONS.items():
        assert row.reason is reason
        assert row.cause
        assert re.fullmatch(r"SDM Vol\. 3C §\d+(\.\d+)+", row.section)


@pytest.mark.skipif(not Path("/usr/include/x86_64-linux-gnu/asm/vmx.h").exists(), reason="no Linux headers here")
def test_linux_uses_the_same_numbers() -> None:
    text = Path("/usr/include/x86_64-linux-gnu/asm/vmx.h").read_text()
    linux = {name: int(number) for name, number in re.findall(r"#define EXIT_REASON_(\w+)\s+(\d+)", text)}
    assert len(linux) > 40
    ours = {int(reason) for reason in ExitReason}
    assert set(linux.values()) <= ours
    for name in set(linux) & set(ExitReason.__members__):
        assert linux[name] == ExitReason[name]


@given(st.sampled_from(ExitReason), st.tuples(*[st.booleans()] * 5))
def test_the_field_comes_back(reason: ExitReason, flags: tuple[bool, bool, bool, bool, bool]) -> None:
    field = ExitReasonField(reason, *flags)
    assert ExitReasonField.decode(field.encode()) == field


def test_unassigned_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="35"):
        ExitReasonField.decode(35)
