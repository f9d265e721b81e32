from __future__ import annotations

from simvirt.x86.msrs import BITMAP_HIGH, BITMAP_LOW, PAT_AT_RESET, Msr, name_of

# SDM Vol. 4 Table 2-2
NUMBERS = {
    "IA32_TIME_STAMP_COUNTER": 16, "IA32_APIC_BASE": 27, "IA32_FEATURE_CONTROL": 58, "IA32_SYSENTER_CS": 372,
    "IA32_SYSENTER_ESP": 373, "IA32_SYSENTER_EIP": 374, "IA32_MISC_ENABLE": 416, "IA32_DEBUGCTL": 473, "IA32_PAT": 631,
    "IA32_VMX_BASIC": 1152, "IA32_VMX_TRUE_ENTRY_CTLS": 1168, "IA32_VMX_VMFUNC": 1169, "IA32_EFER": 0xC0000080,
    "IA32_STAR": 0xC0000081, "IA32_LSTAR": 0xC0000082, "IA32_FMASK": 0xC0000084, "IA32_FS_BASE": 0xC0000100,
    "IA32_GS_BASE": 0xC0000101, "IA32_KERNEL_GS_BASE": 0xC0000102, "IA32_TSC_AUX": 0xC0000103,
}  # fmt: skip


def test_numbers_are_the_manuals() -> None:
    assert {name: int(Msr[name]) for name in NUMBERS} == NUMBERS


def test_vmx_capabilities_are_consecutive() -> None:
    assert [msr for msr in Msr if msr.name.startswith("IA32_VMX_")] == list(range(0x480, 0x492))


def test_names_and_bitmap_ranges() -> None:
    assert name_of(0xC0000080) == "IA32_EFER"
    assert name_of(0x4242) == "MSR 0x4242"
    # 1 KiB of bits for each range and direction (SDM Vol. 3C §25.6.9)
    assert len(BITMAP_LOW) == len(BITMAP_HIGH) == 8 * 1024


def test_pat_at_reset_is_wb_wt_ucminus_uc_twice() -> None:
    assert PAT_AT_RESET.to_bytes(8, "little") == bytes([6, 4, 7, 0, 6, 4, 7, 0])
