"""Shadow tables by themselves: what they show of the guest's, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simvirt.vmm.shadow_descriptors import LDT_SELECTOR, TASK_SELECTOR
from simvirt.x86.addresses import Gpa, Gva
from simvirt.x86.segments import Descriptor, SystemDescriptorType
from tests.support import tables as t
from tests.support.twins import (
    CS0,
    CS0_CONFORMING,
    CS1,
    CS3,
    DESCRIPTORS,
    DS0,
    DS1,
    DS3,
    GATE_INNER,
    GDT,
    GDT_ENTRIES,
    L_DATA,
    LAST,
    LDT,
    LDT_,
    TASK,
    VMM,
    Twins,
    start,
)

SHADOW_GDT, SHADOW_LDT = 0x60_0000, 0x61_0000
"""Host addresses."""


def shadow(twins: Twins, selector: int) -> Descriptor:
    base = SHADOW_LDT if selector & 4 else SHADOW_GDT
    at = base + (selector & 0xFFF8)
    return Descriptor.from_bytes(bytes(twins.virtual.machine.memory.view[at : at + 8]))


@pytest.fixture
def begun(twins: Twins) -> Twins:
    twins.begin(b"\xf4", start(ds=DS3))
    return twins


@pytest.mark.parametrize("selector", sorted(DESCRIPTORS))
def test_an_entry_is_the_guest_s_but_for_present_and_dpl(begun: Twins, selector: int) -> None:
    original, found = Descriptor.from_bytes(DESCRIPTORS[selector]), shadow(begun, selector)
    in_use = selector in (CS0, DS0, DS3)
    assert found.present is in_use
    assert found.dpl == (original.dpl or 1)
    kind = original.type_field | in_use  # what is in use has its accessed flag set
    assert replace(found, present=original.present, dpl=original.dpl) == replace(original, type_field=kind)


def test_behind_the_limit_there_is_nothing_but_the_vmm_s_own(begun: Twins) -> None:
    view = begun.virtual.machine.memory.view
    assert not any(view[SHADOW_GDT + LAST : SHADOW_GDT + LDT_SELECTOR])
    assert shadow(begun, TASK_SELECTOR).system_type is SystemDescriptorType.BUSY_TSS_32
    assert shadow(begun, LDT_SELECTOR).system_type is SystemDescriptorType.LDT
    assert shadow(begun, TASK_SELECTOR).dpl == 0


def test_code_for_ring_3_is_never_shown(begun: Twins) -> None:
    """So that every transfer to user code faults, and its IF can be followed; conforming code is entered there too."""
    for selector in (CS3, CS0_CONFORMING, CS1, DS1, GATE_INNER, TASK, LDT_):
        begun.virtual_cpu.shadow.install(selector)
        assert not shadow(begun, selector).present


def test_what_is_shown_hides_again_when_the_guest_s_changes(begun: Twins) -> None:
    cpu = begun.virtual_cpu
    cpu.shadow.install(0x60)
    assert shadow(begun, 0x60).present
    cpu.memory.write(GDT + 0x60, t.segment(t.DATA_R0))
    assert not shadow(begun, 0x60).present
    assert shadow(begun, DS0).present


def test_a_write_of_the_same_bytes_changes_nothing(begun: Twins) -> None:
    cpu = begun.virtual_cpu
    cpu.memory.write(GDT + DS0, cpu.memory.read(GDT + DS0, 8))
    assert shadow(begun, DS0).present


@pytest.mark.parametrize("limit", range(0x10, 0x18))
def test_an_entry_that_the_limit_cuts_is_not_there(begun: Twins, limit: int) -> None:
    state = start()
    begun.begin(b"\xf4", replace(state, gdtr=replace(state.gdtr, limit=limit)))
    present = limit == 0x17
    assert (shadow(begun, DS0).type_field != 0) is present
    assert shadow(begun, CS0).type_field


def test_traced_pages_are_those_of_the_tables(begun: Twins) -> None:
    shadows = begun.virtual_cpu.shadow
    assert [page for page in range(0, 0x8_0000, 0x1000) if shadows.traces(Gpa(page + 5))] == [GDT, LDT]
    begun.begin(b"\xf4", start(ldt=0))
    assert [page for page in range(0, 0x8_0000, 0x1000) if shadows.traces(Gpa(page))] == [GDT]


def test_the_shadow_tables_lie_in_the_vmm_s_part(begun: Twins) -> None:
    shadows, real = begun.virtual_cpu.shadow, begun.virtual_cpu.guest_state.real
    assert shadows.holds(Gva(VMM))
    assert shadows.holds(Gva(VMM + 0x1_FFFF))
    assert not shadows.holds(Gva(VMM + 0x2_0000))
    assert not shadows.holds(Gva(VMM - 1))
    assert (real.gdtr.base, real.gdtr.limit) == (VMM, 0xFFFF)
    assert real.tr.selector == TASK_SELECTOR
    assert (real.ldtr.base, real.ldtr.limit) == (VMM + 0x1_0000, 0x3F)


def test_the_ldt_has_its_own_shadow(begun: Twins) -> None:
    assert not shadow(begun, L_DATA).present
    begun.virtual_cpu.shadow.install(L_DATA)
    assert shadow(begun, L_DATA).present
    assert shadow(begun, L_DATA).dpl == 1
    begun.begin(b"\xf4", start(ldt=0))
    assert shadow(begun, L_DATA).type_field == 0


def test_a_full_table_leaves_the_vmm_its_two_entries(begun: Twins) -> None:
    begun.write(0x5_0000, DESCRIPTORS[DS3] * 0x2000)
    state = start()
    begun.begin(b"\xf4", replace(state, gdtr=replace(state.gdtr, base=0x5_0000, limit=0xFFFF)))
    assert shadow(begun, TASK_SELECTOR).system_type is SystemDescriptorType.BUSY_TSS_32
    assert shadow(begun, LDT_SELECTOR - 8).is_data
    begun.virtual_cpu.shadow.install(TASK_SELECTOR)
    assert shadow(begun, TASK_SELECTOR).system_type is SystemDescriptorType.BUSY_TSS_32
    assert GDT_ENTRIES < 0x2000
