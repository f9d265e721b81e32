"""A guest with paging under trap-and-emulate, as its results tell it: equivalent, isolated, and what it cost."""

from __future__ import annotations

from pathlib import Path

import pytest

import simvirt
from tests.support.code import code, le

DIRECTORY, TABLE, DATA, ENTRY = 0x20_0000, 0x20_1000, 0x30_0000, 0x10_0000


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """Fills a page table with 128 entries, turns paging on, walks through the pages twice, and edits one of them."""
    file = tmp_path / "paging.bin"
    file.write_bytes(
        code(f"""
            bf {le(DIRECTORY)}      ; mov edi
            c7 07 83 00 00 00       ; mov [edi], a large page that maps itself
            c7 47 04 {le(TABLE | 3)} ; mov [edi + 4], TABLE
            bf {le(TABLE)}          ; mov edi
            b8 {le(DATA | 3)}       ; mov eax
            b9 80 00 00 00          ; mov ecx, 128
            ab                      ; stosd
            05 00 10 00 00          ; add eax, 4096
            e2 f8                   ; loop
            b8 10 00 00 00          ; mov eax, PSE
            0f 22 e0                ; mov cr4
            b8 {le(DIRECTORY)}      ; mov eax
            0f 22 d8                ; mov cr3
            b8 {le(0x8001_0011)}    ; mov eax
            0f 22 c0                ; mov cr0
            bb 02 00 00 00          ; mov ebx
            be {le(0x40_0000)}      ; mov esi
            b9 80 00 00 00          ; mov ecx, 128
            01 1e                   ; add [esi], ebx
            81 c6 00 10 00 00       ; add esi, 4096
            e2 f6                   ; loop
            4b                      ; dec ebx
            75 e9                   ; jne
            c7 05 {le(TABLE)} {le(DATA + 0x1000 | 3)} ; mov [TABLE], another page
            0f 01 3d {le(0x40_0000)} ; invlpg
            a1 {le(0x40_0000)}      ; mov eax
            e6 f4                   ; out 0xf4, al
        """)
    )
    return file


def test_it_is_equivalent_under_every_strategy(guest: Path) -> None:
    comparison = simvirt.compare(guest)
    assert {name: verdict.equivalence.value for name, verdict in comparison.verdicts.items()} == {
        "trap-and-emulate": "equivalent",
        "vtx": "equivalent",
    }
    assert [run.guest_status for run in comparison.runs] == [3, 3, 3]


def test_what_it_cost(guest: Path) -> None:
    run = simvirt.run(guest, strategy="trap-and-emulate")
    numbers = run.counted.shadow_paging
    assert numbers["hidden_faults"] == run.counted.vm_exits["SHADOW_FILL"]
    assert numbers["hidden_faults"] >= 129  # each page once, by its first access, which reads and then writes it
    assert numbers["traced_writes"] == run.counted.vm_exits["PAGE_TABLE_WRITE"] == 1
    assert numbers["true_faults"] == 0
    assert run.to_dict()["counted"]["shadow_paging"] == numbers
    assert run.counted.innocuous_exits["SHADOW_FILL"] == numbers["hidden_faults"]
    assert "129" in str(run) or "hidden faults" in str(run)
    assert run.pages_outside == ()


def test_others_say_nothing_of_it(guest: Path) -> None:
    assert "shadow_paging" not in simvirt.run(guest, strategy="vtx").to_dict()["counted"]
    assert "shadow_paging" not in simvirt.run("hello", strategy="trap-and-emulate").to_dict()["counted"]
