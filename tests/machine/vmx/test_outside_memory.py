"""Addresses in a VMCS that lead outside the PC's memory: reads find ones, writes go nowhere, the host lives."""

from __future__ import annotations

import pytest

from simvirt.machine.vmx.msr_areas import VmxAbort
from simvirt.machine.vmx.non_root import HostStop
from simvirt.machine.vmx.vmcs import VmcsError
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import ExitReason, FieldKind, VmcsField
from tests.support.vmx_rig import DATA, F, Rig, long_mode

FAR = (1 << 40) - 0x1000
"""The last page that a physical address can name."""
ADDRESSES = [field for field in VmcsField if field.name.endswith("_ADDRESS") and field.kind is FieldKind.CONTROL]
CODE = bytes.fromhex("e680 b974010000 0f32 f390 0f01d4") + b"\xa3" + DATA.to_bytes(4, "little")
"""out 0x80, al; mov ecx, 0x174; rdmsr; pause; vmfunc; mov [DATA], eax"""


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.primary(25, 28)  # I/O bitmaps, MSR bitmaps
    rig.secondary(13, 17)  # VM functions, page-modification logging
    rig.vmcs.write(F.EPT_POINTER, rig.ept.pointer.encode() | 1 << 6)
    rig.vmcs.write(F.VM_FUNCTION_CONTROLS, 1)
    rig.register(GeneralRegister.RAX, 0)
    return rig


@pytest.mark.parametrize("field", ADDRESSES, ids=[field.name for field in ADDRESSES])
def test_each_address_may_lead_nowhere(rig: Rig, field: VmcsField) -> None:
    rig.vmcs.write(field, FAR)
    for _ in range(8):
        reason = rig.run(CODE) if not rig.cpu.count else rig.non_root.enter(rig.cpu.count + 20)
        assert isinstance(reason, ExitReason | HostStop)
        if isinstance(reason, HostStop):
            break
        rig.cpu.advance(rig.length)


def test_bitmaps_of_nothing_make_everything_exit(rig: Rig) -> None:
    rig.vmcs.write(F.IO_BITMAP_A_ADDRESS, FAR)
    assert rig.run(b"\xe6\x80") is ExitReason.IO_INSTRUCTION
    rig.vmcs.write(F.MSR_BITMAPS_ADDRESS, FAR)
    assert rig.run(b"\xb9\x74\x01\0\0\x0f\x32") is ExitReason.RDMSR


def test_a_virtual_apic_of_nothing() -> None:
    rig = Rig()
    long_mode(rig)
    rig.primary(21)
    rig.vmcs.write(F.VIRTUAL_APIC_ADDRESS, FAR)
    rig.vmcs.write(F.TPR_THRESHOLD, 3)
    rig.register(GeneralRegister.RAX, 5)
    assert rig.run(b"\x44\x0f\x22\xc0\x44\x0f\x20\xc3") is HostStop.HALTED
    assert rig.register(GeneralRegister.RBX) == 0xF


def test_an_msr_area_of_nothing(rig: Rig) -> None:
    rig.vmcs.write(F.ENTRY_MSR_LOAD_ADDRESS, FAR)
    rig.vmcs.write(F.ENTRY_MSR_LOAD_COUNT, 1)
    assert rig.run(b"\x90") is ExitReason.ENTRY_FAILURE_MSR_LOADING
    rig.vmcs.write(F.ENTRY_MSR_LOAD_COUNT, 0)
    for address, count in (
        (F.EXIT_MSR_LOAD_ADDRESS, F.EXIT_MSR_LOAD_COUNT),
        (F.EXIT_MSR_STORE_ADDRESS, F.EXIT_MSR_STORE_COUNT),
    ):
        rig.vmcs.write(address, FAR)
        rig.vmcs.write(count, 0xFF)
        with pytest.raises(VmxAbort):
            rig.run(b"\x0f\xa2")
        rig.vmcs.write(count, 0)
    assert rig.run(b"\x0f\xa2") is ExitReason.CPUID


@pytest.mark.parametrize("field", list(VmcsField), ids=lambda field: field.name)
def test_a_value_that_does_not_fit_is_refused_and_changes_nothing(field: VmcsField) -> None:
    rig = Rig()
    before = rig.vmcs.save()
    for value in (-1, 1 << field.bits):
        with pytest.raises(VmcsError, match="read-only" if field.read_only else "does not fit its"):
            rig.vmcs.write(field, value)
    assert rig.vmcs.save() == before
