"""Where page faults are reported: CR2 and EIP to the byte, no partial effects, fetches (SDM Vol. 3A §4.7, §6.15)."""

from __future__ import annotations

import pytest

from simvirt.machine.events import ExceptionRaised, Halt, LimitReached, PhysicalAccess, PhysicalTarget
from simvirt.x86.addresses import Gva
from simvirt.x86.exceptions import Vector
from tests.support.code import le
from tests.support.paging import (
    ACCESSED,
    DIRECTORY,
    DIRTY,
    PRESENT,
    USER,
    WP,
    WRITABLE,
    entry_address,
    paged_pc,
    protect,
    set_page,
)  # fmt: skip
from tests.support.pc import CODE, DATA, EAX, EBX, ECX, EDI, EDX, ESI, ESP, STACK
from tests.support.tables import INT_GATE, gate

PAGE, NEXT_PAGE = DATA, DATA + 0x1000


def page_fault(error: int, address: int) -> ExceptionRaised:
    return ExceptionRaised(Vector.PF, error, Gva(address))


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_read_across_two_pages_reports_the_second_page(distance: int) -> None:
    pc = paged_pc()
    protect(pc, NEXT_PAGE, clear=PRESENT)
    pc.state[EBX] = NEXT_PAGE - distance
    pc.load("8b 03 ; mov eax, [ebx]")
    assert pc.event() == page_fault(0, NEXT_PAGE)
    assert pc.state.rip == CODE


@pytest.mark.parametrize("distance", [1, 2, 3])
def test_read_across_two_pages_reports_its_own_address_when_the_first_page_faults(distance: int) -> None:
    pc = paged_pc()
    protect(pc, PAGE, clear=PRESENT)
    pc.state[EBX] = NEXT_PAGE - distance
    pc.load("8b 03 ; mov eax, [ebx]")
    assert pc.event() == page_fault(0, NEXT_PAGE - distance)


@pytest.mark.parametrize("distance", [1, 2, 3])
@pytest.mark.parametrize("second_is_present", [False, True])
def test_write_across_two_pages_writes_nothing_when_the_second_page_faults(
    distance: int, second_is_present: bool
) -> None:
    pc = paged_pc()
    protect(pc, NEXT_PAGE, clear=WRITABLE if second_is_present else PRESENT)
    pc.write(NEXT_PAGE - 4, b"\xcc" * 8)
    pc.state[EBX] = NEXT_PAGE - distance
    pc.state[EAX] = 0x1234_5678
    pc.load("89 03 ; mov [ebx], eax")
    assert pc.event() == page_fault(2 | second_is_present, NEXT_PAGE)
    assert bytes(pc.memory[NEXT_PAGE - 4 : NEXT_PAGE + 4]) == b"\xcc" * 8


def test_read_modify_write_of_a_read_only_page_is_reported_as_a_write() -> None:
    """It faults with W/R set although its first half, the read, is allowed, and the destination stays."""
    pc = paged_pc()
    protect(pc, PAGE, clear=WRITABLE)
    pc.write32(PAGE, 41)
    pc.state[EBX] = PAGE
    pc.load("ff 03 ; inc dword ptr [ebx]")
    assert pc.event() == page_fault(1 | 2, PAGE)
    assert pc.read(PAGE, 4) == 41


def test_read_modify_write_of_an_absent_page_is_no_protection_violation() -> None:
    pc = paged_pc()
    protect(pc, PAGE, clear=PRESENT)
    pc.state[EBX] = PAGE
    pc.load("ff 03 ; inc dword ptr [ebx]")
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert event.error_code in (0, 2)  # the manual leaves open which half is seen first
    assert event.cr2 == PAGE


@pytest.mark.parametrize(
    ("listing", "error", "address"),
    [
        ("50 ; push eax", 2, STACK - 4),
        ("60 ; pushad", 2, STACK - 4),
        ("e8 00 00 00 00 ; call $+5", 2, STACK - 4),
        ("58 ; pop eax", 0, STACK),
    ],
)
def test_stack_faults_leave_esp_and_registers_alone(listing: str, error: int, address: int) -> None:
    pc = paged_pc()
    for page in (STACK - 0x1000, STACK):
        protect(pc, page, clear=PRESENT)
    before = [pc.state[register] for register in range(16)]
    pc.load(listing)
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code) == (Vector.PF, error)
    assert event.cr2 is not None
    assert event.cr2 == address or listing.startswith("60")  # PUSHAD's order of stores is open
    assert [pc.state[register] for register in range(16)] == before
    assert pc.state.rip == CODE


def test_string_move_reports_the_iteration_that_faults() -> None:
    """REP MOVSD: the iterations before the fault are complete, the registers point at the one that faulted."""
    pc = paged_pc()
    protect(pc, NEXT_PAGE, clear=PRESENT)
    source = 0x6_0000
    pc.write(source, bytes(range(64)))
    pc.state[ESI], pc.state[EDI], pc.state[ECX] = source, NEXT_PAGE - 12, 8
    pc.load("f3 a5 ; rep movsd")
    assert pc.event() == page_fault(2, NEXT_PAGE)
    assert (pc.state[ESI], pc.state[EDI], pc.state[ECX]) == (source + 12, NEXT_PAGE, 5)
    assert bytes(pc.memory[NEXT_PAGE - 12 : NEXT_PAGE]) == bytes(range(12))


def test_fault_is_restartable() -> None:
    """The handler maps the page, IRET goes back, the instruction succeeds."""
    pc = paged_pc()
    protect(pc, PAGE, clear=PRESENT)
    pc.write32(PAGE, 0xCAFE)
    pc.load(f"""
        8b 1d {le(PAGE)}                                ; mov ebx, [PAGE]
        f4                                              ; hlt
    """)
    handler = CODE + 0x100
    pc.set_gate(14, gate(INT_GATE, 0x08, handler))
    pc.load(
        f"""
        83 0d {le(entry_address(PAGE))} 01              ; or dword ptr [pte], 1
        0f 20 d0                                        ; mov eax, cr2
        83 c4 04                                        ; add esp, 4
        cf                                              ; iretd
    """,
        handler,
    )
    pc.run()
    assert pc.state[EBX] == 0xCAFE
    assert pc.state[EAX] == PAGE
    assert pc.cpu.count == 5
    assert pc.state[ESP] == STACK


# ------------------------------------------------------------------------------------------------------------ fetches

LAST = CODE + 0x1000
"""The page behind the code's."""


def test_fetch_of_the_next_page_faults_after_everything_before_it_has_run() -> None:
    pc = paged_pc()
    protect(pc, LAST, clear=PRESENT)
    start = LAST - 6
    pc.state.rip = start
    pc.load(
        """
        b8 07 00 00 00      ; mov eax, 7
        40                  ; inc eax
    """,
        start,
    )
    assert pc.event() == page_fault(0, LAST)
    assert (pc.state.rip, pc.state[EAX], pc.cpu.count) == (LAST, 8, 2)


@pytest.mark.parametrize("length_in_first_page", [1, 2, 3, 4])
def test_instruction_across_the_page_end_reports_the_second_page_and_stands_on_its_first_byte(
    length_in_first_page: int,
) -> None:
    pc = paged_pc()
    protect(pc, LAST, clear=PRESENT)
    start = LAST - length_in_first_page
    pc.state[EAX] = 5
    pc.load("40 ; inc eax", start - 1)
    pc.write(start, bytes.fromhex("b9 01 02 03 04")[:length_in_first_page])  # mov ecx, 0x04030201
    pc.state.rip = start - 1
    assert pc.event() == page_fault(0, LAST)
    assert (pc.state.rip, pc.state[EAX], pc.state[ECX], pc.cpu.count) == (start, 6, 0, 1)


def test_an_exception_at_the_page_end_comes_before_the_next_page() -> None:
    """A division by zero as the last instruction of a page: the translator looks ahead, the processor does not."""
    pc = paged_pc()
    protect(pc, LAST, clear=PRESENT)
    pc.state.rip = LAST - 3
    pc.state[EAX] = 5
    pc.load(
        """
        40                  ; inc eax
        f7 f1               ; div ecx
    """,
        LAST - 3,
    )
    assert pc.event() == ExceptionRaised(Vector.DE)
    assert (pc.state.rip, pc.state[EAX], pc.cpu.count) == (LAST - 2, 6, 1)


@pytest.mark.parametrize("listing", ["0f a2 ; cpuid", "f4 ; hlt", "e4 10 ; in al, 0x10", "0f 01 c0 ; db"], ids=str)
def test_an_intercepted_instruction_at_the_page_end_comes_before_the_next_page(listing: str) -> None:
    pc = paged_pc()
    protect(pc, LAST, clear=PRESENT)
    data = bytes.fromhex(listing.split(";", maxsplit=1)[0])
    pc.write(LAST - len(data), data)
    pc.state.rip = LAST - len(data)
    event = pc.event()
    assert not (isinstance(event, ExceptionRaised) and event.vector is Vector.PF)
    assert pc.state.rip == LAST - len(data)
    assert pc.cpu.count == 0


def test_jump_into_an_absent_page_has_retired_the_jump() -> None:
    pc = paged_pc()
    protect(pc, PAGE, clear=PRESENT)
    pc.state[EBX] = PAGE + 0x123
    pc.load("ff e3 ; jmp ebx")
    assert pc.event() == page_fault(0, PAGE + 0x123)
    assert (pc.state.rip, pc.cpu.count) == (PAGE + 0x123, 1)


def test_fetch_error_code_has_the_id_flag_only_with_smep_or_nx() -> None:
    for cr4, expected in ((0, 0), (1 << 20, 16)):
        pc = paged_pc(cr4=cr4, flags=PRESENT | WRITABLE)
        protect(pc, PAGE, clear=PRESENT)
        pc.state[EBX] = PAGE
        pc.load("ff e3 ; jmp ebx")
        assert pc.event() == page_fault(expected, PAGE), f"CR4 {cr4:#x}"


# ------------------------------------------------------------------------------------------------ rights and controls


def test_write_protect_decides_for_the_supervisor_alone() -> None:
    """§4.6.1: supervisor writes to read-only pages are allowed while CR0.WP is 0; user writes never."""
    for wp, cpl, fault in ((0, 0, False), (1, 0, True), (0, 3, True), (1, 3, True)):
        pc = paged_pc(cr0=wp * WP)
        protect(pc, PAGE, clear=WRITABLE)
        if cpl:
            pc.user()
        pc.state[EBX] = PAGE
        pc.load("89 03 ; mov [ebx], eax")
        event = pc.event(1)
        if fault:
            assert event == page_fault(1 | 2 | (4 if cpl else 0), PAGE)
        else:
            assert isinstance(event, LimitReached)
            assert pc.read(entry_address(PAGE), 4) & DIRTY


def test_setting_write_protect_by_mov_takes_effect_on_translations_already_used() -> None:
    pc = paged_pc(cr0=0)
    protect(pc, PAGE, clear=WRITABLE)
    pc.state[EBX] = PAGE
    pc.load("""
        89 03                   ; mov [ebx], eax
        0f 20 c1                ; mov ecx, cr0
        81 c9 00 00 01 00       ; or ecx, 0x10000
        0f 22 c1                ; mov cr0, ecx
        89 03                   ; mov [ebx], eax
        f4                      ; hlt
    """)
    pc.run()
    assert pc.vector == 14
    assert pc.state.cr2 == PAGE
    assert pc.stack(2) == [1 | 2, CODE + 14]


def test_clac_and_stac_open_and_close_user_pages_under_smap() -> None:
    """EFLAGS.AC overrides SMAP at once, though the translation is cached (§4.6.1)."""
    pc = paged_pc(cr4=1 << 21, flags=PRESENT | WRITABLE)
    protect(pc, PAGE, set_=USER)
    pc.write32(PAGE, 0x77)
    pc.state[EBX] = PAGE
    pc.load("""
        0f 01 cb            ; stac
        8b 03               ; mov eax, [ebx]
        0f 01 ca            ; clac
        8b 0b               ; mov ecx, [ebx]
        f4                  ; hlt
    """)
    assert pc.event() == page_fault(1, PAGE)
    assert (pc.state[EAX], pc.state[ECX], pc.state.rip) == (0x77, 0, CODE + 8)


def test_entries_beyond_memory_read_as_ones() -> None:
    """All ones is present, writable, user and, without PSE, names a page in the same hole."""
    pc = paged_pc()
    pc.write32(DIRECTORY + 4 * 0x300, 0x7000_0000 | 7)  # a page table outside memory
    pc.state[EBX] = 0xC000_0000
    pc.load("8b 03 ; mov eax, [ebx]\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0xFFFF_FFFF  # the page that the ones name is a hole too


def test_cr3_outside_memory_ends_in_a_clear_event() -> None:
    pc = paged_pc()
    pc.load("0f 22 d8 ; mov cr3, eax\nf4 ; hlt")
    pc.state[EAX] = 0x4000_0000
    # The very next fetch goes through entries of ones to a hole, which gives no instruction.
    event = pc.event()
    assert isinstance(event, PhysicalAccess)
    assert (event.target, event.gva, pc.cpu.count) == (PhysicalTarget.HOLE, CODE + 3, 1)


def test_directory_that_maps_itself_shows_its_entries() -> None:
    pc = paged_pc()
    pc.write32(DIRECTORY + 4 * 1023, DIRECTORY | PRESENT | WRITABLE)
    pc.state[EBX] = 0xFFFF_F000
    pc.load("8b 43 04 ; mov eax, [ebx+4]\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == pc.read(DIRECTORY + 4, 4)
    # used as directory and as table: accessed in both roles, never dirty
    assert pc.read(DIRECTORY + 4 * 1023, 4) & 0x60 == ACCESSED


def test_accessed_flag_returns_after_it_was_cleared_and_invalidated() -> None:
    pc = paged_pc()
    pc.state[EBX] = PAGE
    pc.load(f"""
        8b 03                                   ; mov eax, [ebx]
        83 25 {le(entry_address(PAGE))} df      ; and dword ptr [pte], ~0x20
        0f 01 3b                                ; invlpg [ebx]
        8b 03                                   ; mov eax, [ebx]
        f4                                      ; hlt
    """)
    pc.run()
    assert pc.read(entry_address(PAGE), 4) & (ACCESSED | DIRTY) == ACCESSED


def test_dirty_flag_comes_with_the_first_write_after_a_read() -> None:
    pc = paged_pc()
    pc.state[EBX] = PAGE
    pc.load("8b 03 ; mov eax, [ebx]\n89 03 ; mov [ebx], eax\nf4 ; hlt")
    pc.step()
    assert pc.read(entry_address(PAGE), 4) & (ACCESSED | DIRTY) == ACCESSED
    pc.step()
    assert pc.read(entry_address(PAGE), 4) & (ACCESSED | DIRTY) == ACCESSED | DIRTY


def test_a_failed_write_does_not_make_the_page_dirty() -> None:
    pc = paged_pc()
    protect(pc, PAGE, clear=WRITABLE)
    pc.state[EBX] = PAGE
    pc.load("89 03 ; mov [ebx], eax")
    pc.event()
    assert not pc.read(entry_address(PAGE), 4) & DIRTY


def test_invlpg_of_a_large_page_drops_all_of_it() -> None:
    pc = paged_pc(cr4=1 << 4)
    large = 0x80_0000
    pc.write32(DIRECTORY + 4 * 2, 0x40_0000 | 0x87)
    pc.write32(0x40_0000, 1)
    pc.write32(0x40_5000, 2)
    pc.state[EBX] = large + 0x5000
    pc.load(f"""
        8b 03                               ; mov eax, [ebx]
        83 25 {le(DIRECTORY + 8)} fe        ; and dword ptr [pde], ~1
        0f 01 3d {le(large)}                ; invlpg [large]
        8b 0b                               ; mov ecx, [ebx]
        f4                                  ; hlt
    """)
    pc.run()
    assert pc.vector == 14
    assert (pc.state[EAX], pc.state[ECX], pc.state.cr2) == (2, 0, large + 0x5000)


def test_mov_to_cr3_drops_translations() -> None:
    pc = paged_pc()
    pc.write32(PAGE, 1)
    pc.write32(NEXT_PAGE, 2)
    pc.state[EBX] = PAGE
    pc.load(f"""
        8b 03                                                       ; mov eax, [ebx]
        c7 05 {le(entry_address(PAGE))} {le(NEXT_PAGE | 7)}         ; mov dword ptr [pte], next
        0f 20 d9                                                    ; mov ecx, cr3
        0f 22 d9                                                    ; mov cr3, ecx
        8b 13                                                       ; mov edx, [ebx]
        f4                                                          ; hlt
    """)
    pc.run()
    assert (pc.state[EAX], pc.state[EDX]) == (1, 2)


def test_user_code_cannot_touch_supervisor_pages() -> None:
    pc = paged_pc()
    protect(pc, PAGE, clear=USER)
    pc.user()
    pc.state[EBX] = PAGE
    for listing, error in (("8b 03 ; mov eax, [ebx]", 5), ("89 03 ; mov [ebx], eax", 7), ("ff e3 ; jmp ebx", 5)):
        pc.state.rip = CODE
        pc.load(listing)
        assert pc.event() == page_fault(error, PAGE)


def test_a_page_may_lie_anywhere_in_memory() -> None:
    pc = paged_pc()
    set_page(pc, PAGE, 0x40_0000 | 7)
    pc.write32(0x40_0000, 99)
    pc.state[EBX] = PAGE
    pc.load("8b 03 ; mov eax, [ebx]\nf4 ; hlt")
    assert isinstance(pc.event(), Halt)
    assert pc.state[EAX] == 99
