"""The instructions of VMX root operation: what they do, and both styles of failure (SDM Vol. 3C Chapter 31)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from simvirt.errors import MonitorError
from simvirt.machine.vmx.non_root import VmEntryError
from simvirt.machine.vmx.root_operation import InveptType, InvvpidType, LaunchState, RootOperation, VmFail
from simvirt.x86.addresses import Hpa
from simvirt.x86.vmx import ExitReason, VmcsField
from tests.support.vmx_rig import CODE, F, Rig

VMXON, FIRST, SECOND, OTHER_REVISION = Hpa(0x8_0000), Hpa(0x8_1000), Hpa(0x8_2000), Hpa(0x8_3000)


class Host:
    """A PC with a guest in its memory, and a processor outside of VMX operation."""

    def __init__(self) -> None:
        self.rig = Rig()
        for region in (VMXON, FIRST, SECOND):
            self.rig.memory.view[region : region + 4] = (1).to_bytes(4, "little")
        self.rig.vmcs.leave()
        self.root = RootOperation(self.rig.cpu, self.rig.bus)

    def good_vmcs(self, region: Hpa) -> None:
        self.root.vmclear(region)
        self.root.vmptrld(region)
        for encoding, value in self.rig.vmcs.fields.items():
            field = VmcsField(encoding)
            if not field.read_only:
                self.root.vmwrite(field, value)


@pytest.fixture
def host() -> Host:
    host = Host()
    host.root.vmxon(VMXON)
    return host


def error(call: Callable[[], object]) -> int | None:
    with pytest.raises(VmFail) as caught:
        call()
    return None if caught.value.error is None else caught.value.error.value


def test_launch_exit_resume(host: Host) -> None:
    host.rig.write(CODE, b"\x0f\xa2\x90\x0f\xa2\xf4")
    host.good_vmcs(FIRST)
    root = host.root
    assert root.launch_state(FIRST) is LaunchState.CLEAR
    assert root.vmlaunch(100) is ExitReason.CPUID
    assert root.launch_state(FIRST) is LaunchState.LAUNCHED
    assert root.vmread(F.EXIT_REASON) == 10
    root.vmwrite(F.GUEST_RIP, root.vmread(F.GUEST_RIP) + root.vmread(F.EXIT_INSTRUCTION_LENGTH))
    assert root.vmresume(100) is ExitReason.CPUID
    assert root.vmread(F.GUEST_RIP) == CODE + 3


def test_launch_states(host: Host) -> None:
    """Errors 4 and 5: VMLAUNCH wants a clear VMCS, VMRESUME a launched one; VMCLEAR makes it clear again."""
    host.rig.write(CODE, b"\x0f\xa2")
    host.good_vmcs(FIRST)
    root = host.root
    assert error(lambda: root.vmresume(100)) == 5
    assert root.vmread(F.VM_INSTRUCTION_ERROR) == 5
    root.vmlaunch(100)
    assert error(lambda: root.vmlaunch(100)) == 4
    root.vmclear(FIRST)
    root.vmptrld(FIRST)
    assert error(lambda: root.vmresume(100)) == 5
    assert root.vmlaunch(100) is ExitReason.CPUID


def test_a_failed_entry_leaves_the_state_clear(host: Host) -> None:
    host.good_vmcs(FIRST)
    host.root.vmwrite(F.CR3_TARGET_COUNT, 5)
    with pytest.raises(VmEntryError, match="CR3-target"):
        host.root.vmlaunch(100)
    assert host.root.vmread(F.VM_INSTRUCTION_ERROR) == 7
    assert host.root.launch_state(FIRST) is LaunchState.CLEAR


def test_so_does_one_that_fails_on_the_guest_state(host: Host) -> None:
    host.good_vmcs(FIRST)
    host.root.vmwrite(F.GUEST_RFLAGS, 0)
    assert host.root.vmlaunch(100) is ExitReason.ENTRY_FAILURE_GUEST_STATE
    assert host.root.launch_state(FIRST) is LaunchState.CLEAR
    host.root.vmwrite(F.GUEST_RFLAGS, 2)
    host.rig.write(CODE, b"\x0f\xa2")
    assert host.root.vmlaunch(100) is ExitReason.CPUID


def test_two_guests_take_turns(host: Host) -> None:
    """VMPTRLD switches; each VMCS keeps its guest's registers that have fields."""
    host.rig.write(CODE, b"\x0f\xa2\x90\x0f\xa2")
    root = host.root
    for region in (FIRST, SECOND):
        host.good_vmcs(region)
        assert root.vmlaunch(100) is ExitReason.CPUID
    root.vmwrite(F.GUEST_RIP, CODE + 3)
    root.vmptrld(FIRST)
    assert root.vmread(F.GUEST_RIP) == CODE
    root.vmptrld(SECOND)
    assert root.vmread(F.GUEST_RIP) == CODE + 3


def test_pointers(host: Host) -> None:
    root = host.root
    assert root.vmptrst() == (1 << 64) - 1
    root.vmptrld(FIRST)
    assert root.vmptrst() == FIRST
    root.vmclear(FIRST)
    assert root.vmptrst() == (1 << 64) - 1


@pytest.mark.parametrize(
    ("call", "number"),
    [
        (lambda root: root.vmxon(VMXON), 15),
        (lambda root: root.vmclear(FIRST + 8), 2),
        (lambda root: root.vmclear(1 << 40), 2),
        (lambda root: root.vmclear(VMXON), 3),
        (lambda root: root.vmptrld(FIRST + 8), 9),
        (lambda root: root.vmptrld(VMXON), 10),
        (lambda root: root.vmptrld(OTHER_REVISION), 11),
        (lambda root: root.vmread(0x7FFE), 12),
        (lambda root: root.vmwrite(0x7FFE, 0), 12),
        (lambda root: root.vmwrite(F.EXIT_REASON, 0), 13),
        (lambda root: root.vmwrite(F.GUEST_CS_SELECTOR, 1 << 16), 12),
        (lambda root: root.invept(3), 28),
        (lambda root: root.invept(InveptType.SINGLE_CONTEXT, 1 << 8), 28),
        (lambda root: root.invvpid(4), 28),
        (lambda root: root.invvpid(InvvpidType.SINGLE_CONTEXT, 0), 28),
        (lambda root: root.invvpid(InvvpidType.INDIVIDUAL_ADDRESS, 1, 1 << 47), 28),
    ],
)
def test_failures(host: Host, call: Callable[[RootOperation], object], number: int) -> None:
    """VMfailValid with a current VMCS, which has the error then; VMfailInvalid without (§31.2)."""
    read_write = number in (12, 13)
    if not read_write:
        assert error(lambda: call(host.root)) is None
    host.root.vmptrld(FIRST)
    assert error(lambda: call(host.root)) == number
    assert host.root.vmread(F.VM_INSTRUCTION_ERROR) == number


def test_without_a_current_vmcs(host: Host) -> None:
    root = host.root
    for call in (lambda: root.vmlaunch(1), lambda: root.vmresume(1), lambda: root.vmread(F.EXIT_REASON)):
        assert error(call) is None


def test_invalidation_succeeds(host: Host) -> None:
    host.root.invept(InveptType.ALL_CONTEXT)
    host.root.invept(InveptType.SINGLE_CONTEXT, host.rig.ept.pointer.encode())
    host.root.invvpid(InvvpidType.ALL_CONTEXT)
    host.root.invvpid(InvvpidType.INDIVIDUAL_ADDRESS, 1, 0x1000)


def test_vmxon_needs_a_region() -> None:
    host = Host()
    for region in (VMXON + 8, OTHER_REVISION, 1 << 40):
        assert error(lambda region=region: host.root.vmxon(Hpa(region))) is None  # type: ignore[misc]  # bound early


def test_outside_of_vmx_operation() -> None:
    host = Host()
    with pytest.raises(MonitorError, match="VMXON first"):
        host.root.vmclear(FIRST)
    host.root.vmxon(VMXON)
    host.root.vmxoff()
    with pytest.raises(MonitorError, match="VMXON first"):
        host.root.vmptrld(FIRST)
