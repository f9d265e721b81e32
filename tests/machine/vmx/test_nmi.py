"""NMIs in non-root operation: exits, virtual NMIs and their window, blocking, what an IRET that exits says of it."""

from __future__ import annotations

import pytest

from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import ExitReason
from tests.support.vmx_rig import CODE, HANDLERS, HOLE, PIN_DEFAULT, STACK, F, Rig

NMI_EXITING, VIRTUAL_NMIS, NMI_WINDOW = 1 << 3, 1 << 5, 22
NMI = 1 << 31 | 2 << 8 | 2
BLOCKED = 1 << 3
MOV_SS = b"\x8e\xd0"  # mov ss, ax
IRET = b"\xcf"


@pytest.fixture
def rig() -> Rig:
    """NMIs exit, and are virtual."""
    rig = Rig()
    rig.vmcs.write(F.PIN_BASED_CONTROLS, PIN_DEFAULT | NMI_EXITING | VIRTUAL_NMIS)
    return rig


def frame(rig: Rig, eip: int, cs: int = 8) -> None:
    """What IRET pops."""
    rig.write(STACK - 12, b"".join(value.to_bytes(4, "little") for value in (eip, cs, 2)))
    rig.register(GeneralRegister.RSP, STACK - 12)


def test_an_exit_takes_the_nmi(rig: Rig) -> None:
    rig.cpu.raise_nmi()
    assert rig.run(b"\x90") is ExitReason.EXCEPTION_OR_NMI
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == NMI
    assert (rig.cpu.count, rig.rip) == (0, CODE)
    assert rig.run(b"\x90") is HostStop.HALTED


def test_virtual_blocking_holds_no_nmi_of_the_pc_back(rig: Rig) -> None:
    """§25.6.1: with virtual NMIs the bit is about virtual ones."""
    rig.vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, BLOCKED)
    rig.cpu.raise_nmi()
    assert rig.run(b"\x90") is ExitReason.EXCEPTION_OR_NMI
    assert rig.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == BLOCKED


def test_mov_ss_does(rig: Rig) -> None:
    rig.register(GeneralRegister.RAX, 0x10)
    rig.run(MOV_SS + b"\x90\x90", limit=1)
    rig.cpu.raise_nmi()
    assert rig.non_root.enter(100) is ExitReason.EXCEPTION_OR_NMI
    assert (rig.cpu.count, rig.rip) == (2, CODE + 3)


def test_an_nmi_of_the_pc_wakes_a_guest_from_hlt(rig: Rig) -> None:
    assert rig.run(b"\x90") is HostStop.HALTED
    rig.cpu.raise_nmi()
    assert rig.non_root.enter(100) is ExitReason.EXCEPTION_OR_NMI
    assert rig.vmcs.read(F.GUEST_ACTIVITY_STATE) == 1
    assert rig.non_root.enter(100) is HostStop.HALTED


def test_an_injected_nmi_blocks_until_iret(rig: Rig) -> None:
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, NMI)
    assert rig.run(b"\x90") is HostStop.HALTED
    assert rig.handler == 2
    assert rig.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == BLOCKED
    frame(rig, CODE + 1)
    assert rig.run(IRET) is HostStop.HALTED
    assert rig.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == 0


def test_the_window_opens_behind_the_iret(rig: Rig) -> None:
    rig.primary(NMI_WINDOW)
    rig.vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, BLOCKED)
    frame(rig, CODE + 4)
    assert rig.run(b"\x90" * 3 + IRET + b"\x90" * 3) is ExitReason.NMI_WINDOW
    assert (rig.cpu.count, rig.rip) == (4, CODE + 4)


def test_an_open_window_exits_before_the_first_instruction(rig: Rig) -> None:
    rig.primary(NMI_WINDOW)
    assert rig.run(b"\x90") is ExitReason.NMI_WINDOW
    assert rig.cpu.count == 0


def test_the_window_waits_for_mov_ss(rig: Rig) -> None:
    rig.primary(NMI_WINDOW)
    rig.register(GeneralRegister.RAX, 0x10)
    rig.vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, 2)
    assert rig.run(b"\x90" * 3) is ExitReason.NMI_WINDOW
    assert rig.cpu.count == 1


def test_the_window_wakes_a_guest_from_hlt(rig: Rig) -> None:
    rig.run(b"\x90")
    rig.primary(NMI_WINDOW)
    assert rig.non_root.enter(100) is ExitReason.NMI_WINDOW


@pytest.mark.parametrize("cs", [0x28, 0x10])
def test_an_exception_of_iret_that_exits_says_that_it_has_unblocked(rig: Rig, cs: int) -> None:
    """Bit 12 of the interruption information (§28.2.2): #GP for a CS that is none."""
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << 13)
    for state, unblocking in ((BLOCKED, 1 << 12), (0, 0)):
        rig.vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, state)
        frame(rig, CODE, cs)
        assert rig.run(IRET) is ExitReason.EXCEPTION_OR_NMI
        assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 1 << 31 | 1 << 11 | 3 << 8 | 13 | unblocking
        assert rig.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE) == 0


def test_an_ept_violation_of_iret_says_so_too(rig: Rig) -> None:
    """Bit 12 of the qualification (Table 28-7): the frame lies where the VM has no memory."""
    for state, unblocking in ((BLOCKED, 1 << 12), (0, 0)):
        rig.vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, state)
        rig.register(GeneralRegister.RSP, HOLE)
        assert rig.run(IRET) is ExitReason.EPT_VIOLATION
        assert rig.qualification & 1 << 12 == unblocking


def test_the_exit_of_a_later_instruction_does_not(rig: Rig) -> None:
    """The fault of IRET goes to the guest's handler, whose first instruction exits at the same count."""
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << 6)
    rig.write(HANDLERS + 13 * 16, b"\x0f\x0b")
    rig.vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, BLOCKED)
    frame(rig, CODE, 0x10)
    assert rig.run(IRET) is ExitReason.EXCEPTION_OR_NMI
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 1 << 31 | 3 << 8 | 6


def test_without_nmi_exiting_iret_and_blocking_are_the_processor_s(rig: Rig) -> None:
    rig.vmcs.write(F.PIN_BASED_CONTROLS, PIN_DEFAULT)
    rig.vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, BLOCKED)
    rig.cpu.raise_nmi()
    frame(rig, CODE + 2)
    rig.write(HANDLERS + 32, b"\xf4")
    assert rig.run(b"\x90" + IRET + b"\x90" * 2) is HostStop.HALTED
    assert rig.handler == 2
    assert rig.cpu.count == 3
