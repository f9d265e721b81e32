"""What VM entry leaves the guest in: asleep or awake, with debug exceptions and interrupts that wait for it."""

from __future__ import annotations

import pytest

from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import ActivityState, ExitReason
from tests.support.vmx_rig import CODE, PIN_DEFAULT, F, Rig

BS, ENABLED_BREAKPOINT = 1 << 14, 1 << 12
DB, TIMER, INTERRUPT_WINDOW = 1, 1 << 6, 2


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def asleep(rig: Rig) -> Rig:
    """In the HLT behind a NOP, with interrupts enabled."""
    rig.vmcs.write(F.GUEST_RFLAGS, 0x202)
    assert rig.run(b"\x90") is HostStop.HALTED
    assert rig.vmcs.read(F.GUEST_ACTIVITY_STATE) == ActivityState.HLT
    return rig


# -------------------------------------------------------------------------------------------- the activity state


def test_a_guest_that_sleeps_goes_on_sleeping(asleep: Rig) -> None:
    for _ in range(2):
        assert asleep.non_root.enter(asleep.cpu.count + 10) is HostStop.HALTED
    assert (asleep.cpu.count, asleep.rip) == (2, CODE + 2)


def test_a_vmm_wakes_it_by_the_field(asleep: Rig) -> None:
    asleep.write(CODE + 2, b"\x90\x90\xf4")
    asleep.vmcs.write(F.GUEST_ACTIVITY_STATE, ActivityState.ACTIVE)
    assert asleep.non_root.enter(asleep.cpu.count + 10) is HostStop.HALTED
    assert asleep.rip == CODE + 5


def test_a_vmm_puts_it_to_sleep_by_the_field(rig: Rig) -> None:
    rig.vmcs.write(F.GUEST_ACTIVITY_STATE, ActivityState.HLT)
    assert rig.non_root.enter(10) is HostStop.HALTED
    assert rig.cpu.count == 0


def test_an_injected_interrupt_wakes_it(asleep: Rig) -> None:
    asleep.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, 1 << 31 | 0x40)
    assert asleep.non_root.enter(asleep.cpu.count + 10) is HostStop.HALTED
    assert asleep.handler == 0x40


def test_an_interrupt_of_the_pc_that_is_the_guest_s_wakes_it(asleep: Rig) -> None:
    assert asleep.non_root.external_interrupt(0x41) is None
    assert asleep.non_root.enter(asleep.cpu.count + 10) is HostStop.HALTED
    assert asleep.handler == 0x41


def test_an_nmi_of_the_pc_that_is_the_guest_s_wakes_it(asleep: Rig) -> None:
    asleep.cpu.raise_nmi()
    assert asleep.non_root.enter(asleep.cpu.count + 10) is HostStop.HALTED
    assert asleep.handler == 2


def test_an_interrupt_that_exits_does_not(asleep: Rig) -> None:
    asleep.vmcs.write(F.PIN_BASED_CONTROLS, PIN_DEFAULT | 1)
    assert asleep.non_root.external_interrupt(0x41) is ExitReason.EXTERNAL_INTERRUPT
    assert asleep.non_root.enter(asleep.cpu.count + 10) is HostStop.HALTED
    assert asleep.rip == CODE + 2


def test_its_window_is_open_all_the_same(asleep: Rig) -> None:
    asleep.primary(INTERRUPT_WINDOW)
    assert asleep.non_root.enter(asleep.cpu.count + 10) is ExitReason.INTERRUPT_WINDOW


def test_the_timer_expires_in_its_sleep(rig: Rig) -> None:
    rig.vmcs.write(F.PIN_BASED_CONTROLS, PIN_DEFAULT | TIMER)
    rig.vmcs.write(F.PREEMPTION_TIMER_VALUE, 0)
    rig.vmcs.write(F.GUEST_ACTIVITY_STATE, ActivityState.HLT)
    assert rig.non_root.enter(10) is ExitReason.PREEMPTION_TIMER_EXPIRED


# -------------------------------------------------------------------------------------------- what is pending


def test_an_interrupt_of_the_guest_s_own_waits_for_if(rig: Rig) -> None:
    """CLI, four NOPs, STI and one more instruction."""
    rig.non_root.external_interrupt(0x41)
    assert rig.run(b"\x90" * 4 + b"\xfb\x90\x90") is HostStop.HALTED
    assert rig.handler == 0x41
    assert rig.cpu.count == 4 + 2 + 1


@pytest.mark.parametrize(
    ("pending", "handler", "dr6"),
    [
        (BS, DB, 0x4FF0),
        (ENABLED_BREAKPOINT | 2, DB, 0x0FF2),
        (ENABLED_BREAKPOINT | BS | 5, DB, 0x4FF5),
        (3, None, 0x0FF0),  # met, and not enabled
    ],
)
def test_pending_debug_exceptions_come_first(rig: Rig, pending: int, handler: int | None, dr6: int) -> None:
    """§25.4.2, §27.7.3."""
    rig.vmcs.write(F.GUEST_PENDING_DEBUG_EXCEPTIONS, pending)
    assert rig.run(b"\x90") is HostStop.HALTED
    assert rig.handler == handler
    assert rig.cpu.state.debug_register(6) & 0xFFFF == dr6


def test_they_exit_by_the_exception_bitmap(rig: Rig) -> None:
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << DB)
    rig.vmcs.write(F.GUEST_PENDING_DEBUG_EXCEPTIONS, BS)
    assert rig.run(b"\x90") is ExitReason.EXCEPTION_OR_NMI
    assert rig.qualification == BS
    assert rig.cpu.count == 0


def test_a_vmm_that_emulates_behind_mov_ss_finds_the_held_back_trap(rig: Rig) -> None:
    """MOV SS with TF set, then CPUID: the exit's field has BS, and with it the VMM gives the guest its trap."""
    rig.register(GeneralRegister.RAX, 0x10)
    rig.vmcs.write(F.GUEST_RFLAGS, 0x102)
    assert rig.run(b"\x8e\xd0\x0f\xa2\x90") is ExitReason.CPUID
    assert rig.vmcs.read(F.GUEST_PENDING_DEBUG_EXCEPTIONS) == BS
    rig.vmcs.write(F.GUEST_RIP, rig.rip + rig.length)
    rig.vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, 0)
    rig.vmcs.write(F.GUEST_PENDING_DEBUG_EXCEPTIONS, BS)
    assert rig.non_root.enter(rig.cpu.count + 10) is HostStop.HALTED
    assert rig.handler == DB
    assert int.from_bytes(rig.read(rig.register(GeneralRegister.RSP), 4), "little") == CODE + 4


def test_an_event_that_is_injected_takes_their_place(rig: Rig) -> None:
    rig.vmcs.write(F.GUEST_PENDING_DEBUG_EXCEPTIONS, BS)
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, 1 << 31 | 3 << 8 | 6)
    assert rig.run(b"\x90") is HostStop.HALTED
    assert rig.handler == 6
