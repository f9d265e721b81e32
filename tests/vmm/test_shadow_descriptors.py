"""Shadow tables by themselves: what they show of the guest's, and when."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import pytest

from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.vmm.shadow_descriptors import LDT_SELECTOR, TASK_SELECTOR
from simvirt.x86.addresses import Gpa, Gva
from simvirt.x86.segments import Descriptor, SystemDescriptorType
from tests.support import tables as t
from tests.support.assembler import d32
from tests.support.code import code
from tests.support.twins import (
    CODE,
    CS0,
    CS0_CONFORMING,
    CS1,
    CS3,
    DATA,
    DESCRIPTORS,
    DS0,
    DS1,
    DS3,
    GATE_INNER,
    GDT,
    GDT_ENTRIES,
    HANDLERS,
    L_DATA,
    LAST,
    LDT,
    LDT_,
    TASK,
    VMM,
    Twins,
    start,
)
from tests.vmm.shadow_paging.test_shadow_mmu import paging_on, with_tables

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


# ---------------------------------------------------------------------------------------------- released pages

WRITE, USE, LOAD = TrapReason.DESCRIPTOR_TABLE_WRITE, TrapReason.DESCRIPTOR_TABLE_USE, TrapReason.DESCRIPTOR_LOAD
BESIDE = GDT + 0x900
"""On the page of the GDT, behind its end."""
MANY_PUSHES = b"\xb9" + d32(50) + b"\x50\xe2\xfd"
RELOAD_DS = b"\x8c\xd8\x8e\xd8"
"""MOV EAX, DS; MOV DS, EAX: no trap while its descriptor is shown."""


def table_exits(twins: Twins) -> tuple[int, int, int]:
    counts = twins.virtual.log.counts
    return counts[WRITE], counts[USE], counts[LOAD]


def test_a_stack_on_the_page_of_the_gdt_costs_one_exit(twins: Twins) -> None:
    """Not one for each store: the page is traced again when a descriptor is used."""
    twins.run(MANY_PUSHES + b"\xf4", start(esp=BESIDE), steps=200)
    assert table_exits(twins) == (1, 0, 0)
    twins.renew()
    twins.run(2 * (MANY_PUSHES + RELOAD_DS) + b"\xf4", start(esp=BESIDE), steps=300)
    assert table_exits(twins) == (2, 2, 0)


def test_so_it_does_under_shadow_paging(twins: Twins) -> None:
    with_tables(twins)
    twins.run(code(paging_on()) + 2 * (MANY_PUSHES + RELOAD_DS) + b"\xf4", start(esp=BESIDE), steps=320)
    assert table_exits(twins) == (2, 2, 0)


def test_what_was_shown_stays_so_if_the_guest_s_has_not_changed(twins: Twins) -> None:
    there_and_back = b"\x80\x35" + d32(GDT + DS0) + b"\x11"  # XOR byte, 11H: the limit
    twins.run(2 * there_and_back + RELOAD_DS + b"\xf4")
    assert table_exits(twins) == (1, 1, 0)
    twins.renew()
    twins.run(there_and_back + RELOAD_DS + b"\xf4")
    assert table_exits(twins) == (1, 1, 1)


@pytest.mark.parametrize("text", ["0f03c3", "0f00eb"])
def test_what_looks_at_descriptors_sees_the_last_write(twins: Twins, text: str) -> None:
    """LSL and VERW, which do not ask whether the descriptor is present."""
    raw = t.segment(t.READ_ONLY_R0 | 0x60, t.BYTES_32, 0x1234, 0x777)
    write = b"".join(b"\xc7\x05" + d32(GDT + (DS3 & ~7) + i) + raw[i : i + 4] for i in (0, 4))
    load = b"\xbb" + d32(DS3) + b"\x8e\xc3"
    look = bytes.fromhex(text)
    state = twins.run(load + look + write + look + b"\xf4")
    assert table_exits(twins)[:2] == (1, 1)
    assert text != "0f03c3" or state.general[0] == 0x777


def test_a_store_of_what_is_read_from_the_vmm_s_pages_ends(twins: Twins) -> None:
    """PUSH [shadow GDT] with the stack on the page of the GDT: both faults in one instruction, again and again."""
    twins.begin(b"\x50\xff\x35" + d32(VMM + CS0) + b"\xf4", start(esp=BESIDE))
    twins.virtual.machine.run_to(2)
    assert twins.virtual.machine.count == 2
    assert twins.virtual.machine.read_physical(Gpa(BESIDE - 8), 4) == d32(0xFFFF)


@pytest.mark.parametrize("call", [b"\x9a" + d32(HANDLERS) + b"\x08\0", b"\xff\x1d" + d32(DATA)])
def test_a_far_call_that_pushes_onto_the_page_of_the_gdt_ends(twins: Twins, call: bytes) -> None:
    """It uses a descriptor and writes to the page of the table, in one instruction."""
    twins.write(DATA, d32(HANDLERS) + b"\x08\0")
    twins.begin(b"\x50" + call, start(esp=BESIDE))
    twins.virtual.machine.run_to(2)
    assert twins.virtual.machine.processor.guest_state().rip == HANDLERS
    assert twins.virtual.machine.read_physical(Gpa(BESIDE - 12), 4) == d32(CODE + 1 + len(call))


@pytest.mark.parametrize("paging", [False, True])
def test_a_machine_that_is_saved_while_its_tables_are_released_goes_on_as_before(twins: Twins, paging: bool) -> None:
    with_tables(twins)
    toggle = b"\x80\x35" + d32(GDT + DS0) + b"\x11"
    program = (
        (code(paging_on()) if paging else b"")
        + b"\xb8" + d32(DS3) + b"\x8e\xc0\xb8" + d32(0x60) + b"\x8e\xe0"
        + toggle + b"\x80\x35" + d32(GDT + 0x60) + b"\x11\x50"
        + toggle + b"\x8c\xd8\x8e\xd8\xb8" + d32(0x60) + b"\x8e\xe0\x8e\xc0\xf4"
    )  # fmt: skip
    end = 40
    begin = start(esp=BESIDE)
    assert twins.compare(program, begin, steps=end) is None
    twins.begin(program, begin)
    machine, log = twins.virtual.machine, twins.virtual.log
    records: list[tuple[int, Enum]] = []
    log.listener = lambda record: records.append((record.instruction, record.reason))
    saved = [machine.save()]
    while machine.outcome is None and not machine.halted:
        machine.run_to(machine.count + 1)
        saved.append(machine.save())
    whole = list(records)
    assert {WRITE, USE, LOAD} <= {reason for _, reason in whole}
    for state in saved:
        machine.restore(state)
        assert machine.save() == state
        del records[:]
        machine.run_to(saved[-1].count)
        assert records == [record for record in whole if record[0] >= state.count]
        assert machine.save() == saved[-1]
