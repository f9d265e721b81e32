"""Stale code is never run, whoever writes to it, through whichever address (SDM Vol. 3A §8.1.3, §12.6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simvirt.machine.engine import DELIVER_EVERYTHING, DELIVER_NOTHING
from simvirt.machine.events import Halt, LimitReached
from simvirt.machine.fills import PageFlag
from tests.support.code import le
from tests.support.paging import PRESENT, USER, WRITABLE, paged_pc, set_page
from tests.support.pc import (
    CODE,
    CS,
    DATA,
    EAX,
    EBX,
    ECX,
    EDI,
    ESI,
    HANDLERS,
    SS,
    STACK,
    Pc,
    flat_pc,
    long_pc,
    real_pc,
)

TARGET = DATA
"""Where the code that is modified stands: mov eax, N; ret."""
ALIAS = 0x7F_0000


def routine(number: int) -> bytes:
    return b"\xb8" + number.to_bytes(4, "little") + b"\xc3"


CALL_WRITE_CALL = f"""
    bb {le(TARGET)}             ; mov ebx, TARGET
    ff d3                       ; call ebx
    89 c1                       ; mov ecx, eax
    c7 05 %s 22 00 00 00        ; mov dword ptr [TARGET + 1], 0x22
    ff d3                       ; call ebx
    f4                          ; hlt
"""


def expect_new_code(pc: Pc) -> None:
    pc.write(TARGET, routine(0x11))
    pc.run()
    assert (pc.state[ECX], pc.state[EAX]) == (0x11, 0x22)


def test_store_to_code() -> None:
    pc = flat_pc()
    pc.load(CALL_WRITE_CALL % le(TARGET + 1))
    expect_new_code(pc)


def test_store_through_an_alias() -> None:
    pc = paged_pc()
    set_page(pc, ALIAS, TARGET | PRESENT | WRITABLE | USER)
    pc.load(CALL_WRITE_CALL % le(ALIAS + 1))
    expect_new_code(pc)


def test_store_through_an_alias_that_was_written_before() -> None:
    """The translation for the store exists before the page is first executed."""
    pc = paged_pc()
    set_page(pc, ALIAS, TARGET | PRESENT | WRITABLE | USER)
    pc.write(TARGET, routine(0x11))
    pc.load(f"c6 05 {le(ALIAS + 0x80)} 01 ; mov byte ptr [alias], 1")
    pc.step()
    pc.state.rip = CODE
    pc.load(CALL_WRITE_CALL % le(ALIAS + 1))
    expect_new_code(pc)


@pytest.mark.parametrize("smap", [0, 1 << 21])
def test_store_through_a_no_execute_alias(smap: int) -> None:
    """As in a kernel's direct map: PAE would allow NX; here 64-bit mode, the loader's write through an XD page."""
    pc = long_pc()
    pc.state.set_control_register(4, pc.state.cr4 | smap)
    pc.state.refresh()
    directory = pc.state.cr3 + 0x2000
    page_table = directory + 0x1000
    for page in range(512):
        pc.write64(page_table + 8 * page, page << 12 | 7)
    pc.write64(page_table + 8 * (0x1F_0000 >> 12), TARGET | 7 | 1 << 63)
    pc.write64(directory, page_table | 7)
    pc.engine.flush_tlb()
    pc.ring(3, 0x2B, 0x33, 0x3_0000)
    pc.write(TARGET, routine(0x11))
    pc.load(
        f"""
        bb {le(TARGET)}                         ; mov ebx, TARGET
        ff d3                                   ; call rbx
        89 c1                                   ; mov ecx, eax
        c7 04 25 {le(0x1F_0001)} 22 00 00 00    ; mov dword ptr [alias], 0x22
        ff d3                                   ; call rbx
        eb fe                                   ; jmp $
    """
    )
    pc.step(9)
    assert (pc.state[ECX], pc.state[EAX]) == (0x11, 0x22)


def test_store_into_the_running_block() -> None:
    """The next instruction of the same block is overwritten: the processor runs the new one (§8.1.3)."""
    pc = flat_pc()
    at = CODE + 7
    pc.load(f"""
        c6 05 {le(at + 1)} 07       ; mov byte ptr [at + 1], 7
        b8 01 00 00 00              ; mov eax, 1
        f4                          ; hlt
    """)
    pc.run()
    assert pc.state[EAX] == 7
    assert pc.cpu.count == 2


def test_store_into_an_instruction_that_crosses_a_page() -> None:
    pc = flat_pc()
    at = TARGET + 0x1000 - 3  # mov eax, imm32 with its last two bytes in the next page
    pc.write(at, routine(0x11))
    pc.load(f"""
        bb {le(at)}                                 ; mov ebx, at
        ff d3                                       ; call ebx
        89 c1                                       ; mov ecx, eax
        66 c7 05 {le(TARGET + 0x1000)} 33 00        ; mov word ptr [next page], 0x33
        ff d3                                       ; call ebx
        f4                                          ; hlt
    """)
    pc.run()
    assert (pc.state[ECX], pc.state[EAX]) == (0x11, 0x33_0011)


def test_string_store_over_code() -> None:
    pc = flat_pc()
    pc.write(TARGET, routine(0x11))
    pc.write(0x6_0000, routine(0x22))
    pc.state[ESI], pc.state[EDI] = 0x6_0000, TARGET
    pc.load(f"""
        bb {le(TARGET)}     ; mov ebx, TARGET
        ff d3               ; call ebx
        89 c2               ; mov edx, eax
        b9 06 00 00 00      ; mov ecx, 6
        f3 a4               ; rep movsb
        ff d3               ; call ebx
        f4                  ; hlt
    """)
    pc.run()
    assert (pc.state[2], pc.state[EAX]) == (0x11, 0x22)


def test_two_code_pages_swapped_in_the_page_table() -> None:
    """No code was written: the same linear address simply has other code after the swap and INVLPG."""
    pc = paged_pc()
    other = TARGET + 0x1000
    pc.write(TARGET, routine(0x11))
    pc.write(other, routine(0x22))
    pc.state[EBX] = TARGET
    pc.load("ff d3 ; call ebx\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0x11
    set_page(pc, TARGET, other | PRESENT | WRITABLE | USER)
    pc.state.rip = CODE
    pc.run()
    assert pc.state[EAX] == 0x22


def test_a_write_from_outside_drops_translated_code() -> None:
    """`Engine.written`: a loader or a device changes executed memory."""
    pc = flat_pc()
    pc.state[EBX] = TARGET
    pc.load("ff d3 ; call ebx\nf4 ; hlt")
    for number in (0x11, 0x22):
        pc.write(TARGET, routine(number))
        pc.state.rip = CODE
        pc.run()
        assert pc.state[EAX] == number


def _run_again(pc: Pc) -> int:
    """Run from CODE once more.

    :return: how many blocks had to be translated.
    """
    before = pc.engine.statistics["inlined_blocks"]
    pc.state.rip = CODE
    pc.run()
    return pc.engine.statistics["inlined_blocks"] - before


@pytest.mark.parametrize("at", range(TARGET, TARGET + 5))
def test_a_write_from_outside_to_any_byte_of_an_instruction(at: int) -> None:
    pc = flat_pc()
    pc.write(TARGET, b"\xb8" + bytes(4) + b"\xc3")
    pc.state[EBX] = TARGET
    pc.load("ff d3 ; call ebx\nf4 ; hlt")
    pc.run()
    _run_again(pc)
    pc.write(at, b"\xbf" if at == TARGET else b"\x7f")  # mov edi instead of mov eax; or another byte of the constant
    pc.state[EDI] = 1
    assert _run_again(pc) == 1, "the routine's block and no other"
    assert (pc.state[EDI], pc.state[EAX]) == ((0, 0) if at == TARGET else (1, 0x7F << 8 * (at - TARGET - 1)))


@pytest.mark.parametrize("at", [TARGET - 1, TARGET + 6, TARGET + 0xFFF])
def test_a_write_from_outside_beside_code_keeps_its_translation(at: int) -> None:
    pc = flat_pc()
    pc.write(TARGET, routine(0x11))
    pc.state[EBX] = TARGET
    pc.load("ff d3 ; call ebx\nf4 ; hlt")
    pc.run()
    _run_again(pc)
    pc.write(at, b"\x90")
    assert _run_again(pc) == 0
    assert pc.state[EAX] == 0x11


def test_a_write_from_outside_over_several_pages_of_code() -> None:
    pc = flat_pc()
    pages = range(TARGET, TARGET + 0x4000, 0x1000)
    for page in pages:
        pc.write(page, routine(0x11))
    calls = "".join(f"bb {le(page)} ; mov ebx, page\nff d3 ; call ebx\n01 c1 ; add ecx, eax\n" for page in pages)
    pc.load(f"31 c9 ; xor ecx, ecx\n{calls}\nf4 ; hlt")
    pc.run()
    assert pc.state[ECX] == 0x44
    pc.write(TARGET, b"".join(routine(0x22).ljust(0x1000, b"\x90") for _ in pages))
    _run_again(pc)
    assert pc.state[ECX] == 0x88


def test_a_write_from_outside_where_code_is_known_by_another_address() -> None:
    pc = paged_pc()
    set_page(pc, ALIAS, TARGET | PRESENT | WRITABLE | USER)
    pc.state[EBX] = ALIAS
    pc.load("ff d3 ; call ebx\nf4 ; hlt")
    for number in (0x11, 0x22):
        pc.write(TARGET, routine(number))
        pc.state.rip = CODE
        pc.run()
        assert pc.state[EAX] == number


def test_a_write_from_outside_to_code_that_was_cut_short() -> None:
    """A run that stops inside a block leaves shorter blocks behind; they go as well."""
    pc = flat_pc()
    pc.load("b8 11 00 00 00 ; mov eax, 0x11\nb9 11 00 00 00 ; mov ecx, 0x11\nf4 ; hlt")
    for stop in (1, 2):
        pc.state.rip = CODE
        pc.step(stop)
    pc.write(CODE + 1, b"\x22")
    pc.write(CODE + 6, b"\x33")
    for stop in (1, 2):
        pc.state.rip = CODE
        pc.step(stop)
    assert (pc.state[EAX], pc.state[ECX]) == (0x22, 0x33)


_WAYS = {"inside a run": DELIVER_EVERYTHING, "between runs": DELIVER_EVERYTHING, "by the reference": DELIVER_NOTHING}


def _deliver_and_run(pc: Pc, way: str) -> None:
    pc.cpu.native_delivery = _WAYS[way]
    if way != "inside a run":
        pc.run()
        return
    while not isinstance(event := pc.cpu.run(1000, deliver=DELIVER_EVERYTHING), Halt):
        assert not isinstance(event, LimitReached)
        pc.complete(event)


@pytest.mark.parametrize("way", _WAYS)
def test_a_frame_that_is_pushed_over_code(way: str) -> None:
    """The return address of INT becomes the constant of an instruction that has been executed before."""
    pc = flat_pc()
    pc.write(HANDLERS + 16 * 0x40, b"\xcf")  # iret
    pc.write(TARGET, b"\xbe" + bytes(12) + b"\xc3")  # mov esi, 0; eight bytes of add [eax], al; ret
    # As code, the selector 8 and the flags 2 are OR and ADD of [EAX] and AL, which do no harm.
    pc.load(f"""
        b8 {le(DATA + 0x8000)}      ; mov eax, harmless
        bb {le(TARGET)}             ; mov ebx, TARGET
        ff d3                       ; call ebx
        bc {le(TARGET + 13)}        ; mov esp, the end of the constant and two instructions
        85 e4                       ; test esp, esp
        cd 40                       ; int 0x40
        bc {le(STACK)}              ; mov esp, STACK
        ff d3                       ; call ebx
        f4                          ; hlt
    """)
    _deliver_and_run(pc, way)
    assert pc.state[ESI] == CODE + 21


@pytest.mark.parametrize("way", _WAYS)
def test_a_stack_beside_the_code_of_a_boot_sector(way: str) -> None:
    """Real-address mode, the stack in the code's own page: frames are pushed again and again, and no code goes."""
    pc = real_pc()
    pc.write(HANDLERS + 16 * 0x40, b"\xcf")  # iret
    code = pc.state.segment(CS)
    pc.state.set_segment(SS, replace(pc.state.segment(SS), selector=code.selector, base=code.base))
    pc.state.rsp = 0x800
    pc.load("b9 64 00 ; mov cx, 100\ncd 40 ; int 0x40\ne2 fc ; loop -4\nf4 ; hlt")
    _deliver_and_run(pc, way)
    assert pc.engine.statistics["inlined_blocks"] < 10
    assert pc.engine.deliveries.by_vector == {0x40: 100}


def test_page_flags_tell_what_was_executed_and_written() -> None:
    pc = flat_pc()
    flags = pc.engine.memory.page_flags
    pc.engine.take_dirty_pages()
    pc.load(f"c7 05 {le(DATA)} 01 00 00 00 ; mov dword ptr [DATA], 1\nf4 ; hlt")
    pc.engine.take_dirty_pages()
    pc.run()
    assert flags[CODE >> 12] & PageFlag.EXECUTED
    assert not flags[DATA >> 12] & PageFlag.EXECUTED
    assert pc.engine.take_dirty_pages() == [DATA >> 12]
    assert pc.engine.take_dirty_pages() == []
    pc.state.rip = CODE
    pc.run()  # the log starts anew: the same page again
    assert pc.engine.take_dirty_pages() == [DATA >> 12]


def test_accessed_flags_make_their_page_dirty() -> None:
    pc = paged_pc()
    pc.load(f"a1 {le(DATA)} ; mov eax, [DATA]\nf4 ; hlt")
    pc.engine.take_dirty_pages()
    pc.run()
    # the directory, and the page table of the first 4 MiB
    assert pc.engine.take_dirty_pages() == [0x10_0000 >> 12, 0x10_1000 >> 12]
