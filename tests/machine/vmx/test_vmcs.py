"""The VMCS: typed fields, read-only fields, and guest state that lives in the processor."""

from __future__ import annotations

import pytest

from simvirt.machine.state import Segment
from simvirt.machine.vmx.guest_fields import GUEST_FIELDS, access_rights, with_access_rights
from simvirt.machine.vmx.vmcs import Vmcs, VmcsError
from simvirt.x86.vmx import FieldKind, VmcsField
from tests.support.vmx_rig import F, Rig


@pytest.mark.parametrize("field", [f for f in VmcsField if f.kind is FieldKind.EXIT_INFORMATION])
def test_exit_information_is_read_only(field: VmcsField) -> None:
    with pytest.raises(VmcsError, match="read-only") as caught:
        Vmcs().write(field, 0)
    assert caught.value.error == 13  # SDM Vol. 3C Table 31-1


@pytest.mark.parametrize("field", [f for f in VmcsField if f.kind is not FieldKind.EXIT_INFORMATION])
def test_what_is_written_is_read(field: VmcsField) -> None:
    vmcs = Vmcs()
    widest = (1 << field.bits) - 1
    vmcs.write(field, widest)
    assert vmcs.read(field) == widest
    with pytest.raises(VmcsError, match="does not fit"):
        vmcs.write(field, widest + 1)


def test_a_field_that_does_not_exist() -> None:
    with pytest.raises(VmcsError, match="no such field") as caught:
        Vmcs().write(0x7FFE, 0)  # type: ignore[arg-type]  # that is the point
    assert caught.value.error == 12


@pytest.mark.parametrize(
    ("segment", "rights"),
    [  # SDM Vol. 3C Table 25-2: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16
        (Segment(8, 0, 0xFFFFFFFF, 0x00CF9B00), 0xC09B),
        (Segment(0x23, 0, 0xFFFFFFFF, 0x00CFF300), 0xC0F3),
        (Segment(8, 0, 0, 0x00AF9B00), 0xA09B),
        (Segment(0, 0, 0, 0), 1 << 16),
    ],
)
def test_access_rights(segment: Segment, rights: int) -> None:
    assert access_rights(segment) == rights
    assert access_rights(with_access_rights(segment, rights)) == rights


def test_guest_fields_are_the_processors_registers() -> None:
    rig = Rig()
    state, vmcs = rig.cpu.state, rig.vmcs
    expected = {
        F.GUEST_CR0: 0x11,
        F.GUEST_CR4: 0x2000,
        F.GUEST_CS_SELECTOR: 0x08,
        F.GUEST_CS_LIMIT: 0xFFFFFFFF,
        F.GUEST_CS_ACCESS_RIGHTS: 0xC09B,
        F.GUEST_SS_ACCESS_RIGHTS: 0xC093,
        F.GUEST_TR_SELECTOR: 0x28,
        F.GUEST_TR_ACCESS_RIGHTS: 0x8B,  # busy, as the manual wants it
        F.GUEST_GDTR_BASE: 0x3000,
        F.GUEST_IDTR_LIMIT: 0x7FF,
        F.GUEST_RSP: 0x8000,
        F.GUEST_RFLAGS: 2,
        F.GUEST_DR7: 0x400,
        F.VMCS_LINK_POINTER: 0xFFFF_FFFF_FFFF_FFFF,
    }
    assert {field: vmcs.read(field) for field in expected} == expected
    state.rsp = 0x1234
    assert vmcs.read(F.GUEST_RSP) == 0x1234
    vmcs.write(F.GUEST_IDTR_BASE, 0xABC0)
    assert state.idtr.base == 0xABC0


def test_cpl_is_the_dpl_of_ss() -> None:
    rig = Rig()
    rig.vmcs.write(F.GUEST_SS_ACCESS_RIGHTS, 0xC0F3)
    assert rig.cpu.state.cpl == 3
    assert rig.vmcs.read(F.GUEST_SS_ACCESS_RIGHTS) == 0xC0F3


def test_interruptibility() -> None:
    """STI leaves blocking by STI (bit 0) for one instruction; with IF 0 a shadow can only be MOV SS's (bit 1)."""
    rig = Rig()
    rig.run(b"\xfb\x90\x90", limit=1)
    assert rig.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == 1
    rig = Rig()
    rig.run(b"\x8e\xd0\x90", limit=1) if rig.register(0, 0x10) else None  # type: ignore[arg-type]  # mov ss, ax
    assert rig.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == 2


def test_leave_and_enter_bring_the_guest_state_home_and_back() -> None:
    rig = Rig()
    before = {field: rig.vmcs.read(field) for field in GUEST_FIELDS}
    rig.vmcs.leave()
    assert not rig.vmcs.is_current
    other = Rig()
    other.vmcs.leave()
    other.cpu.state.rsp = 1
    rig.vmcs.enter(other.cpu)
    assert other.cpu.state.rsp == 0x8000
    assert {field: rig.vmcs.read(field) for field in GUEST_FIELDS} == before


def test_save_and_restore() -> None:
    rig = Rig()
    rig.vmcs.write(F.EXCEPTION_BITMAP, 5)
    saved = rig.vmcs.save()
    assert saved[F.GUEST_RSP] == 0x8000
    copy = Vmcs()
    copy.restore(saved)
    assert copy.read(F.EXCEPTION_BITMAP) == 5
    assert copy.read(F.GUEST_RSP) == 0x8000
