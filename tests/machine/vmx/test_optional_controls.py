"""Controls that came later: TPR shadow, PAUSE-loop exiting, TSC scaling, VM functions, VPIDs (SDM Vol. 3C)."""

from __future__ import annotations

import struct

import pytest

from simvirt.machine.vmx.non_root import HostStop
from simvirt.vmm.ept import ExtendedPageTables, TablePages
from simvirt.x86.addresses import Gpa, Hpa
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import ExitReason
from tests.support.vmx_rig import CODE, DATA, EPT_PAGES, RAM, F, Rig, long_mode

VIRTUAL_APIC, EPTP_LIST = 0x8_0000, 0x8_1000
TPR_SHADOW = 21
PAUSE_LOOP, VM_FUNCTIONS, TSC_SCALING, VPID = 10, 13, 25, 5
READ_CR8 = b"\x44\x0f\x20\xc3"  # mov rbx, cr8
WRITE_CR8 = b"\x44\x0f\x22\xc0"  # mov cr8, rax


@pytest.fixture
def rig() -> Rig:
    return Rig()


# -------------------------------------------------------------------------------------------- TPR shadow


@pytest.fixture
def shadowed(rig: Rig) -> Rig:
    long_mode(rig)
    rig.primary(TPR_SHADOW)
    rig.vmcs.write(F.VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC)
    return rig


def test_cr8_reads_the_virtual_task_priority(shadowed: Rig) -> None:
    shadowed.memory.view[VIRTUAL_APIC + 0x80] = 0x57
    assert shadowed.run(READ_CR8) is HostStop.HALTED
    assert shadowed.register(GeneralRegister.RBX) == 5


def test_cr8_writes_it_and_clears_the_subclass(shadowed: Rig) -> None:
    shadowed.memory.view[VIRTUAL_APIC + 0x80] = 0xFF
    shadowed.register(GeneralRegister.RAX, 6)
    assert shadowed.run(WRITE_CR8) is HostStop.HALTED
    assert shadowed.memory.view[VIRTUAL_APIC + 0x80] == 0x60


def test_a_write_below_the_threshold_exits_behind_the_instruction(shadowed: Rig) -> None:
    """A trap-like VM exit (§30.1.2, §30.3)."""
    shadowed.vmcs.write(F.TPR_THRESHOLD, 7)
    shadowed.memory.view[VIRTUAL_APIC + 0x80] = 0x70
    shadowed.register(GeneralRegister.RAX, 7)
    assert shadowed.run(WRITE_CR8) is HostStop.HALTED
    shadowed.register(GeneralRegister.RAX, 6)
    assert shadowed.run(WRITE_CR8) is ExitReason.TPR_BELOW_THRESHOLD
    assert shadowed.rip == CODE + 4
    assert shadowed.memory.view[VIRTUAL_APIC + 0x80] == 0x60


def test_a_value_above_fifteen_is_general_protection(shadowed: Rig) -> None:
    shadowed.register(GeneralRegister.RAX, 16)
    assert shadowed.run(WRITE_CR8) is ExitReason.TRIPLE_FAULT  # this rig's IDT is a 32-bit one


def test_cr8_load_exiting_comes_before_the_shadow(shadowed: Rig) -> None:
    shadowed.primary(19)
    assert shadowed.run(WRITE_CR8) is ExitReason.CR_ACCESS


# -------------------------------------------------------------------------------------------- PAUSE-loop exiting


def pause_loop(rig: Rig, gap: int, window: int) -> ExitReason | HostStop:
    """10,000 times PAUSE, DEC, JNZ."""
    rig.vmcs.write(F.PLE_GAP, gap)
    rig.vmcs.write(F.PLE_WINDOW, window)
    return rig.run(b"\xb9\x10\x27\0\0\xf3\x90\x49\x75\xfb", limit=100_000)


def test_a_loop_longer_than_the_window_exits(rig: Rig) -> None:
    rig.secondary(PAUSE_LOOP)
    assert pause_loop(rig, 10, 3000) is ExitReason.PAUSE
    assert 3000 < rig.cpu.count < 3010


def test_pauses_farther_apart_than_the_gap_are_no_loop(rig: Rig) -> None:
    rig.secondary(PAUSE_LOOP)
    assert pause_loop(rig, 2, 3000) is HostStop.HALTED


def test_without_the_control_no_loop_exits(rig: Rig) -> None:
    assert pause_loop(rig, 10, 3000) is HostStop.HALTED


def test_at_cpl_3_no_loop_exits(rig: Rig) -> None:
    """The fault at the end is the HLT, which is privileged."""
    rig.secondary(PAUSE_LOOP)
    rig.user_mode()
    assert pause_loop(rig, 10, 3000) is HostStop.HALTED
    assert rig.handler == 13


# -------------------------------------------------------------------------------------------- TSC scaling


def test_scaling_comes_before_the_offset(rig: Rig) -> None:
    """§26.3: the product's bits 111:48, plus the offset."""
    rig.primary(3)
    rig.secondary(TSC_SCALING)
    rig.vmcs.write(F.TSC_MULTIPLIER, 5 << 47)
    rig.vmcs.write(F.TSC_OFFSET, 1000)
    assert rig.run(b"\x90" * 8 + b"\x0f\x31") is HostStop.HALTED
    assert rig.register(GeneralRegister.RAX) == 8 * 5 // 2 + 1000


def test_scaling_without_offsetting_does_nothing(rig: Rig) -> None:
    rig.secondary(TSC_SCALING)
    rig.vmcs.write(F.TSC_MULTIPLIER, 5 << 47)
    assert rig.run(b"\x90" * 8 + b"\x0f\x31") is HostStop.HALTED
    assert rig.register(GeneralRegister.RAX) == 8


# -------------------------------------------------------------------------------------------- VM functions

VMFUNC = b"\x0f\x01\xd4"


def other_ept(rig: Rig) -> int:
    """A second EPT, in which DATA is another page of host memory."""
    pages = TablePages(range(EPT_PAGES + 0x4_0000, RAM, 0x1000))
    other = ExtendedPageTables(rig.memory.view, pages)
    other.map(Gpa(0), RAM, 0x10_0000)
    other.map(Gpa(DATA), Hpa(0x9_0000), 0x1000)
    rig.memory.view[0x9_0000:0x9_0004] = b"\x22\0\0\0"
    rig.write(DATA, b"\x11\0\0\0")
    return other.pointer.encode()


def switch(rig: Rig, index: int, function: int = 0) -> ExitReason | HostStop:
    rig.register(GeneralRegister.RAX, function)
    rig.register(GeneralRegister.RCX, index)
    return rig.run(VMFUNC + b"\x8b\x1d" + DATA.to_bytes(4, "little"))


@pytest.fixture
def switching(rig: Rig) -> Rig:
    rig.secondary(VM_FUNCTIONS)
    rig.vmcs.write(F.VM_FUNCTION_CONTROLS, 1)
    rig.vmcs.write(F.EPTP_LIST_ADDRESS, EPTP_LIST)
    rig.memory.view[EPTP_LIST : EPTP_LIST + 24] = struct.pack("<3Q", rig.ept.pointer.encode(), other_ept(rig), 1)
    return rig


def test_the_guest_switches_its_ept_without_an_exit(switching: Rig) -> None:
    assert switch(switching, 0) is HostStop.HALTED
    assert switching.register(GeneralRegister.RBX) == 0x11
    assert switch(switching, 1) is HostStop.HALTED
    assert switching.register(GeneralRegister.RBX) == 0x22
    assert switch(switching, 0) is HostStop.HALTED
    assert switching.register(GeneralRegister.RBX) == 0x11


@pytest.mark.parametrize(("index", "function"), [(2, 0), (512, 0), (0, 1), (0, 64)])
def test_what_cannot_be_done_exits(switching: Rig, index: int, function: int) -> None:
    """A pointer that VM entry would refuse, an index beyond the list, a function that is not enabled."""
    assert switch(switching, index, function) is ExitReason.VMFUNC
    assert switching.length == 3


def test_without_the_control_vmfunc_is_undefined(rig: Rig) -> None:
    assert switch(rig, 0) is HostStop.HALTED
    assert rig.handler == 6


# -------------------------------------------------------------------------------------------- VPIDs


def test_a_guest_with_a_vpid_runs(rig: Rig) -> None:
    rig.secondary(VPID)
    rig.vmcs.write(F.VIRTUAL_PROCESSOR_ID, 1)
    assert rig.run(b"\x90") is HostStop.HALTED
