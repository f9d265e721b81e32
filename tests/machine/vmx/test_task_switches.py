"""Task switches always exit (SDM Vol. 3C §26.2, §26.4.2)."""

from __future__ import annotations

import struct

import pytest

from simvirt.machine.vmx.non_root import NonRootProcessor
from simvirt.machine.vmx.vmcs import Vmcs
from simvirt.x86.vmx import ExitReason, TaskSwitch, TaskSwitchSource
from tests.support import tables as t
from tests.support.vmx_rig import CODE, DATA, GDT, IDT, TSS, F, Rig

OTHER, SELECTOR, GATE = 0xC000, 0x30, 0x38


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.write(GDT + SELECTOR, t.segment(t.TSS32, 0, OTHER, 0x67))
    rig.write(GDT + GATE, t.gate(t.TASK_GATE, SELECTOR, 0))
    rig.vmcs.write(F.GUEST_GDTR_LIMIT, 0x3F)
    rig.write(OTHER + 32, struct.pack("<II", DATA, 2))
    return rig


@pytest.mark.parametrize("selector", [SELECTOR, GATE])
@pytest.mark.parametrize(("opcode", "source"), [(0xEA, TaskSwitchSource.JMP), (0x9A, TaskSwitchSource.CALL)])
def test_jump_and_call(rig: Rig, opcode: int, selector: int, source: TaskSwitchSource) -> None:
    before = rig.read(GDT, 0x40), rig.read(TSS, 0x68), rig.read(OTHER, 0x68)
    code = bytes([opcode]) + bytes(4) + struct.pack("<H", selector)
    assert rig.run(code) is ExitReason.TASK_SWITCH
    assert TaskSwitch.decode(rig.qualification) == TaskSwitch(SELECTOR, source)
    assert (rig.length, rig.rip) == (7, CODE)
    assert (rig.read(GDT, 0x40), rig.read(TSS, 0x68), rig.read(OTHER, 0x68)) == before, "nothing has changed"


def test_a_task_gate_in_the_idt(rig: Rig) -> None:
    rig.write(IDT + 8 * 0x40, t.gate(t.TASK_GATE, SELECTOR, 0))
    assert rig.run(b"\xcd\x40") is ExitReason.TASK_SWITCH
    assert TaskSwitch.decode(rig.qualification) == TaskSwitch(SELECTOR, TaskSwitchSource.TASK_GATE_IN_IDT)
    assert (rig.length, rig.rip) == (2, CODE)
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) == 1 << 31 | 4 << 8 | 0x40, "software interrupt 0x40"


def test_checks_come_first(rig: Rig) -> None:
    """A TSS that is not present is #NP of the guest, and no exit."""
    rig.write(GDT + SELECTOR, t.segment(t.TSS32 & 0x7F, 0, OTHER, 0x67))
    assert rig.run(b"\xea" + bytes(4) + struct.pack("<H", SELECTOR)) is not ExitReason.TASK_SWITCH
    assert rig.handler == 11


def test_the_exit_goes_to_the_vmcs_that_was_entered(rig: Rig) -> None:
    """Though another one has been on the processor meanwhile."""
    other = Vmcs()
    NonRootProcessor(rig.cpu, rig.bus, other)
    rig.vmcs.enter(rig.cpu)
    rig.vmcs.controls_changed = True  # as VMPTRLD of another one makes it
    assert rig.run(b"\xea" + bytes(4) + struct.pack("<H", SELECTOR)) is ExitReason.TASK_SWITCH
    assert rig.vmcs.read(F.EXIT_REASON) == ExitReason.TASK_SWITCH
    assert F.EXIT_REASON not in other.fields
