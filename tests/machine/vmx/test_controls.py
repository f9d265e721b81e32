"""For every control that is offered, a pair of guests that differ by it alone, and the exit that appears or vanishes.

Controls that make nothing exit have their own tests, which are named here; a control in neither list fails.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag

import pytest

from simvirt.machine.vmx.capabilities import THIS_PC
from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import (
    EntryControls,
    ExitControls,
    ExitReason,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)
from tests.support.vmx_rig import DATA, HOLE, F, Rig

P, S, R = PrimaryControls, SecondaryControls, ExitReason
Prepare = Callable[[Rig], None]

FIELDS: dict[type[IntFlag], VmcsField] = {
    PinControls: F.PIN_BASED_CONTROLS,
    PrimaryControls: F.PRIMARY_CONTROLS,
    SecondaryControls: F.SECONDARY_CONTROLS,
    ExitControls: F.EXIT_CONTROLS,
    EntryControls: F.ENTRY_CONTROLS,
}


def nothing(_rig: Rig) -> None:
    pass


def interrupts_off_then_on(rig: Rig) -> None:
    rig.cpu.state.eflags = 2


def bitmaps_of_ones(rig: Rig) -> None:
    for page in (0x1000, 0x2000):
        rig.memory.view[page : page + 0x1000] = b"\xff" * 0x1000


def sysenter_cs(rig: Rig) -> None:
    rig.register(GeneralRegister.RCX, 0x174)


def timer_of_two(rig: Rig) -> None:
    rig.vmcs.write(F.PREEMPTION_TIMER_VALUE, 2)


def short_window(rig: Rig) -> None:
    rig.vmcs.write(F.PLE_GAP, 100)
    rig.vmcs.write(F.PLE_WINDOW, 4)


MAKE_EXIT: list[tuple[IntFlag, Prepare, bytes, ExitReason]] = [
    (PinControls.ACTIVATE_PREEMPTION_TIMER, timer_of_two, b"\x90" * 90, R.PREEMPTION_TIMER_EXPIRED),
    (P.INTERRUPT_WINDOW_EXITING, interrupts_off_then_on, b"\xfb\x90\x90", R.INTERRUPT_WINDOW),
    (P.HLT_EXITING, nothing, b"\xf4", R.HLT),
    (P.INVLPG_EXITING, nothing, b"\x0f\x01\x38", R.INVLPG),
    (P.RDPMC_EXITING, nothing, b"\x0f\x33", R.RDPMC),
    (P.RDTSC_EXITING, nothing, b"\x0f\x31", R.RDTSC),
    (P.CR3_LOAD_EXITING, nothing, b"\x0f\x22\xd8", R.CR_ACCESS),
    (P.CR3_STORE_EXITING, nothing, b"\x0f\x20\xd8", R.CR_ACCESS),
    (P.MOV_DR_EXITING, nothing, b"\x0f\x21\xc0", R.MOV_DR),
    (P.UNCONDITIONAL_IO_EXITING, nothing, b"\xe6\x80", R.IO_INSTRUCTION),
    (P.USE_IO_BITMAPS, bitmaps_of_ones, b"\xe6\x80", R.IO_INSTRUCTION),
    (P.MONITOR_TRAP_FLAG, nothing, b"\x90\x90", R.MONITOR_TRAP_FLAG),
    (P.PAUSE_EXITING, nothing, b"\xf3\x90", R.PAUSE),
    (S.DESCRIPTOR_TABLE_EXITING, nothing, b"\x0f\x01\x05" + DATA.to_bytes(4, "little"), R.GDTR_IDTR_ACCESS),
    (S.WBINVD_EXITING, nothing, b"\x0f\x09", R.WBINVD),
    (S.PAUSE_LOOP_EXITING, short_window, b"\xf3\x90" * 8, R.PAUSE),
    (S.ENABLE_VM_FUNCTIONS, nothing, b"\x0f\x01\xd4", R.VMFUNC),
]
"""With the control this exits, without it does not."""

ONLY_IN_64_BIT_MODE = "test_optional_controls.py and test_exits.py: CR8 exists in 64-bit mode alone"
TESTED_ELSEWHERE: list[tuple[IntFlag, str]] = [
    (PinControls.EXTERNAL_INTERRUPT_EXITING, "test_transitions.py: interrupts of the PC"),
    (PinControls.NMI_EXITING, "no NMI reaches a guest otherwise yet"),
    (P.USE_TSC_OFFSETTING, "test_exits.py: the TSC offset"),
    (P.MWAIT_EXITING, "test_deviations.py: there is no MWAIT"),
    (P.MONITOR_EXITING, "test_deviations.py: there is no MONITOR"),
    (P.CR8_LOAD_EXITING, ONLY_IN_64_BIT_MODE),
    (P.CR8_STORE_EXITING, ONLY_IN_64_BIT_MODE),
    (P.USE_TPR_SHADOW, ONLY_IN_64_BIT_MODE),
    (P.USE_MSR_BITMAPS, "below: without bitmaps every RDMSR exits"),
    (P.ACTIVATE_SECONDARY_CONTROLS, "below: without it the secondary controls count for nothing"),
    (S.ENABLE_EPT, "test_ept.py, and below"),
    (S.ENABLE_RDTSCP, "below: without it RDTSCP is #UD"),
    (S.ENABLE_VPID, "test_optional_controls.py: nothing shows"),
    (S.UNRESTRICTED_GUEST, "test_entry_checks.py: without it CR0.PE and CR0.PG must be 1"),
    (S.USE_TSC_SCALING, "test_optional_controls.py: TSC scaling"),
    (ExitControls.SAVE_DEBUG_CONTROLS, "the debug registers stay in the processor"),
    (ExitControls.HOST_ADDRESS_SPACE_SIZE, "test_entry_checks.py: the host's state"),
    (ExitControls.ACKNOWLEDGE_INTERRUPT_ON_EXIT, "test_transitions.py"),
    (ExitControls.SAVE_IA32_PAT, "guest state stays in the processor"),
    (ExitControls.LOAD_IA32_PAT, "host state is not loaded: docs/deviations.md"),
    (ExitControls.SAVE_IA32_EFER, "guest state stays in the processor"),
    (ExitControls.LOAD_IA32_EFER, "host state is not loaded: docs/deviations.md"),
    (ExitControls.SAVE_PREEMPTION_TIMER, "test_transitions.py"),
    (EntryControls.LOAD_DEBUG_CONTROLS, "test_entry_checks.py: DR7"),
    (EntryControls.IA32E_MODE_GUEST, "test_entry_checks.py: IA32_EFER.LMA"),
    (EntryControls.LOAD_IA32_PAT, "test_entry_checks.py: PAT"),
    (EntryControls.LOAD_IA32_EFER, "guest state stays in the processor"),
]


def test_every_control_that_is_offered_is_tested() -> None:
    offered = {(flags, int(flag)) for flags, bits in THIS_PC.offered.items() for flag in flags if flag & bits}
    here = [(type(control), int(control)) for control, *_ in MAKE_EXIT]
    elsewhere = [(type(control), int(control)) for control, _ in TESTED_ELSEWHERE]
    assert sorted(here + elsewhere, key=str) == sorted(offered, key=str)


@pytest.mark.parametrize(
    ("control", "prepare", "code", "reason"), MAKE_EXIT, ids=[str(control.name) for control, *_ in MAKE_EXIT]
)
def test_the_exit_comes_with_the_control(control: IntFlag, prepare: Prepare, code: bytes, reason: ExitReason) -> None:
    for on, expected in ((True, reason), (False, HostStop.HALTED)):
        rig = Rig()
        field = FIELDS[type(control)]
        value = rig.vmcs.read(field)
        rig.vmcs.write(field, value | int(control) if on else value & ~int(control))
        prepare(rig)
        assert rig.run(code) is expected


def test_msr_bitmaps_let_pass_what_their_bits_do_not_name() -> None:
    for on, expected in ((True, HostStop.HALTED), (False, ExitReason.RDMSR)):
        rig = Rig()
        sysenter_cs(rig)
        if on:
            rig.primary(28)
        assert rig.run(b"\x0f\x32") is expected


def test_secondary_controls_count_only_when_activated() -> None:
    """A guest with paging on, for without the secondary controls it is not unrestricted, nor is there an EPT."""
    rig = Rig()
    rig.vmcs.write(F.SECONDARY_CONTROLS, 0x82 | int(S.WBINVD_EXITING))
    assert rig.run(b"\x0f\x09") is ExitReason.WBINVD
    rig.vmcs.write(F.PRIMARY_CONTROLS, rig.vmcs.read(F.PRIMARY_CONTROLS) & ~(1 << 31))
    assert rig.run(b"\x0f\x09") is ExitReason.ENTRY_FAILURE_GUEST_STATE


def test_rdtscp_needs_its_control() -> None:
    rig = Rig()
    assert rig.run(b"\x0f\x01\xf9") is HostStop.HALTED
    assert rig.handler == 6
    rig = Rig()
    rig.secondary(3)
    assert rig.run(b"\x0f\x01\xf9") is HostStop.HALTED
    assert rig.handler is None


def test_ept_decides_what_is_there() -> None:
    rig = Rig()
    assert rig.run(b"\xa1" + HOLE.to_bytes(4, "little")) is ExitReason.EPT_VIOLATION
