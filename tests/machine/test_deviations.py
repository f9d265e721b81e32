"""What this processor does otherwise than the manual says, and where no other file tests it: docs/deviations.md."""

from __future__ import annotations

import pytest

from simvirt.machine.memory import Region, RegionKind
from simvirt.machine.state import Segment
from simvirt.x86.addresses import Gpa, Hpa
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.code import le
from tests.support.paging import paged_pc
from tests.support.pc import CODE, CS, CS0, DATA, DS, EAX, EBX, ESP, SS, STACK, Pc, flat_pc, long_pc


def runs(pc: Pc, listing: str) -> bool:
    """Does the instruction complete?"""
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    return pc.state.rip == CODE + len(bytes.fromhex(listing.split(";", maxsplit=1)[0]))


# ------------------------------------------------------------------------------------------------ segmentation


@pytest.mark.parametrize(
    ("segment", "why"),
    [
        (Segment(0x10, 0, 0xFFF, 0x0040_9300), "beyond the limit: #GP(0)"),
        (Segment(0x10, 0, 0xFFFF_FFFF, 0x00CF_9700), "expand-down, below the limit: #GP(0)"),
        (Segment(0, 0, 0, 0), "null: #GP(0)"),
        (Segment(0x08, 0, 0xFFFF_FFFF, 0x00CF_9900), "execute-only: #GP(0)"),
    ],
)
def test_data_segments_are_not_checked_on_use(segment: Segment, why: str) -> None:
    pc = flat_pc()
    pc.state.set_segment(DS, segment)
    assert runs(pc, f"a1 {le(DATA)} ; mov eax, [DATA]"), why


def test_read_only_data_segments_can_be_written() -> None:
    pc = flat_pc()
    pc.state.set_segment(DS, Segment(0x10, 0, 0xFFFF_FFFF, 0x00CF_9100))
    assert runs(pc, f"a3 {le(DATA)} ; mov [DATA], eax")


def test_code_segments_can_be_written() -> None:
    pc = flat_pc()
    pc.state[EBX] = DATA
    assert runs(pc, "2e 89 03 ; mov cs:[ebx], eax")


def test_pushes_do_not_look_at_the_stack_limit() -> None:
    pc = flat_pc()
    pc.state.set_segment(SS, Segment(0x10, 0, 0xFFF, 0x0040_9300))
    assert runs(pc, "50 ; push eax")


def test_near_jumps_do_not_look_at_the_code_limit() -> None:
    pc = flat_pc()
    pc.state.set_segment(CS, Segment(CS0, 0, CODE + 0xFF, 0x0040_9B00))
    pc.write(CODE + 0x1000, b"\xf4")
    pc.load(f"e9 {le(0x1000 - 5)} ; jmp $+0x1000")
    pc.run()
    assert pc.state.rip == CODE + 0x1000


# ------------------------------------------------------------------------------------------------ others


def test_branch_to_a_non_canonical_address_faults_at_its_target() -> None:
    """The manual: the branch itself is #GP(0), RIP on it."""
    pc = long_pc()
    pc.state[EBX] = 0x8000_0000_0000
    pc.load("ff e3 ; jmp rbx")
    pc.run()
    assert (pc.vector, pc.stack(2, 8)) == (Vector.GP, [0, 0x8000_0000_0000])
    assert pc.cpu.count == 1


def test_string_input_into_device_memory_is_lost() -> None:
    """The manual: what arrives from the port goes to the device."""
    regions = [
        Region(Gpa(0), 8 << 20, RegionKind.RAM, Hpa(0), "RAM"),
        Region(Gpa(0x90_0000), 0x1000, RegionKind.MMIO, name="device"),
    ]
    pc = flat_pc(regions=regions)
    pc.state[7] = 0x90_0000
    pc.load("6c ; insb\nf4 ; hlt")
    pc.run()
    assert ("write", 0x90_0000, 1, 0x44) not in pc.bus.log


def test_stack_on_device_memory_loses_the_frame_of_an_interrupt() -> None:
    """The manual: the frame is written to the device."""
    pc = paged_pc()
    pc.state[ESP] = pc.state.rsp = STACK
    pc.write32(0x10_1000 + 4 * ((STACK - 1) >> 12), 0xC000_0000 | 7)
    pc.engine.flush_tlb()
    pc.cpu.deliver_external_interrupt(0x40)
    assert pc.vector == 0x40


def test_the_hidden_tss_type_stays_available() -> None:
    """The manual: LTR and a task switch leave the busy type in TR's hidden part; only memory shows it here."""
    pc = flat_pc()
    pc.set_descriptor(0x80, tables.segment(tables.TSS32, 0, 0x4_0000, 0x67))
    pc.state[EAX] = 0x80
    assert runs(pc, "0f 00 d8 ; ltr ax")
    assert pc.state.tr.flags & 0x200 == 0
