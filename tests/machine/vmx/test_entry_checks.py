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

EXIT = 0x3_6DFB
ENTRY = 0x11FB
LONG_HOST = 1 << 9
UNRESTRICTED, EPT = 0x80, 2
PAGED: Writes = {F.SECONDARY_CONTROLS: EPT, F.GUEST_CR0: 0x8000_0011}
"""A guest that is not unrestricted, with paging on."""
LONG: Writes = {
    F.GUEST_CR0: 0x8000_0011,
    F.GUEST_CR4: 0x2020,
    F.GUEST_IA32_EFER: 0x500,
    F.ENTRY_CONTROLS: ENTRY | 1 << 9,
    F.GUEST_CS_ACCESS_RIGHTS: 0xA09B,
}
"""A guest in 64-bit mode."""
V86: Writes = {F.GUEST_RFLAGS: 0x2_0002} | {
    field: value
    for name in ("ES", "CS", "SS", "DS", "FS", "GS")
    for field, value in (
        (F[f"GUEST_{name}_SELECTOR"], 0x100),
        (F[f"GUEST_{name}_BASE"], 0x1000),
        (F[f"GUEST_{name}_LIMIT"], 0xFFFF),
        (F[f"GUEST_{name}_ACCESS_RIGHTS"], 0xF3),
    )
}
"""A guest in virtual-8086 mode."""
INJECT = F.ENTRY_INTERRUPTION_INFORMATION
VALID = 1 << 31

# A part of each check's name, and writes to a good VMCS that break it and no check before it.
BREAKERS: list[tuple[str, Writes]] = [
    ("Pin-based", {F.PIN_BASED_CONTROLS: 0}),
    ("Primary processor-based", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 17}),  # tertiary controls are not offered
    ("Secondary processor-based", {F.SECONDARY_CONTROLS: 1 << 14 | 0x82}),  # nor is VMCS shadowing
    ("VM-exit controls", {F.EXIT_CONTROLS: 0}),
    ("VM-entry controls", {F.ENTRY_CONTROLS: ENTRY | 1 << 10}),
    ("CR3-target count", {F.CR3_TARGET_COUNT: 5}),
    ("I/O-bitmap", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 25, F.IO_BITMAP_A_ADDRESS: 0x2001}),
    ("I/O-bitmap", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 25, F.IO_BITMAP_B_ADDRESS: 1 << 40}),
    ("MSR-bitmap", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 28, F.MSR_BITMAPS_ADDRESS: 1 << 40}),
    ("virtual-APIC", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 21, F.VIRTUAL_APIC_ADDRESS: 0x800}),
    ("31:4 of the TPR threshold", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 21, F.TPR_THRESHOLD: 0x10}),
    (
        "not greater than the virtual task priority",
        {F.PRIMARY_CONTROLS: PRIMARY | 1 << 21, F.VIRTUAL_APIC_ADDRESS: 0x8000, F.TPR_THRESHOLD: 1},
    ),
    ("virtual NMIs need", {F.PIN_BASED_CONTROLS: 0x16 | 1 << 5}),
    ("NMI-window", {F.PRIMARY_CONTROLS: PRIMARY | 1 << 22}),
    ("VPIDs", {F.SECONDARY_CONTROLS: 0xA2}),
    ("VM functions", {F.SECONDARY_CONTROLS: 0x2082, F.VM_FUNCTION_CONTROLS: 2}),
    ("EPTP switching", {F.SECONDARY_CONTROLS: 0x2082, F.VM_FUNCTION_CONTROLS: 1, F.EPTP_LIST_ADDRESS: 8}),
    ("EPTP switching", {F.SECONDARY_CONTROLS: 0x2000, F.VM_FUNCTION_CONTROLS: 1, F.EPTP_LIST_ADDRESS: 0}),
    ("preemption timer", {F.EXIT_CONTROLS: EXIT | 1 << 22}),
    ("MSR areas", {F.ENTRY_MSR_LOAD_COUNT: 1, F.ENTRY_MSR_LOAD_ADDRESS: 8}),
    ("MSR areas", {F.EXIT_MSR_STORE_COUNT: 1, F.EXIT_MSR_STORE_ADDRESS: 1 << 40}),
    ("MSR areas", {F.EXIT_MSR_LOAD_COUNT: 2, F.EXIT_MSR_LOAD_ADDRESS: (1 << 40) - 16}),
    ("unrestricted guest needs EPT", {F.SECONDARY_CONTROLS: UNRESTRICTED}),
    ("page-modification", {F.SECONDARY_CONTROLS: 1 << 17}),
    ("page-modification", {F.SECONDARY_CONTROLS: 1 << 17 | 0x82, F.PML_ADDRESS: 0x800}),
    (
        "virtualization-exception",
        {F.SECONDARY_CONTROLS: 1 << 18 | 0x82, F.VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS: 0x10},
    ),
    ("EPT pointer", {F.EPT_POINTER: 6}),
    ("EPT pointer", {F.EPT_POINTER: 0x1F}),
    ("EPT pointer", {F.EPT_POINTER: 0x9E}),
    ("EPT pointer", {F.EPT_POINTER: 1 << 40 | 0x1E}),
    ("interruption information", {INJECT: VALID | 1 << 8}),  # a reserved type
    ("interruption information", {INJECT: VALID | 2 << 8 | 3}),  # an NMI with vector 3
    ("interruption information", {INJECT: VALID | 3 << 8 | 32}),  # an exception with vector 32
    ("interruption information", {INJECT: VALID | 7 << 8 | 1}),  # a pending MTF exit with vector 1
    ("interruption information", {INJECT: VALID | 3 << 8 | 13}),  # #GP without error code
    ("interruption information", {INJECT: VALID | 3 << 8 | 6 | 1 << 11}),  # #UD with one
    ("interruption information", {INJECT: VALID | 0x20 | 1 << 11, F.GUEST_RFLAGS: 0x202}),  # an interrupt with one
    ("interruption information", {INJECT: VALID | 3 << 8 | 6 | 1 << 12}),  # a reserved bit
    ("interruption information", {INJECT: VALID | 3 << 8 | 13 | 1 << 11, F.ENTRY_EXCEPTION_ERROR_CODE: 1 << 16}),
    ("interruption information", {INJECT: VALID | 4 << 8 | 0x80}),  # INT n of no length
    ("interruption information", {INJECT: VALID | 6 << 8 | 3, F.ENTRY_INSTRUCTION_LENGTH: 16}),
    ("host CR0 has", {F.HOST_CR0: 0x11}),
    ("63:32 of host CR0", {F.HOST_CR0: 1 << 32 | 0x8000_0011}),
    ("host CR4 has the bits", {F.HOST_CR4: 0x20}),
    ("host CR4 has no bit", {F.HOST_CR4: 1 << 30 | 0x2020}),
    ("host CR3", {F.HOST_CR3: 1 << 40}),
    ("host's SYSENTER", {F.HOST_IA32_SYSENTER_ESP: 1 << 47}),
    ("host's SYSENTER", {F.HOST_IA32_SYSENTER_EIP: 1 << 63}),
    ("host's IA32_PAT", {F.EXIT_CONTROLS: EXIT | LONG_HOST | 1 << 19, F.HOST_IA32_PAT: 2 << 16}),
    ("host's IA32_EFER", {F.EXIT_CONTROLS: EXIT | LONG_HOST | 1 << 21, F.HOST_IA32_EFER: 0x502}),
    ("host's IA32_EFER", {F.EXIT_CONTROLS: EXIT | LONG_HOST | 1 << 21, F.HOST_IA32_EFER: 0x400}),
    ("host's IA32_EFER", {F.EXIT_CONTROLS: EXIT | 1 << 21, F.HOST_IA32_EFER: 0x500}),
    ("RPL and TI", {F.HOST_DS_SELECTOR: 3}),
    ("RPL and TI", {F.HOST_FS_SELECTOR: 4}),
    ("CS and TR are not null", {F.HOST_TR_SELECTOR: 0}),
    ("CS and TR are not null", {F.HOST_CS_SELECTOR: 0}),
    ("SS of a 32-bit host", {F.EXIT_CONTROLS: EXIT, F.HOST_SS_SELECTOR: 0}),
    ("host's base addresses", {F.HOST_FS_BASE: 1 << 47}),
    ("host's base addresses", {F.HOST_IDTR_BASE: 1 << 62}),
    ("32-bit host has no guest", LONG | {F.EXIT_CONTROLS: EXIT}),
    ("CR4.PCIDE clear", {F.EXIT_CONTROLS: EXIT, F.HOST_RIP: 1 << 32}),
    ("64-bit mode has", {F.HOST_CR4: 0x2000}),
    ("64-bit mode has", {F.HOST_RIP: 1 << 47}),
    ("guest CR0 has", {F.PRIMARY_CONTROLS: PRIMARY & ~SECONDARY}),  # not unrestricted: CR0.PG must be 1
    ("63:32 of guest CR0", {F.GUEST_CR0: 1 << 32 | 0x11}),
    ("paging needs protection", {F.GUEST_CR0: 0x8000_0010}),
    ("guest CR4 has the bits", {F.GUEST_CR4: 0}),
    ("guest CR4 has no bit", {F.GUEST_CR4: 1 << 30 | 0x2000}),
    ("guest CR4 has no bit", {F.GUEST_CR4: 1 << 14 | 0x2000}),  # SMXE, which no model has
    ("DEBUGCTL", {F.ENTRY_CONTROLS: ENTRY | 4, F.GUEST_IA32_DEBUGCTL: 1}),
    ("IA-32e mode needs", {F.ENTRY_CONTROLS: ENTRY | 1 << 9}),
    ("IA-32e mode needs", LONG | {F.GUEST_CR4: 0x2000}),
    ("guest CR3", {F.GUEST_CR3: 1 << 40}),
    ("DR7", {F.GUEST_DR7: 1 << 32, F.ENTRY_CONTROLS: ENTRY | 4}),
    ("guest's SYSENTER", {F.GUEST_IA32_SYSENTER_EIP: 1 << 47}),
    ("guest's SYSENTER", {F.GUEST_IA32_SYSENTER_ESP: 1 << 47}),
    ("guest's IA32_PAT", {F.GUEST_IA32_PAT: 2, F.ENTRY_CONTROLS: ENTRY | 1 << 14}),
    ("guest's IA32_EFER", {F.GUEST_IA32_EFER: 0x400, F.ENTRY_CONTROLS: ENTRY | 1 << 15}),
    ("guest's IA32_EFER", {F.GUEST_IA32_EFER: 2, F.ENTRY_CONTROLS: ENTRY | 1 << 15}),
    ("guest's IA32_EFER", LONG | {F.GUEST_IA32_EFER: 0x400, F.ENTRY_CONTROLS: ENTRY | 1 << 15 | 1 << 9}),
    ("bases of GDTR", {F.GUEST_GDTR_BASE: 1 << 47}),
    ("bases of GDTR", {F.GUEST_IDTR_BASE: 1 << 47}),
    ("limits of GDTR and IDTR", {F.GUEST_GDTR_LIMIT: 0x1_0000}),
    ("limits of GDTR and IDTR", {F.GUEST_IDTR_LIMIT: 0x8000_0000}),
    ("RIP has 32 bits", {F.GUEST_RIP: 1 << 32}),
    ("RIP has 32 bits", LONG | {F.GUEST_RIP: 1 << 47}),
    ("RIP has 32 bits", LONG | {F.GUEST_RIP: 1 << 32, F.GUEST_CS_ACCESS_RIGHTS: 0xC09B}),
    ("RFLAGS has", {F.GUEST_RFLAGS: 0x8000_0002}),
    ("RFLAGS has", {F.GUEST_RFLAGS: 0}),
    ("RFLAGS has", {F.GUEST_RFLAGS: 1 << 32 | 2}),
    ("RFLAGS.VM", {F.GUEST_CR0: 0x10} | V86),
    ("RFLAGS.VM", LONG | V86),
    ("only with IF", {INJECT: VALID | 0x20}),
    ("selectors of TR", {F.GUEST_TR_SELECTOR: 0x2C}),
    ("selectors of TR", {F.GUEST_LDTR_SELECTOR: 0x2C, F.GUEST_LDTR_ACCESS_RIGHTS: 0x82}),
    ("selectors of TR", PAGED | {F.GUEST_CS_SELECTOR: 9}),
    ("bases have their width", {F.GUEST_SS_BASE: 1 << 32}),
    ("bases have their width", {F.GUEST_CS_BASE: 1 << 32}),
    ("bases have their width", {F.GUEST_GS_BASE: 1 << 47}),
    ("virtual-8086", V86 | {F.GUEST_DS_BASE: 0}),
    ("virtual-8086", V86 | {F.GUEST_FS_LIMIT: 0xFFFE}),
    ("virtual-8086", V86 | {F.GUEST_GS_ACCESS_RIGHTS: 0x93}),
    ("TR is usable", {F.GUEST_TR_ACCESS_RIGHTS: 0x1_0000}),
    ("TR is usable", {F.GUEST_TR_ACCESS_RIGHTS: 0x89}),
    ("TR is usable", LONG | {F.GUEST_TR_ACCESS_RIGHTS: 0x83}),
    ("LDTR is unusable", {F.GUEST_LDTR_ACCESS_RIGHTS: 0x89}),
    ("segment types", {F.GUEST_DS_ACCESS_RIGHTS: 0xC099}),  # code that cannot be read
    ("segment types", {F.GUEST_SS_ACCESS_RIGHTS: 0xC091}),
    ("segment types", {F.GUEST_ES_ACCESS_RIGHTS: 0xC092}),  # not accessed
    ("segment types", PAGED | {F.GUEST_CS_ACCESS_RIGHTS: 0xC093}),
    ("present, code or data", {F.GUEST_CS_ACCESS_RIGHTS: 0xC01B}),
    ("present, code or data", {F.GUEST_CS_ACCESS_RIGHTS: 0xC19B}),
    ("present, code or data", {F.GUEST_DS_ACCESS_RIGHTS: 0x2_C093}),
    ("present, code or data", {F.GUEST_LDTR_ACCESS_RIGHTS: 0x92}),
    ("DPL of CS", {F.GUEST_CS_ACCESS_RIGHTS: 0xC0FB}),
    ("DPL of CS", {F.GUEST_CS_ACCESS_RIGHTS: 0xC0FF}),
    ("DPL of CS", {F.GUEST_CS_ACCESS_RIGHTS: 0xC0F3, F.GUEST_SS_ACCESS_RIGHTS: 0xC0F3}),
    ("DPL of SS", {F.GUEST_SS_ACCESS_RIGHTS: 0xC0F3, F.GUEST_CS_ACCESS_RIGHTS: 0xC09F, F.GUEST_CR0: 0x10}),
    ("DPL of SS", PAGED | {F.GUEST_SS_SELECTOR: 0x13, F.GUEST_CS_SELECTOR: 0xB}),
    ("DPL of data", PAGED | {F.GUEST_DS_SELECTOR: 0x13}),
    ("64-bit or 32-bit", LONG | {F.GUEST_CS_ACCESS_RIGHTS: 0xE09B}),
    ("granularity", {F.GUEST_DS_LIMIT: 0xFFFF_F000}),
    ("granularity", {F.GUEST_DS_ACCESS_RIGHTS: 0x4093}),
    ("granularity", {F.GUEST_TR_LIMIT: 0x10_0000}),
    ("activity state is one", {F.GUEST_ACTIVITY_STATE: 4}),
    ("activity state is one", {F.GUEST_ACTIVITY_STATE: 2}),  # shutdown, which IA32_VMX_MISC does not name
    ("activity state is one", {F.GUEST_ACTIVITY_STATE: 3}),
    ("sleeps in HLT", {F.GUEST_ACTIVITY_STATE: 1, F.GUEST_SS_ACCESS_RIGHTS: 0xC0F3, F.GUEST_CS_ACCESS_RIGHTS: 0xC0FB}),
    (
        "the processor is active",
        {F.GUEST_ACTIVITY_STATE: 1, F.GUEST_INTERRUPTIBILITY_STATE: 2},
    ),
    ("reach a processor that sleeps", {F.GUEST_ACTIVITY_STATE: 1, INJECT: VALID | 3 << 8 | 6}),
    ("interruptibility state has no reserved", {F.GUEST_INTERRUPTIBILITY_STATE: 0x20}),
    ("interruptibility state has no reserved", {F.GUEST_INTERRUPTIBILITY_STATE: 4}),
    ("interruptibility state has no reserved", {F.GUEST_INTERRUPTIBILITY_STATE: 0x10}),
    ("has not both", {F.GUEST_INTERRUPTIBILITY_STATE: 3, F.GUEST_RFLAGS: 0x202}),
    ("blocking by STI needs", {F.GUEST_INTERRUPTIBILITY_STATE: 1}),
    (
        "STI, MOV SS or an NMI holds",
        {F.GUEST_INTERRUPTIBILITY_STATE: 1, F.GUEST_RFLAGS: 0x202, INJECT: VALID | 0x20},
    ),
    ("STI, MOV SS or an NMI holds", {F.GUEST_INTERRUPTIBILITY_STATE: 2, INJECT: VALID | 2 << 8 | 2}),
    (
        "STI, MOV SS or an NMI holds",
        {F.PIN_BASED_CONTROLS: 0x16 | 0x28, F.GUEST_INTERRUPTIBILITY_STATE: 8, INJECT: VALID | 2 << 8 | 2},
    ),
    ("pending debug exceptions have", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 1 << 16}),
    ("pending debug exceptions have", {F.GUEST_PENDING_DEBUG_EXCEPTIONS: 1 << 13}),
    ("single step", {F.GUEST_INTERRUPTIBILITY_STATE: 2, F.GUEST_PENDING_DEBUG_EXCEPTIONS: 1 << 14}),
    (
        "single step",
        {F.GUEST_INTERRUPTIBILITY_STATE: 2, F.GUEST_RFLAGS: 0x102, F.GUEST_PENDING_DEBUG_EXCEPTIONS: 0},
    ),
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


@pytest.mark.parametrize(("part", "writes"), BREAKERS, ids=[f"{n}: {part}" for n, (part, _) in enumerate(BREAKERS)])
def test_each_check_can_fail(part: str, writes: Writes) -> None:
    rig = Rig()
    for field, value in writes.items():
        rig.vmcs.write(field, value)
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
