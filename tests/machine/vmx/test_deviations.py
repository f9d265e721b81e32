"""What non-root mode does otherwise than the manual says: each test is a line of docs/deviations.md, "VT-x"."""

from __future__ import annotations

import pytest

from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.registers import GeneralRegister
from tests.support.vmx_rig import DATA, F, Rig


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_monitor_and_mwait_do_not_exist(rig: Rig) -> None:
    """No CPU model has them, so their controls are not offered."""
    assert rig.run(b"\x0f\x01\xc8") is HostStop.HALTED
    assert rig.handler == 6


def test_xsetbv_is_undefined(rig: Rig) -> None:
    """It exits always, but after its #UD while CR4.OSXSAVE is 0, and no CPU model has XSAVE."""
    assert rig.run(b"\x0f\x01\xd1") is HostStop.HALTED
    assert rig.handler == 6


def test_the_first_check_of_ne_is_missing(rig: Rig) -> None:
    """Intel's processors fix CR0.NE to 1 in VMX operation; here a guest may run with 0."""
    assert not rig.vmcs.read(F.GUEST_CR0) & 0x20
    assert rig.run(b"\x90") is HostStop.HALTED


def test_ins_has_stored_zero_before_it_exits(rig: Rig) -> None:
    """An exit of INS changes no memory in the manual; the engine has stored 0 at the destination."""
    rig.primary(24)
    rig.write(DATA, b"\xaa")
    rig.register(GeneralRegister.RDI, DATA)
    rig.register(GeneralRegister.RDX, 0x61)
    assert rig.run(b"\x6c") == 30
    assert rig.read(DATA, 1) == b"\x00"
