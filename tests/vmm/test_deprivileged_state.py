"""The VM map f and its inverse, component by component."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.errors import UnsupportedGuestError
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.platforms import StateOffsets
from simvirt.machine.state import Segment
from simvirt.vmm.deprivileged_state import DeprivilegedState
from simvirt.x86.registers import Ring, SegmentRegister
from tests.support.twins import CODE, CS0, CS0_CONFORMING, CS3, DS0, DS3, DS16, Twins, start

_CS, _SS, _DS = SegmentRegister.CS, SegmentRegister.SS, SegmentRegister.DS


@pytest.fixture
def state(twins: Twins) -> DeprivilegedState:
    twins.begin(b"\xf4")
    return twins.virtual_cpu.guest_state


@pytest.mark.parametrize("cs", [CS0, CS3, CS0_CONFORMING | 3])
@pytest.mark.parametrize("ds", [DS0, DS3, DS16, 0, 3])
@pytest.mark.parametrize("eflags", [2, 0x202, 0x3002, 0x24_4DD7])
def test_f_and_its_inverse_are_one_to_one(twins: Twins, cs: int, ds: int, eflags: int) -> None:
    """A state that is put in comes out as it was: Popek and Goldberg's f is a one-one map (1974 §4)."""
    before = start(cs=cs, ds=ds, eflags=eflags, ss=DS3 if cs & 3 else DS0)
    twins.begin(b"\xf4", before)
    after = twins.virtual.machine.processor.guest_state()
    assert before.differences(replace(after, floating_point=b"")) == []


def test_the_kernel_is_really_in_ring_1(state: DeprivilegedState) -> None:
    real = state.real
    assert (state.cpl, real.cpl) == (Ring.RING0, Ring.RING1)
    assert [(state.selector(r), real.selector(r)) for r in (_CS, _SS, _DS)] == [(8, 9), (0x10, 0x11), (0x10, 0x10)]
    assert [(state.segment(r).dpl, real.segment(r).dpl) for r in (_CS, _SS, _DS)] == [(0, 1)] * 3


def test_the_user_is_really_in_ring_3(twins: Twins) -> None:
    twins.begin(b"\xf4", start(cs=CS3))
    state = twins.virtual_cpu.guest_state
    assert (state.cpl, state.real.cpl) == (Ring.RING3, Ring.RING3)
    assert [(s.selector(_CS), s.segment(_CS).dpl) for s in (state, state.real)] == [(CS3, 3)] * 2


@given(value=st.integers(0, 0x3F_7FD5))
def test_if_and_iopl_are_virtual(built_twins: Twins, value: int) -> None:
    state = built_twins.virtual_cpu.guest_state
    wanted = value & ~0x2_0000 | 2
    state.eflags = wanted
    assert state.eflags == wanted
    assert state.real.eflags == wanted & ~0x3000 | 0x200
    state.interrupt_flag = not wanted & 0x200
    assert state.eflags == wanted ^ 0x200
    assert state.real.eflags & 0x200


def test_virtual_8086_mode_cannot_be_put_in(state: DeprivilegedState) -> None:
    with pytest.raises(UnsupportedGuestError, match="virtual-8086"):
        state.eflags = 0x2_0002


@pytest.mark.parametrize("value", [0x11, 0x1F, 0x3F, 0x6000_0011, 0x5_0033])
def test_cr0_is_virtual(state: DeprivilegedState, value: int) -> None:
    """PE, MP, ET, WP and PG are the VMM's, EM, TS, NE and AM the guest's."""
    state.set_control_register(0, value)
    assert state.cr0 == value
    assert state.real.cr0 == 0x8001_0013 | value & 0x4_002C


@pytest.mark.parametrize(("value", "real"), [(0, 0), (0x7FF, 0x70C), (0x30_0A50, 0xA00)])
def test_cr4_is_virtual(state: DeprivilegedState, value: int, real: int) -> None:
    """TSD, DE, PCE, OSFXSR, OSXMMEXCPT and UMIP work on the real processor, what concerns paging does not."""
    state.set_control_register(4, value)
    assert (state.cr4, state.real.cr4) == (value, real | value & 0x100)


def test_cr2_and_cr3_are_the_guest_s_alone(state: DeprivilegedState) -> None:
    before = state.real.cr3
    state.set_control_register(2, 0x1234_5678)
    state.set_control_register(3, 0xABCD_E000)
    assert (state.cr2, state.cr3, state.real.cr3) == (0x1234_5678, 0xABCD_E000, before)


def test_table_registers_are_virtual(state: DeprivilegedState, twins: Twins) -> None:
    expected = start()
    found = twins.virtual.machine.processor.guest_state()
    assert (found.gdtr, found.idtr, found.ldtr, found.tr) == (
        expected.gdtr, expected.idtr, expected.ldtr, expected.tr,
    )  # fmt: skip
    assert state.real.gdtr.base >= 0xFFC0_0000


def test_null_segments_stay_null(state: DeprivilegedState) -> None:
    for selector in range(4):
        state.set_segment(SegmentRegister.FS, Segment(selector, 0, 0, 0))
        assert state.real.segment(SegmentRegister.FS) == Segment(selector, 0, 0, 0)
    state.set_segment(_SS, Segment(0, 0, 0, 0))
    assert state.real.selector(_SS) == 0


def test_the_x87_unit_s_selectors_are_mapped(twins: Twins) -> None:
    """FCS is the real CS after an x87 instruction; the guest's view shows its own."""
    twins.run(b"\xd9\xe8\xdd\x1d\0\0\x02\0\x36\xdd\x1c\x24\xf4", start(rip=CODE))
    state = twins.virtual_cpu.guest_state
    at = StateOffsets().fpcs
    assert bytes(state.image[at : at + 4]) == b"\x09\0\x11\0"
    again = ArchitecturalState.of(state)
    again.put(state)
    assert bytes(state.image[at : at + 4]) == b"\x09\0\x11\0"
