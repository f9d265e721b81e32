"""#VE: an EPT violation that the guest deals with itself (SDM Vol. 3C §26.5.7)."""

from __future__ import annotations

import struct

import pytest

from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.addresses import Gpa
from simvirt.x86.vmx import ExitReason
from simvirt.x86.vmx.ept import EptEntry, ept_index
from tests.support.vmx_rig import CODE, DATA, HOLE, RAM_SIZE, STACK, F, Rig

INFORMATION = 0x8_2000
VE, VE_CONTROL = 20, 18
LOAD = b"\xa1" + HOLE.to_bytes(4, "little")


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.secondary(VE_CONTROL)
    rig.vmcs.write(F.VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, INFORMATION)
    rig.vmcs.write(F.EPTP_INDEX, 0x77)
    return rig


def busy(rig: Rig, value: int) -> None:
    rig.memory.view[INFORMATION + 4 : INFORMATION + 8] = value.to_bytes(4, "little")


def set_suppressed(rig: Rig, gpa: int) -> None:
    """Bit 63 of the entry that a walk for this address ends with."""
    table = rig.ept.pointer.root
    for level in range(4, 0, -1):
        at = table + 8 * ept_index(gpa, level)
        entry = int.from_bytes(rig.memory.view[at : at + 8], "little")
        if not entry & 7 or level == 1 or entry & EptEntry.LARGE_PAGE:
            rig.memory.view[at : at + 8] = (entry | EptEntry.SUPPRESS_VE).to_bytes(8, "little")
            return
        table = entry & ~0xFFF  # type: ignore[assignment]  # a plain address


def test_the_information_area_tells_of_the_violation(rig: Rig) -> None:
    assert rig.run(LOAD) is HostStop.HALTED
    assert rig.handler == VE
    data = bytes(rig.memory.view[INFORMATION : INFORMATION + 34])
    assert struct.unpack("<IIQQQH", data) == (48, 0xFFFF_FFFF, 0x181, HOLE, HOLE, 0x77)
    frame = struct.unpack("<3I", rig.read(STACK - 12, 12))
    assert frame[:2] == (CODE, 8)  # no error code, and RIP is the instruction


def test_the_next_one_exits_until_the_guest_has_dealt_with_it(rig: Rig) -> None:
    busy(rig, 1)
    assert rig.run(LOAD) is ExitReason.EPT_VIOLATION
    busy(rig, 0)
    assert rig.run(LOAD) is HostStop.HALTED


def test_an_entry_that_suppresses_it_exits(rig: Rig) -> None:
    set_suppressed(rig, HOLE)
    assert rig.run(LOAD) is ExitReason.EPT_VIOLATION
    rig = Rig()
    rig.secondary(VE_CONTROL)
    rig.ept.set_rights(Gpa(DATA), 0x1000, EptEntry.READ)
    store = b"\xa3" + DATA.to_bytes(4, "little")
    assert rig.run(store) is HostStop.HALTED
    busy_at = rig.vmcs.read(F.VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS) + 4
    rig.memory.view[busy_at : busy_at + 4] = bytes(4)
    set_suppressed(rig, DATA)
    assert rig.run(store) is ExitReason.EPT_VIOLATION


def test_the_exception_bitmap_has_a_say(rig: Rig) -> None:
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << VE)
    assert rig.run(LOAD) is ExitReason.EXCEPTION_OR_NMI
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 1 << 31 | 3 << 8 | VE


def test_not_in_real_address_mode(rig: Rig) -> None:
    rig.vmcs.write(F.GUEST_CR0, 0x10)  # with 32-bit segments all the same
    assert rig.run(LOAD) is ExitReason.EPT_VIOLATION


def test_not_in_the_midst_of_a_delivery(rig: Rig) -> None:
    rig.vmcs.write(F.GUEST_RSP, RAM_SIZE + 0x1000)
    assert rig.run(b"\x0f\x0b") is ExitReason.EPT_VIOLATION
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) == 1 << 31 | 3 << 8 | 6


def test_an_information_area_outside_memory_is_none(rig: Rig) -> None:
    rig.vmcs.write(F.VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, (1 << 40) - 0x1000)
    assert rig.run(LOAD) is ExitReason.EPT_VIOLATION


def test_an_operand_of_the_processor_s_own_completion(rig: Rig) -> None:
    """LTR reads its operand outside the engine."""
    assert rig.run(b"\x0f\x00\x1d" + HOLE.to_bytes(4, "little")) is HostStop.HALTED
    assert rig.handler == VE
