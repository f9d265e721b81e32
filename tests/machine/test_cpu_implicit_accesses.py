"""What the processor reads and writes by itself at CPL 3 is a supervisor-mode access (SDM Vol. 3A §4.6.1)."""

from __future__ import annotations

import pytest

from simvirt.machine.events import ExceptionRaised, LimitReached
from simvirt.machine.state import Segment
from simvirt.x86.addresses import Gva
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.code import le
from tests.support.paging import PRESENT, USER, WP, WRITABLE, paged_pc, protect
from tests.support.pc import (
    CODE,
    CS,
    CS0,
    CS3,
    CS3_64,
    DATA,
    DS,
    DS3,
    DS3_64,
    EAX,
    EBX,
    ES,
    ESP,
    FS,
    GDT,
    GS,
    INNER_STACK,
    LDT,
    LDT_SELECTOR,
    PAGE_TABLES,
    SPARE,
    SS,
    STACK,
    TSS,
    USER_STACK,
    Pc,
    long_pc,
)  # fmt: skip

SUPERVISOR_PAGES = (GDT, LDT, TSS, INNER_STACK - 0x1000, STACK - 0x1000)


def user_pc(*, cr0: int = WP) -> Pc:
    """Ring 3, with the processor's own tables on supervisor pages."""
    pc = paged_pc(cr0=cr0)
    for page in SUPERVISOR_PAGES:
        protect(pc, page, clear=USER)
    pc.user()
    return pc


@pytest.mark.parametrize(
    ("listing", "register"),
    [("8e c0 ; mov es, ax", ES), ("8e d8 ; mov ds, ax", DS), ("07 ; pop es", ES)],
)
def test_segment_load_reads_the_supervisor_only_gdt(listing: str, register: int) -> None:
    pc = user_pc()
    pc.state[EAX] = DS3
    pc.write32(USER_STACK, DS3)
    pc.state.set_segment(register, Segment(0, 0, 0, 0))
    pc.load(listing)
    assert isinstance(pc.event(1), LimitReached)
    assert pc.state.selector(register) == DS3
    assert pc.state.segment(register).limit == 0xFFFF_FFFF


def test_segment_load_sets_the_accessed_flag_on_a_supervisor_page() -> None:
    pc = user_pc()
    pc.set_descriptor(SPARE, tables.segment(tables.DATA_R3))
    pc.state[EAX] = SPARE | 3
    pc.load("8e c0 ; mov es, ax")
    assert isinstance(pc.event(1), LimitReached)
    assert pc.read(GDT + SPARE + 5, 1) == tables.DATA_R3 | 1


@pytest.mark.parametrize(
    ("listing", "result"),
    [
        ("0f 02 d8 ; lar ebx, eax", 0x00C0_F200),
        ("0f 03 d8 ; lsl ebx, eax", 0xFFFF_FFFF),
        ("0f 00 e0 ; verr ax", None),
        ("0f 00 e8 ; verw ax", None),
    ],
)
def test_segment_checks_read_the_supervisor_only_gdt(listing: str, result: int | None) -> None:
    pc = user_pc()
    pc.state[EAX] = DS3
    pc.load(listing)
    assert isinstance(pc.event(1), LimitReached)
    assert pc.state.eflags & 0x40, "ZF"
    if result is not None:
        assert pc.state[EBX] & ~0x000F_0000 == result & ~0x000F_0000  # LAR leaves bits 19:16 open


def test_the_page_is_closed_again_behind_the_segment_load() -> None:
    """A read by the program itself of the page that the processor has just read faults (with P and U/S)."""
    pc = user_pc()
    pc.state[EAX] = DS3
    pc.state[EBX] = GDT + DS3
    pc.load("""
        8e c0       ; mov es, ax
        8b 0b       ; mov ecx, [ebx]
    """)
    assert pc.event() == ExceptionRaised(Vector.PF, 5, Gva(GDT + DS3))
    assert (pc.state.rip, pc.cpu.count) == (CODE + 2, 1)


@pytest.mark.parametrize(
    "listing", ["8e 03 ; mov es, word ptr [ebx]", "0f 02 0b ; lar ecx, word ptr [ebx]", "c4 0b ; les ecx, [ebx]"]
)
def test_the_selector_itself_is_read_as_a_user(listing: str) -> None:
    """Only the descriptor is the processor's to read; the operand that names it is the program's, in the same page."""
    pc = user_pc()
    pc.write32(GDT + 0xF0, DS3)
    pc.state[EBX] = GDT + 0xF0
    pc.load(listing)
    assert pc.event() == ExceptionRaised(Vector.PF, 5, Gva(GDT + 0xF0))


@pytest.mark.parametrize("prefix", ["2e", "36", "3e", "26", "64", "65"])
@pytest.mark.parametrize(("code", "name"), [("8e 03", "mov es, [ebx]"), ("8e 13", "mov ss, [ebx]")])
def test_so_it_is_through_any_segment(prefix: str, code: str, name: str) -> None:
    """MOV ES and MOV SS with an operand that a prefix takes to a segment with a base, in a supervisor page."""
    pc = user_pc()
    pc.write32(GDT + 0xF0, DS3)
    base = 0x1000
    number = {"26": ES, "2e": CS, "36": SS, "3e": DS, "64": FS, "65": GS}[prefix]
    if number not in (CS, SS):
        pc.state.set_segment(number, Segment(DS3, base, 0xFFFF_FFFF, 0x00CF_F300))
    pc.state[EBX] = GDT + 0xF0 - (base if number not in (CS, SS) else 0)
    pc.state.refresh()
    pc.load(f"{prefix} {code} ; {name}")
    assert pc.event() == ExceptionRaised(Vector.PF, 5, Gva(GDT + 0xF0))
    assert (pc.state.rip, pc.cpu.count) == (CODE, 0)


@pytest.mark.parametrize("prefix", ["", "2e", "36", "3e", "26"])
@pytest.mark.parametrize("code", ["8e 03", "8e 13"], ids=["ES", "SS"])
def test_in_64_bit_mode_bases_do_not_hide_whose_access_it_is(prefix: str, code: str) -> None:
    """The engine adds the base that a prefix names; the operand is the program's all the same."""
    pc = long_pc()
    supervisor = 0x20_0000  # the second of the pages of 2 MiB
    pc.write64(PAGE_TABLES + 0x2008, supervisor | 0x83)
    pc.ring(3, CS3_64, DS3_64, 0x3_0000)
    pc.engine.flush_tlb()
    pc.state.set_segment(DS, Segment(DS3_64, 0x1000, 0xFFFF_FFFF, 0x00CF_F300))
    pc.state[EBX] = supervisor + 0x2000
    pc.state.refresh(cpl=3)
    pc.load(f"{prefix} {code} ; raw")
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code) == (Vector.PF, 5)


def test_pop_segment_reads_the_stack_as_a_user() -> None:
    pc = user_pc()
    pc.state[ESP] = STACK - 16
    pc.load("07 ; pop es")
    assert pc.event() == ExceptionRaised(Vector.PF, 5, Gva(STACK - 16))


@pytest.mark.parametrize(("flags", "error"), [(PRESENT, 0)])
def test_fault_on_an_absent_gdt_page_is_reported_as_a_supervisor_access(flags: int, error: int) -> None:
    """U/S is 0: "the access causing the fault was a supervisor-mode access" (§4.7)."""
    pc = user_pc()
    protect(pc, GDT, clear=flags)
    pc.state[EAX] = DS3
    pc.load("8e c0 ; mov es, ax")
    assert pc.event() == ExceptionRaised(Vector.PF, error, Gva(GDT + (DS3 & ~7)))


def test_accessed_flag_on_a_read_only_gdt_page_is_a_supervisor_write_fault() -> None:
    pc = user_pc()
    protect(pc, GDT, clear=WRITABLE)
    pc.set_descriptor(SPARE, tables.segment(tables.DATA_R3))
    pc.state[EAX] = SPARE | 3
    pc.load("8e c0 ; mov es, ax")
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code) == (Vector.PF, 3)
    assert event.cr2 is not None
    assert GDT + SPARE <= event.cr2 < GDT + SPARE + 8


def test_a_descriptor_with_its_accessed_flag_set_needs_no_write() -> None:
    pc = user_pc()
    protect(pc, GDT, clear=WRITABLE)
    pc.set_descriptor(SPARE, tables.segment(tables.DATA_R3 | 1))
    pc.state[EAX] = SPARE | 3
    pc.load("8e c0 ; mov es, ax")
    assert isinstance(pc.event(1), LimitReached)


def test_ldt_on_a_supervisor_page() -> None:
    pc = user_pc()
    pc.write(LDT + 8, tables.segment(tables.DATA_R3))
    pc.state.ldtr = Segment(LDT_SELECTOR, LDT, 0x3F, 0x8200)
    pc.state[EAX] = 8 | 4 | 3
    pc.load("8e c0 ; mov es, ax")
    assert isinstance(pc.event(1), LimitReached)
    assert pc.state.selector(ES) == 0x0F


def test_far_call_through_a_gate_uses_gdt_tss_and_the_inner_stack_as_supervisor() -> None:
    """Three supervisor pages in one instruction (SDM Vol. 3A §5.8.4, §5.8.5)."""
    pc = user_pc()
    pc.set_descriptor(SPARE, tables.gate(tables.CALL_GATE_32, CS0, DATA, 3))
    pc.load(f"9a {le(0)} {le(SPARE | 3, 2)} ; call SPARE:0")
    assert isinstance(pc.event(1), LimitReached)
    assert (pc.state.rip, pc.state.cpl, pc.state.selector(CS)) == (DATA, 0, CS0)
    assert pc.state[ESP] == INNER_STACK - 16
    assert pc.stack(4) == [CODE + 7, CS3, USER_STACK, DS3]


def test_far_call_through_a_gate_with_an_absent_inner_stack() -> None:
    """The stack is written at the new privilege level: a supervisor-mode write (error code W/R only)."""
    pc = user_pc()
    protect(pc, INNER_STACK - 0x1000, clear=PRESENT)
    pc.set_descriptor(SPARE, tables.gate(tables.CALL_GATE_32, CS0, DATA, 3))
    pc.load(f"9a {le(0)} {le(SPARE | 3, 2)} ; call SPARE:0")
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code) == (Vector.PF, 2)
    assert (pc.state.rip, pc.state.cpl, pc.state[ESP]) == (CODE, 3, USER_STACK)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "page used by ring 0 before"])
def test_far_call_at_one_level_pushes_as_a_user(warm: bool) -> None:
    pc = user_pc()
    if warm:
        pc.ring(0, CS0, 0x10, STACK)
        pc.load("50 ; push eax\n58 ; pop eax")
        pc.step(2)
        pc.user()
        pc.state.rip = CODE
    pc.state[ESP] = STACK
    pc.load(f"9a {le(DATA)} {le(CS3, 2)} ; call CS3:DATA")
    event = pc.event(1)
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code) == (Vector.PF, 7)


def test_deviation_smap_does_not_keep_the_processor_from_a_gdt_on_user_pages() -> None:
    """The manual: an implicit access to a user page faults under SMAP, whatever EFLAGS.AC says (§4.6.1)."""
    pc = paged_pc(cr4=1 << 21)
    pc.user()
    pc.state[EAX] = DS3
    pc.load("8e c0 ; mov es, ax")
    assert isinstance(pc.event(1), LimitReached)  # should be #PF with error code 1 and CR2 = GDT + 0x20
