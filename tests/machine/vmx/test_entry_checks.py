"""VM entry: each check has a VMCS that fails it, by name, and fails in the manual's style."""

from __future__ import annotations

import pytest

from simvirt.machine.vmx.entry_checks import ENTRY_CHECKS, first_failure
from simvirt.machine.vmx.entry_rule import CheckKind, EntryCheck
from simvirt.machine.vmx.non_root import HostStop, VmEntryError
from simvirt.x86.vmx import VmcsField
from tests.support.vmx_rig import F, Rig

Writes = dict[VmcsField, int]

SECONDARY = 1 << 31
PRIMARY = 0x0400_6172 | SECONDARY

# A part of each check's name, and writes to a good VMCS that break it and no check before it.
BREAKERS: list[tuple[str, Writes]] = [
    ("Pin-based", {F.PIN_BASED_CONTROLS: 0}),
    ("Primary processor-based", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 22}),  # NMI-window exiting is not offered
    ("Secondary processor-based", {F.SECONDARY_CONTROLS: 1 << 17 | 0x82}),  # nor is page-modification logging
    ("VM-exit controls", {F.EXIT_CONTROLS: 0}),
    ("VM-entry controls", {F.ENTRY_CONTROLS: 0x11FB | 1 << 10}),
    ("CR3-target count", {F.CR3_TARGET_COUNT: 5}),
    ("I/O-bitmap", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 25, F.IO_BITMAP_B_ADDRESS: 0x2001}),
    ("MSR-bitmap", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 28, F.MSR_BITMAPS_ADDRESS: 1 << 40}),
    ("virtual-APIC", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 21, F.VIRTUAL_APIC_ADDRESS: 0x800}),
    ("TPR threshold", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 21, F.TPR_THRESHOLD: 0x10}),
    ("VPIDs", {F.SECONDARY_CONTROLS: 0xA2}),
    ("VM functions", {F.SECONDARY_CONTROLS: 0x2082, F.VM_FUNCTION_CONTROLS: 2}),
    ("EPTP switching", {F.SECONDARY_CONTROLS: 0x2082, F.VM_FUNCTION_CONTROLS: 1, F.EPTP_LIST_ADDRESS: 8}),
    ("preemption timer", {F.EXIT_CONTROLS: 0x3_6DFB | 1 << 22}),
    ("MSR areas", {F.ENTRY_MSR_LOAD_COUNT: 1, F.ENTRY_MSR_LOAD_ADDRESS: 8}),
    ("unrestricted guest needs EPT", {F.SECONDARY_CONTROLS: 0x80}),
    ("EPT pointer", {F.EPT_POINTER: 6}),
    ("interruption information", {F.ENTRY_INTERRUPTION_INFORMATION: 0x8000_0100}),
    ("host CR0 and CR4", {F.HOST_CR4: 0}),
    ("RPL and TI", {F.HOST_DS_SELECTOR: 3}),
    ("CS and TR are not null", {F.HOST_TR_SELECTOR: 0}),
    ("base addresses", {F.HOST_FS_BASE: 1 << 47}),
    ("64-bit mode has", {F.EXIT_CONTROLS: 0x3_6FFB}),
    ("guest CR0 has", {F.PRIMARY_CONTROLS: PRIMARY & ~SECONDARY}),  # not unrestricted: CR0.PG must be 1
    ("paging needs protection", {F.GUEST_CR0: 0x8000_0010}),
    ("guest CR4", {F.GUEST_CR4: 0}),
    ("IA-32e mode needs", {F.ENTRY_CONTROLS: 0x13FB}),
    ("IA32_EFER.LMA", {F.GUEST_IA32_EFER: 0x400}),
    ("CR3 is no wider", {F.GUEST_CR3: 1 << 40}),
    ("DR7", {F.GUEST_DR7: 1 << 32, F.ENTRY_CONTROLS: 0x11FF}),
    ("SYSENTER", {F.GUEST_IA32_SYSENTER_EIP: 1 << 47}),
    ("PAT", {F.GUEST_IA32_PAT: 2, F.ENTRY_CONTROLS: 0x51FB}),
    ("selectors of TR", {F.GUEST_TR_SELECTOR: 0x2C}),
    ("bases have their width", {F.GUEST_SS_BASE: 1 << 32}),
    ("TR is usable", {F.GUEST_TR_ACCESS_RIGHTS: 0x1_0000}),
    ("LDTR is unusable", {F.GUEST_LDTR_ACCESS_RIGHTS: 0x89}),
    ("virtual-8086", {F.GUEST_RFLAGS: 0x2_0002}),
    ("segment types", {F.GUEST_DS_ACCESS_RIGHTS: 0xC099}),
    ("present, code or data", {F.GUEST_CS_ACCESS_RIGHTS: 0xC01B}),
    ("privilege of CS", {F.GUEST_CS_ACCESS_RIGHTS: 0xC0FB}),
    (
        "64-bit or 32-bit",
        {
            F.GUEST_CR0: 0x8000_0011,
            F.GUEST_CR4: 0x2020,
            F.GUEST_IA32_EFER: 0x500,
            F.ENTRY_CONTROLS: 0x13FB,
            F.GUEST_CS_ACCESS_RIGHTS: 0xE09B,
        },
    ),
    ("granularity", {F.GUEST_DS_LIMIT: 0xFFFF_F000}),
    ("bases of GDTR", {F.GUEST_GDTR_BASE: 1 << 47}),
    ("limits of GDTR and IDTR", {F.GUEST_GDTR_LIMIT: 0x1_0000}),
    ("RIP has 32 bits", {F.GUEST_RIP: 1 << 32}),
    ("RFLAGS", {F.GUEST_RFLAGS: 0x8000_0002}),
    ("only with IF", {F.ENTRY_INTERRUPTION_INFORMATION: 0x8000_0020}),
    ("interruptibility", {F.GUEST_INTERRUPTIBILITY_STATE: 0x20}),
    ("activity state", {F.GUEST_ACTIVITY_STATE: 4}),
    ("link pointer", {F.VMCS_LINK_POINTER: 0}),
    ("present PDPTEs", {F.GUEST_CR0: 0x8000_0031, F.GUEST_CR4: 0x2020, F.GUEST_PDPTE2: 3}),
]


def test_every_check_has_a_breaker() -> None:
    named = [next((check for check in ENTRY_CHECKS if part in check.name), None) for part, _ in BREAKERS]
    assert None not in named
    assert {check.name for check in named if check} == {check.name for check in ENTRY_CHECKS}


def _first_failure(rig: Rig) -> EntryCheck | None:
    return first_failure(rig.vmcs, frozenset(CheckKind))


def test_a_good_vmcs_passes() -> None:
    rig = Rig()
    assert _first_failure(rig) is None
    assert rig.run(b"\x90") is HostStop.HALTED


@pytest.mark.parametrize(("part", "writes"), BREAKERS, ids=[part for part, _ in BREAKERS])
def test_each_check_can_fail(part: str, writes: Writes) -> None:
    rig = Rig()
    if part in ("interruptibility", "TR is usable"):  # the engine cannot hold these: docs/deviations.md, "VT-x"
        rig.vmcs.leave()
        rig.vmcs.fields.update({int(field): value for field, value in writes.items()})
        failure = _first_failure(rig)
        assert failure is not None
        assert part in failure.name
        return
    rip = writes.pop(F.GUEST_RIP, None) if F.GUEST_RIP in writes else None
    for field, value in writes.items():
        rig.vmcs.write(field, value)
    if rip is not None:
        rig.vmcs.write(F.GUEST_RIP, rip)
        rig.vmcs.guest_changed = True
    failure = _first_failure(rig)
    assert failure is not None
    assert part in failure.name
    assert failure.section.startswith("SDM Vol. 3C §27.")
    if failure.kind is CheckKind.GUEST_STATE:
        assert rig.non_root.enter(1) == 33
        assert rig.vmcs.read(F.EXIT_REASON) == 0x8000_0021
        assert rig.vmcs.read(F.EXIT_QUALIFICATION) == {"present PDPTEs": 2, "link pointer": 4}.get(part, 0)
    else:
        with pytest.raises(VmEntryError) as caught:
            rig.non_root.enter(1)
        number = 7 if failure.kind is CheckKind.CONTROLS else 8
        assert caught.value.error == number
        assert rig.vmcs.read(F.VM_INSTRUCTION_ERROR) == number
    assert rig.cpu.count == 0


def test_a_failed_entry_can_be_mended() -> None:
    rig = Rig()
    rig.vmcs.write(F.GUEST_CR4, 0)
    assert rig.run(b"\x90") == 33
    rig.vmcs.write(F.GUEST_CR4, 0x2000)
    assert rig.run(b"\x90") is HostStop.HALTED
