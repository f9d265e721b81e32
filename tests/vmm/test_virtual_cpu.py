"""Memory that is not the guest's, and pages that the VMM watches: what the guest's instructions meet there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.vmm.exit_log import Disposition
from simvirt.x86.registers import GeneralRegister
from tests.support import tables as t
from tests.support.assembler import d16, d32
from tests.support.twins import (
    CODE,
    CS0,
    CS3,
    DATA,
    DS0,
    DS3,
    GDT,
    HOLE,
    LDT,
    LDT_,
    MEMORY,
    USER,
    VMM,
    Twins,
    contents,
    start,
    vector,
)
from tests.vmm.test_interpreter import lgdt, load_ds

EAX = GeneralRegister.RAX
BIG_GDT = 0x5000
"""Three pages of descriptors."""


def store(address: int, value: int) -> bytes:
    """MOV dword [address], value."""
    return b"\xc7\x05" + d32(address) + d32(value)


# ------------------------------------------------------------------------------------------------ holes


@pytest.mark.parametrize("cs", [CS0, USER])
@pytest.mark.parametrize("eflags", [2, 0x102])
@pytest.mark.parametrize(
    "text", ["a5", "f3a5", "a4", "ab", "ad", "a7", "0f6f060f7f07", "ff36", "8f07", "870f", "f00fc107"]
)
def test_instructions_with_operands_in_holes(twins: Twins, text: str, eflags: int, cs: int) -> None:
    """From one page of nothing to another, within one, and over their edges: no page fault ever."""
    for source, destination in (
        (HOLE, HOLE + 0x4FFE), (HOLE + 0xFFE, HOLE + 0x4FFE), (MEMORY - 2, HOLE), (HOLE, MEMORY - 2),
        (HOLE, GDT + 0x200), (GDT, HOLE + 0xFFE), (0xFFFF_FFFE, 0xFFFF_FFFF),
    ):  # fmt: skip
        twins.renew()
        state = start(cs=cs, eflags=eflags, esi=source, edi=destination, ecx=3)
        twins.run(bytes.fromhex(text) + b"\x42\xf4", state)


@pytest.mark.parametrize("at", [HOLE, VMM - 0x1000, VMM + 0x10_0000, 0xFFFF_FFFF])
def test_a_fetch_from_nowhere(twins: Twins, at: int) -> None:
    """The bus gives ones, and FF FF is no instruction."""
    for cs in (CS0, USER):
        twins.renew()
        assert vector(twins.run(b"\xe9" + d32(at - CODE - 5), start(cs=cs))) == 6


@pytest.mark.parametrize("code", [b"\xb8\x11", b"\x40\x40", b"\xa1", b"\x66\x0f"])
def test_a_fetch_that_runs_into_nowhere(twins: Twins, code: bytes) -> None:
    at = MEMORY - len(code)
    assert vector(twins.run(code, start(rip=at), at=at)) == 6


def test_an_attempt_is_logged(twins: Twins) -> None:
    twins.run(b"\xa1" + d32(HOLE) + b"\xa3" + d32(VMM + 8) + b"\xf4")
    assert [(a.instruction, a.resource, a.disposition) for a in twins.virtual.log.attempts] == [
        (0, f"guest-physical address {HOLE:#x} (read)", Disposition.ABSORBED),
        (1, f"the VMM's linear address {VMM + 8:#x} (write)", Disposition.ABSORBED),
    ]


# ------------------------------------------------------------------------------------------------ the VMM's own part


@pytest.mark.parametrize("address", [VMM, VMM + 8, VMM + 0x1_FFFC, VMM + 0x2_1000, 0xFFFF_F000])
@pytest.mark.parametrize("text", ["a1", "8b0d", "a3", "0105", "ff35", "8f05", "0f0305", "0fae05", "8e1d", "0f0205"])
def test_user_code_finds_nothing_in_the_vmm_s_part(twins: Twins, text: str, address: int) -> None:
    """Linear addresses from 0xFFC00000 on are supervisor pages of the real tables: a hole to ring 3, as on the PC."""
    twins.run(bytes.fromhex(text) + d32(address) + b"\xf4", start(cs=USER, eax=5))


@pytest.mark.parametrize("text", ["a3", "0105", "8f05", "0fae05", "8705", "0f0105"])
def test_the_kernel_writes_nothing_into_the_vmm_s_part(twins: Twins, text: str) -> None:
    """Ring 1 is a supervisor to paging: the pages are read-only, and CR0.WP is 1."""
    before = bytes(twins.virtual.machine.memory.view[0x60_0000:0x62_2000])
    for address in range(VMM, VMM + 0x2_2000, 0x1000):
        twins.begin(bytes.fromhex(text) + d32(address + 8) + b"\xf4", start(eax=0x1234))
        twins.virtual.machine.run(5)
    after = twins.virtual.machine.memory.view[0x60_0000:0x62_2000]
    begun = bytes(before)
    assert [i for i, (a, b) in enumerate(zip(begun, after, strict=True)) if a != b and i >= 8 * 48] == []


def test_the_kernel_reads_the_vmm_s_part(twins: Twins) -> None:
    """A leak of this PC, where no segment limit keeps ring 1 out (docs/deviations.md): it reads its shadow GDT."""
    difference = twins.compare(b"\xa1" + d32(VMM + CS0 + 4) + b"\xf4")
    assert difference is not None
    assert difference.step == 1
    assert twins.virtual.machine.processor.guest_state().general[EAX] == 0x00CF_BB00
    assert twins.bare.machine.processor.guest_state().general[EAX] == 0xFFFF_FFFF
    assert not twins.virtual.log.attempts


# ------------------------------------------------------------------------------------------------ traced pages


@pytest.mark.parametrize(
    "raw",
    [
        t.segment(t.DATA_R0, t.BYTES_32, 0x100, 0xFFF),
        t.segment(t.DATA_R0 & 0x7F),
        t.segment(t.DATA_R3),
        t.segment(t.DATA_R3 & 0x7F),
        bytes(8),
        t.segment(t.READ_ONLY_R0),
        t.segment(t.CODE_R0),
    ],
)
@pytest.mark.parametrize("selector", [DS0, DS3])
def test_a_descriptor_rewritten_while_in_use(twins: Twins, selector: int, raw: bytes) -> None:
    """Segment registers keep their hidden parts, and the next load sees the new descriptor (Vol. 3A §3.4.3)."""
    at = GDT + (selector & ~7)
    words = [int.from_bytes(raw[i : i + 4], "little") for i in (0, 4)]
    rewrite = store(at, words[0]) + store(at + 4, words[1])
    for load in (DS0, DS3):
        twins.renew()
        twins.run(b"\xb8" + d32(load) + b"\x8e\xd8\x8e\xc0\x36\x90" + rewrite + b"\xa1" + d32(DATA) + load_ds(load))
        twins.renew()
        twins.run(b"\xb8" + d32(load) + b"\x8e\xc0\x8e\xe0" + rewrite + b"\x8e\xc0\x8e\xe0\x8e\xe8\xf4")


@pytest.mark.parametrize("entry", [DS3 & ~7, CS3 & ~7, 0x60])
@pytest.mark.parametrize("byte", range(8))
def test_one_byte_of_a_descriptor(twins: Twins, entry: int, byte: int) -> None:
    change = b"\x80\x35" + d32(GDT + entry + byte) + b"\x11"  # XOR byte, 11H
    twins.run(b"\xb8" + d32(entry | 3) + b"\x8e\xc0" + change + b"\x8e\xc0\xf4")


def test_the_accessed_flag_may_be_cleared_and_comes_back(twins: Twins) -> None:
    clear = b"\x80\x25" + d32(GDT + 0x25) + b"\xfe"
    state = twins.run(load_ds(DS3)[:-1] + clear + load_ds(DS3)[:-1] + b"\xa1" + d32(GDT + 0x24) + b"\xf4")
    assert state.general[EAX] >> 8 & 1


def test_an_ldt_is_followed_like_the_gdt(twins: Twins) -> None:
    twins.run(
        load_ds(0x14)[:-1] + store(LDT + 0x14, 0x0040_7200) + load_ds(0x14)[:-1]
        + store(GDT + LDT_ + 4, 0x0000_8200) + load_ds(0x14)
    )  # fmt: skip


@pytest.mark.parametrize("address", [BIG_GDT + 0xFFE, BIG_GDT + 0xFFD, BIG_GDT + 0x1FFC, BIG_GDT - 2, BIG_GDT + 0x2FFE])
def test_a_store_across_traced_pages(twins: Twins, address: int) -> None:
    twins.write(BIG_GDT, contents()[GDT] + bytes(0x2E80))
    twins.run(lgdt(BIG_GDT, 0x2FFF) + store(address, 0x1122_3344) + b"\xf4")
    assert twins.virtual.log.counts[TrapReason.DESCRIPTOR_TABLE_WRITE] == 1


@pytest.mark.parametrize("text", ["60 61", "c8200004 c9", "0fae442480", "0fc70c24", "f3ab", "9b dd3424", "6766a5"])
def test_instructions_that_write_much_across_traced_pages(twins: Twins, text: str) -> None:
    twins.write(BIG_GDT, contents()[GDT] + bytes(0x2E80))
    top = BIG_GDT + 0x1010
    twins.run(lgdt(BIG_GDT, 0x2FFF) + b"\xbc" + d32(top) + bytes.fromhex(text) + b"\xf4", start(edi=top - 0x18, ecx=12))


def test_tables_stack_data_and_code_in_one_page(twins: Twins) -> None:
    """Every store of the program is traced, its own modification among them, and it is stepped through."""
    at = GDT + 0x300
    body = (
        b"\xc6\x05" + d32(at + 7 + 1 + 1) + b"\x41"  # overwrites the INC that comes next but one
        + b"\x50\x90\x40\x50\xe8\0\0\0\0\x58\x6a\x05\x5b" + load_ds(DS3)
    )  # fmt: skip
    for eflags in (2, 0x102):
        twins.renew()
        twins.run(body, start(rip=at, esp=GDT + 0x800, eflags=eflags), at=at)
    assert twins.virtual.log.counts[TrapReason.DESCRIPTOR_TABLE_WRITE] >= 1


def test_interrupt_frames_on_a_page_of_descriptors(twins: Twins) -> None:
    twins.run(b"\xcd\x80", start(esp=GDT + 0x900))
    twins.run(b"\xcd\x80", start(esp=GDT + DS3 + 9))  # over descriptors


def test_a_table_that_moves_releases_its_old_page(twins: Twins) -> None:
    twins.write(BIG_GDT, contents()[GDT])
    twins.run(lgdt(BIG_GDT, 0x17F) + store(GDT + 0x24, 5) + store(BIG_GDT + 0x24, 0x00CF_9300) + load_ds(0x20))
    assert twins.virtual.log.counts[TrapReason.DESCRIPTOR_TABLE_WRITE] == 1


def test_a_far_return_from_a_stack_that_ends_in_a_hole(twins: Twins) -> None:
    """IRET pops EFLAGS from nowhere and then meets the shadow of user code: the VMM's business, not the guest's."""
    twins.write(MEMORY - 8, d32(CODE) + d32(CS3))
    twins.run(b"\xcb", start(esp=MEMORY - 8))
    twins.write(MEMORY - 6, d32(CODE)[:4] + d16(CS3))
    twins.run(b"\x66\xcf", start(esp=MEMORY - 6))


def test_lar_of_a_selector_in_a_hole_is_one_instruction(twins: Twins) -> None:
    twins.run(b"\x0f\x02\x05" + d32(HOLE) + b"\x40\x40\xf4", start(cs=USER))
    state = replace(start(cs=USER), ldtr=start().ldtr)
    twins.run(b"\x0f\x00\x25" + d32(HOLE) + b"\x40\xf4", state)
