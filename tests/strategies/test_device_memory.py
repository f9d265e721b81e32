"""Registers in memory and the firmware's ROM: every strategy gives a guest the same, with paging and without."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from simvirt.guests.firmware_tables import TABLES
from simvirt.guests.recognise import recognise
from simvirt.machine.devices import io_apic, local_apic
from simvirt.observe.comparison import Equivalence
from simvirt.observe.session import compare, run
from tests.support.code import code, le

DIRECTORY, TABLE_LOW, TABLE_APIC = 0x20_0000, 0x20_1000, 0x20_2000
STRATEGIES = ("bare-metal", "trap-and-emulate", "vtx")
LAPIC = 0x50_0000
"""Where a guest with paging maps the local APIC's page."""

EXPECTED = 0x5_0014 + 0x21
"""The APIC's version and the priority that is written to it; ROM adds nothing, for it keeps what it has."""
EXERCISE = """
    bf {rom}            ; mov edi, the firmware's tables
    8b 07               ; mov eax, [edi]
    c7 07 00000000      ; mov dword ptr [edi], 0
    2b 07               ; sub eax, [edi]
    bf {apic}           ; mov edi, the local APIC
    03 47 30            ; add eax, [edi + 30h]: version
    c7 87 80000000 20000000 ; mov dword ptr [edi + 80h], 20h: task priority
    83 8f 80000000 01   ; or dword ptr [edi + 80h], 1
    03 87 a0000000      ; add eax, [edi + 0a0h]: processor priority
    ba f4000000         ; mov edx, 0f4h
    ef                  ; out dx, eax
"""


def flat() -> bytes:
    return code(EXERCISE.format(rom=le(TABLES), apic=le(local_apic.BASE)))


def paged() -> bytes:
    """The same behind page tables that map the first 4 MiB to themselves, and the APIC's page at `LAPIC`."""
    return code(f"""
        bf {le(TABLE_LOW)}      ; mov edi, the first page table
        b8 03000000             ; mov eax, present | writable
        ab                      ; stosd
        05 00100000             ; add eax, 1000h
        3d 03004000             ; cmp eax, 4 MiB | 3
        75 f3                   ; jne to stosd
        c7 05 {le(DIRECTORY)} {le(TABLE_LOW | 3)}           ; mov dword ptr [DIRECTORY], TABLE_LOW | 3
        c7 05 {le(DIRECTORY + 4)} {le(TABLE_APIC | 3)}      ; mov dword ptr [DIRECTORY + 4], TABLE_APIC | 3
        c7 05 {le(TABLE_APIC + 4 * (LAPIC >> 12 & 0x3FF))} {le(local_apic.BASE | 3)} ; mov dword ptr, the APIC's page
        b8 {le(DIRECTORY)}      ; mov eax, DIRECTORY
        0f 22 d8                ; mov cr3, eax
        0f 20 c0                ; mov eax, cr0
        0d 00000080             ; or eax, PG
        0f 22 c0                ; mov cr0, eax
        {EXERCISE.format(rom=le(TABLES), apic=le(LAPIC))}
    """)


@pytest.mark.parametrize("program", [flat, paged])
def test_every_strategy_shows_the_same_registers_and_rom(program: Callable[[], bytes]) -> None:
    guest = recognise(program())
    result = compare(guest, interval=1)
    assert {one.strategy: one.guest_status for one in result.runs} == dict.fromkeys(STRATEGIES, EXPECTED)
    assert {verdict.equivalence for verdict in result.verdicts.values()} == {Equivalence.EQUIVALENT}


def test_an_interrupt_by_the_io_apic_and_one_by_the_apics_timer() -> None:
    """Real mode's vectors would not do: a flat guest without an IDT sees the requests in IRR alone."""
    entry = io_apic.BASE
    guest = code(f"""
        bf {le(entry)}          ; mov edi, the I/O APIC
        c7 07 12000000          ; mov dword ptr [edi], redirection entry 1
        c7 47 10 31000000       ; mov dword ptr [edi + 10h], vector 31h
        be {le(local_apic.BASE)}            ; mov esi, the local APIC
        c7 86 e0030000 0b000000 ; mov dword ptr [esi + 3e0h], divide by 1
        c7 86 20030000 32000000 ; mov dword ptr [esi + 320h], timer at vector 32h
        c7 86 80030000 64000000 ; mov dword ptr [esi + 380h], 100 ns
        b9 c8000000             ; mov ecx, 200
        e2 fe                   ; loop to itself
        8b 86 10020000          ; mov eax, [esi + 210h]: IRR 20h to 3fh
        c1 e8 10                ; shr eax, 16
        e6 f4                   ; out 0f4h, al
    """)
    for strategy in STRATEGIES:
        assert run(recognise(guest), strategy).guest_status == 1 << 0x32 - 0x30, strategy


def test_under_vtx_reads_of_the_io_apic_do_not_exit_and_writes_do() -> None:
    guest = code(f"""
        bf {le(io_apic.BASE)}   ; mov edi, the I/O APIC
        c7 07 12000000          ; mov dword ptr [edi], redirection entry 1
        c7 47 10 31000100       ; mov dword ptr [edi + 10h], masked, vector 31h
        b9 e8030000             ; mov ecx, 1000
        03 47 10                ; add eax, [edi + 10h]
        03 07                   ; add eax, [edi]
        e2 f9                   ; loop to the first add
        ba f4000000             ; mov edx, 0f4h
        ef                      ; out dx, eax
    """)
    runs = {strategy: run(recognise(guest), strategy) for strategy in STRATEGIES}
    assert {one.guest_status for one in runs.values()} == {1000 * (0x1_0031 + 0x12)}
    assert runs["vtx"].counted.vm_exits["EPT_VIOLATION"] == 2


def test_deviation_under_vtx_reads_of_the_local_apic_exit() -> None:
    """Because one page has registers that reads change, or time does: the reserved one here sets an error bit."""
    guest = code(f"""
        bf {le(local_apic.BASE)} ; mov edi, the local APIC
        b9 64000000             ; mov ecx, 100
        03 47 30                ; add eax, [edi + 30h], the version
        e2 fb                   ; loop to it
        8b 57 40                ; mov edx, [edi + 40h], reserved
        c7 87 80020000 00000000 ; mov dword ptr [edi + 280h], 0: the error status
        03 87 80020000          ; add eax, [edi + 280h]
        ba f4000000             ; mov edx, 0f4h
        ef                      ; out dx, eax
    """)
    runs = {strategy: run(recognise(guest), strategy) for strategy in STRATEGIES}
    status = 100 * local_apic.VERSION + local_apic.ILLEGAL_REGISTER
    assert {one.guest_status for one in runs.values()} == {status}
    assert runs["vtx"].counted.vm_exits["EPT_VIOLATION"] == 100 + 3


def test_the_tables_begin_with_the_pointer() -> None:
    guest = code(f"a1 {le(TABLES)} ; mov eax, [tables]\nba f4000000 ; mov edx, 0f4h\nef ; out dx, eax")
    signature = struct.unpack("<I", b"RSD ")[0]
    assert {run(recognise(guest), s).guest_status for s in STRATEGIES} == {signature}
