"""What VM entry and VM exit do besides: the preemption timer, MSR areas, acknowledged interrupts."""

from __future__ import annotations

import pytest

from simvirt.machine.vmx.msr_areas import VmxAbort
from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import ExitReason, VmcsField
from tests.support.vmx_rig import EXIT_DEFAULT, PIN_DEFAULT, F, Rig

NOPS = b"\x90" * 200
TIMER, SAVE_TIMER, ACKNOWLEDGE = 1 << 6, 1 << 22, 1 << 15
AREA = 0x8_0000
"""Host memory that the VM does not have."""
STAR, LSTAR, SYSENTER_CS = 0xC000_0081, 0xC000_0082, 0x174


@pytest.fixture
def rig() -> Rig:
    return Rig()


def start_timer(rig: Rig, value: int, *, save: bool = False) -> None:
    rig.vmcs.write(F.PIN_BASED_CONTROLS, PIN_DEFAULT | TIMER)
    rig.vmcs.write(F.EXIT_CONTROLS, EXIT_DEFAULT | (SAVE_TIMER if save else 0))
    rig.vmcs.write(F.PREEMPTION_TIMER_VALUE, value)


# -------------------------------------------------------------------------------------------- the preemption timer


def test_the_timer_counts_down_at_the_rate_that_the_capabilities_tell(rig: Rig) -> None:
    """Once every 2^5 ticks of the TSC, which here counts instructions (SDM Vol. 3C §26.5.1)."""
    start_timer(rig, 3)
    assert rig.run(NOPS, limit=1000) is ExitReason.PREEMPTION_TIMER_EXPIRED
    assert rig.cpu.count == 96


def test_a_timer_of_zero_expires_before_the_first_instruction(rig: Rig) -> None:
    start_timer(rig, 0)
    assert rig.run(NOPS) is ExitReason.PREEMPTION_TIMER_EXPIRED
    assert rig.cpu.count == 0


def test_without_the_control_nothing_expires(rig: Rig) -> None:
    rig.vmcs.write(F.PREEMPTION_TIMER_VALUE, 1)
    assert rig.run(NOPS, limit=1000) is HostStop.HALTED


def test_a_stop_of_the_simulation_does_not_wind_it_up_again(rig: Rig) -> None:
    start_timer(rig, 3)
    assert rig.run(NOPS, limit=50) is HostStop.LIMIT
    assert rig.non_root.enter(1000) is ExitReason.PREEMPTION_TIMER_EXPIRED
    assert rig.cpu.count == 96


def test_an_exit_saves_what_is_left(rig: Rig) -> None:
    start_timer(rig, 3, save=True)
    assert rig.run(b"\x90" * 40 + b"\x0f\xa2") is ExitReason.CPUID
    assert rig.vmcs.read(F.PREEMPTION_TIMER_VALUE) == (96 - 40) >> 5


def test_an_exit_leaves_it_without_the_control(rig: Rig) -> None:
    start_timer(rig, 3)
    assert rig.run(b"\x90" * 40 + b"\x0f\xa2") is ExitReason.CPUID
    assert rig.vmcs.read(F.PREEMPTION_TIMER_VALUE) == 3


# -------------------------------------------------------------------------------------------- MSR areas


def put(rig: Rig, number: int, msr: int, value: int, reserved: int = 0) -> None:
    data = msr.to_bytes(4, "little") + reserved.to_bytes(4, "little") + value.to_bytes(8, "little")
    at = AREA + 16 * number
    rig.memory.view[at : at + 16] = data


def value(rig: Rig, number: int) -> int:
    at = AREA + 16 * number + 8
    return int.from_bytes(rig.memory.view[at : at + 8], "little")


def test_msrs_are_loaded_on_entry(rig: Rig) -> None:
    """The guest reads with RDMSR what the area holds; the MSR bitmaps let it."""
    rig.primary(28)
    put(rig, 0, STAR, 0x1234)
    put(rig, 1, SYSENTER_CS, 0x5678)
    rig.vmcs.write(F.ENTRY_MSR_LOAD_ADDRESS, AREA)
    rig.vmcs.write(F.ENTRY_MSR_LOAD_COUNT, 2)
    assert rig.run(b"\xb9" + SYSENTER_CS.to_bytes(4, "little") + b"\x0f\x32") is HostStop.HALTED
    assert rig.register(GeneralRegister.RAX) == 0x5678


def test_msrs_are_stored_and_then_loaded_on_exit(rig: Rig) -> None:
    rig.primary(28)
    put(rig, 0, SYSENTER_CS, 0)
    put(rig, 1, SYSENTER_CS, 0x77)
    rig.vmcs.write(F.EXIT_MSR_STORE_ADDRESS, AREA)
    rig.vmcs.write(F.EXIT_MSR_STORE_COUNT, 1)
    rig.vmcs.write(F.EXIT_MSR_LOAD_ADDRESS, AREA + 16)
    rig.vmcs.write(F.EXIT_MSR_LOAD_COUNT, 1)
    code = b"\xb9" + SYSENTER_CS.to_bytes(4, "little") + b"\xb8\x99\0\0\0\x31\xd2\x0f\x30\x0f\xa2"
    assert rig.run(code) is ExitReason.CPUID
    assert value(rig, 0) == 0x99
    assert rig.vmcs.read(F.GUEST_IA32_SYSENTER_CS) == 0x77


@pytest.mark.parametrize(
    ("msr", "reserved"),
    [(0xC000_0100, 0), (0xC000_0101, 0), (0x800, 0), (0x1234_5678, 0), (STAR, 1)],
    ids=["FS base", "GS base", "x2APIC", "none", "reserved"],
)
def test_an_entry_that_cannot_be_loaded_fails_vm_entry(rig: Rig, msr: int, reserved: int) -> None:
    """Reason 34 with bit 31, and in the qualification which entry it was, from 1 (§27.4, §27.8)."""
    put(rig, 0, LSTAR, 0)
    put(rig, 1, msr, 0, reserved)
    rig.vmcs.write(F.ENTRY_MSR_LOAD_ADDRESS, AREA)
    rig.vmcs.write(F.ENTRY_MSR_LOAD_COUNT, 2)
    assert rig.run(b"\x90") is ExitReason.ENTRY_FAILURE_MSR_LOADING
    assert rig.vmcs.read(F.EXIT_REASON) == 1 << 31 | 34
    assert rig.qualification == 2
    assert rig.cpu.count == 0


AREAS = [
    (F.EXIT_MSR_STORE_ADDRESS, F.EXIT_MSR_STORE_COUNT),
    (F.EXIT_MSR_LOAD_ADDRESS, F.EXIT_MSR_LOAD_COUNT),
]


@pytest.mark.parametrize(("address", "count"), AREAS)
def test_an_exit_that_cannot_is_a_vmx_abort(rig: Rig, address: VmcsField, count: VmcsField) -> None:
    put(rig, 0, 0x1234_5678, 0)
    rig.vmcs.write(address, AREA)
    rig.vmcs.write(count, 1)
    with pytest.raises(VmxAbort, match="VMX abort"):
        rig.run(b"\x0f\xa2")


# -------------------------------------------------------------------------------------------- interrupts of the PC


def test_an_interrupt_exits_unacknowledged(rig: Rig) -> None:
    rig.vmcs.write(F.PIN_BASED_CONTROLS, PIN_DEFAULT | 1)
    assert rig.non_root.external_interrupt(0x31) is ExitReason.EXTERNAL_INTERRUPT
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 0


def test_an_interrupt_is_acknowledged_on_exit(rig: Rig) -> None:
    rig.vmcs.write(F.PIN_BASED_CONTROLS, PIN_DEFAULT | 1)
    rig.vmcs.write(F.EXIT_CONTROLS, EXIT_DEFAULT | ACKNOWLEDGE)
    assert rig.non_root.external_interrupt(0x31) is ExitReason.EXTERNAL_INTERRUPT
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 1 << 31 | 0x31


def test_without_the_control_an_interrupt_is_the_guest_s(rig: Rig) -> None:
    assert rig.non_root.external_interrupt(0x31) is None
