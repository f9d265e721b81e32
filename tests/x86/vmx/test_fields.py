from __future__ import annotations

import pytest

from simvirt.x86.vmx import FieldAccess, FieldKind, FieldWidth, VmcsField

# SDM Vol. 3D Appendix B, one row a table: width, kind, prefix of the names, encoding of its first and last field here.
TABLES = [
    (FieldWidth.BITS_16, FieldKind.CONTROL, "", 0x0000, 0x0004),
    (FieldWidth.BITS_16, FieldKind.GUEST_STATE, "", 0x0800, 0x0812),
    (FieldWidth.BITS_16, FieldKind.HOST_STATE, "HOST_", 0x0C00, 0x0C0C),
    (FieldWidth.BITS_64, FieldKind.CONTROL, "", 0x2000, 0x2036),
    (FieldWidth.BITS_64, FieldKind.EXIT_INFORMATION, "", 0x2400, 0x2400),
    (FieldWidth.BITS_64, FieldKind.GUEST_STATE, "", 0x2800, 0x2818),
    (FieldWidth.BITS_64, FieldKind.HOST_STATE, "HOST_", 0x2C00, 0x2C06),
    (FieldWidth.BITS_32, FieldKind.CONTROL, "", 0x4000, 0x4022),
    (FieldWidth.BITS_32, FieldKind.EXIT_INFORMATION, "", 0x4400, 0x440E),
    (FieldWidth.BITS_32, FieldKind.GUEST_STATE, "", 0x4800, 0x482E),
    (FieldWidth.BITS_32, FieldKind.HOST_STATE, "HOST_", 0x4C00, 0x4C00),
    (FieldWidth.NATURAL, FieldKind.CONTROL, "", 0x6000, 0x600E),
    (FieldWidth.NATURAL, FieldKind.EXIT_INFORMATION, "", 0x6400, 0x640A),
    (FieldWidth.NATURAL, FieldKind.GUEST_STATE, "GUEST_", 0x6800, 0x682C),
    (FieldWidth.NATURAL, FieldKind.HOST_STATE, "HOST_", 0x6C00, 0x6C1C),
]
# Encodings that everybody who has written a hypervisor has typed.
KNOWN = {
    "GUEST_CS_SELECTOR": 0x802, "MSR_BITMAPS_ADDRESS": 0x2004, "EPT_POINTER": 0x201A, "GUEST_PHYSICAL_ADDRESS": 0x2400,
    "VMCS_LINK_POINTER": 0x2800, "GUEST_IA32_EFER": 0x2806, "PIN_BASED_CONTROLS": 0x4000, "PRIMARY_CONTROLS": 0x4002,
    "EXCEPTION_BITMAP": 0x4004, "EXIT_CONTROLS": 0x400C, "ENTRY_CONTROLS": 0x4012,
    "ENTRY_INTERRUPTION_INFORMATION": 0x4016,
    "SECONDARY_CONTROLS": 0x401E, "VM_INSTRUCTION_ERROR": 0x4400, "EXIT_REASON": 0x4402,
    "IDT_VECTORING_INFORMATION": 0x4408,
    "EXIT_INSTRUCTION_LENGTH": 0x440C, "GUEST_CS_LIMIT": 0x4802, "GUEST_CS_ACCESS_RIGHTS": 0x4816,
    "GUEST_INTERRUPTIBILITY_STATE": 0x4824, "GUEST_IA32_SYSENTER_CS": 0x482A, "PREEMPTION_TIMER_VALUE": 0x482E,
    "CR0_GUEST_HOST_MASK": 0x6000, "CR4_READ_SHADOW": 0x6006, "EXIT_QUALIFICATION": 0x6400,
    "GUEST_LINEAR_ADDRESS": 0x640A,
    "GUEST_CR0": 0x6800, "GUEST_CS_BASE": 0x6808, "GUEST_GDTR_BASE": 0x6816, "GUEST_RSP": 0x681C, "GUEST_RIP": 0x681E,
    "GUEST_RFLAGS": 0x6820, "GUEST_PENDING_DEBUG_EXCEPTIONS": 0x6822, "HOST_CR0": 0x6C00, "HOST_RSP": 0x6C14,
    "HOST_RIP": 0x6C16,
}  # fmt: skip


@pytest.mark.parametrize(("width", "kind", "prefix", "first", "last"), TABLES)
def test_each_table_of_appendix_b(width: FieldWidth, kind: FieldKind, prefix: str, first: int, last: int) -> None:
    fields = [field for field in VmcsField if (field.width, field.kind) == (width, kind)]
    assert [min(fields), max(fields)] == [first, last]
    assert all(field.name.startswith(prefix) for field in fields)
    indices = [field.index for field in fields]
    # Numbered without gaps; 482CH alone was never given to a field.
    assert sorted({*range(len(fields) + (last == 0x482E))} - set(indices)) == ([22] if last == 0x482E else [])


def test_every_field_is_in_a_table_and_encodes_full_access() -> None:
    tables = {(width, kind) for width, kind, *_ in TABLES}
    for field in VmcsField:
        assert (field.width, field.kind) in tables
        assert field & 1 == FieldAccess.FULL
        assert field == field.width << 13 | field.kind << 10 | field.index << 1
        assert field.read_only == (field.kind is FieldKind.EXIT_INFORMATION)


def test_known_encodings() -> None:
    assert {name: int(VmcsField[name]) for name in KNOWN} == KNOWN
