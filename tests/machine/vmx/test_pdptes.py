"""The PDPTE registers in VMX non-root operation, with EPT and without (SDM Vol. 3C §27.3.1.6, §27.3.2.4, §28.2.1)."""

from __future__ import annotations

import pytest

from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.vmx import ExitReason
from tests.support.vmx_rig import F, Rig

PAGED, PAE = 0x8000_0031, 0x2020
TABLE, DIRECTORY = 0x6_0000, 0x6_1000
ENTRY_FAILURE = 1 << 31


def rig_without_ept() -> Rig:
    """A guest of whose memory the walk ends in the PC's own: with PAE paging, not unrestricted."""
    rig = Rig()
    rig.vmcs.write(F.SECONDARY_CONTROLS, 0)
    for number in range(4):
        rig.memory.view[DIRECTORY + 8 * number : DIRECTORY + 8 * number + 8] = (number << 21 | 0x83).to_bytes(
            8, "little"
        )
    put(rig, 0, DIRECTORY | 1)
    rig.vmcs.write(F.GUEST_CR0, PAGED)
    rig.vmcs.write(F.GUEST_CR4, PAE)
    rig.vmcs.write(F.GUEST_CR3, TABLE)
    return rig


def put(rig: Rig, number: int, entry: int) -> None:
    rig.memory.view[TABLE + 8 * number : TABLE + 8 * number + 8] = entry.to_bytes(8, "little")


def test_without_ept_entry_loads_them_from_the_table_that_cr3_names() -> None:
    rig = rig_without_ept()
    put(rig, 1, DIRECTORY | 1)
    rig.vmcs.write(F.GUEST_PDPTE0, 0)  # these count with EPT alone
    assert rig.non_root.enter(rig.cpu.count) is HostStop.LIMIT
    assert rig.cpu.state.pdptes[:2] == (DIRECTORY | 1, DIRECTORY | 1)


@pytest.mark.parametrize("bit", [1, 2, 5, 63])
def test_without_ept_a_reserved_bit_fails_the_entry(bit: int) -> None:
    """It looks like a VM exit with bit 31 of the reason, the qualification is 2 (§27.8)."""
    rig = rig_without_ept()
    put(rig, 2, 1 << bit | 1)
    assert rig.non_root.enter(rig.cpu.count + 1) is ExitReason.ENTRY_FAILURE_GUEST_STATE
    assert rig.vmcs.read(F.EXIT_REASON) == ENTRY_FAILURE | ExitReason.ENTRY_FAILURE_GUEST_STATE
    assert rig.qualification == 2


def test_with_ept_a_table_in_a_hole_of_the_ept_is_an_ept_violation_of_mov_to_cr3() -> None:
    """MOV to CR3 reads the table by guest-physical addresses: a read, and not by a linear address (Table 28-7)."""
    rig = Rig()
    rig.vmcs.write(F.GUEST_CR0, PAGED)
    rig.vmcs.write(F.GUEST_CR4, PAE)
    for number in range(4):
        rig.vmcs.write(F[f"GUEST_PDPTE{number}"], DIRECTORY | 1 if not number else 0)
    rig.write(DIRECTORY, b"".join((number << 21 | 0x83).to_bytes(8, "little") for number in range(4)))
    code = bytes.fromhex("b8 00000040 0f22d8")  # mov eax, 0x40000000; mov cr3, eax
    assert rig.run(code) is ExitReason.EPT_VIOLATION
    assert rig.vmcs.read(F.GUEST_PHYSICAL_ADDRESS) == 0x4000_0000
    assert rig.qualification & 0x7 == 1
    assert not rig.qualification & 1 << 7
    assert rig.vmcs.read(F.GUEST_LINEAR_ADDRESS) == 0
    assert rig.cpu.state.pdptes[0] == DIRECTORY | 1
