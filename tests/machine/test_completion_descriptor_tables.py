"""LTR, LGDT and their kin, UMIP (SDM Vol. 2A; Vol. 3A §2.5 CR4.UMIP, §7.2.4)."""

from __future__ import annotations

import pytest

from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.code import le
from tests.support.paging import PRESENT, WRITABLE, paged_pc, protect
from tests.support.pc import (
    CODE,
    CS0,
    DATA,
    DS0,
    EAX,
    EBX,
    GDT,
    GDT_ENTRIES,
    IDT,
    LDT,
    LDT_SELECTOR,
    SPARE,
    TR,
    TSS,
    Pc,
    flat_pc,
    long_pc,
    real_pc,
)  # fmt: skip

UMIP = 1 << 11


def fault_of(pc: Pc) -> tuple[int, list[int]] | None:
    """Complete the instruction at RIP: None when it retired, or vector with error code and return address."""
    before = pc.cpu.count
    event = pc.event(1)
    pc.complete(event)
    if pc.cpu.count > before:
        return None
    return pc.vector, pc.stack(2, 8 if pc.state.code_64 else 4)


def ltr(pc: Pc, selector: int) -> tuple[int, list[int]] | None:
    pc.state[EAX] = selector
    pc.load("0f 00 d8 ; ltr ax")
    return fault_of(pc)


# ------------------------------------------------------------------------------------------------ LTR


@pytest.mark.parametrize(("kind", "flags"), [(tables.TSS32, 0x8900), (tables.TSS16, 0x8100)])
def test_ltr_loads_an_available_tss_and_marks_it_busy(kind: int, flags: int) -> None:
    pc = flat_pc()
    pc.set_descriptor(SPARE, tables.segment(kind, 0, 0x4_5678, 0x123))
    assert ltr(pc, SPARE) is None
    tr = pc.state.tr
    assert (tr.selector, tr.base, tr.limit, tr.flags & ~0x200) == (SPARE, 0x4_5678, 0x123, flags)
    assert pc.read(GDT + SPARE + 5, 1) == kind | 2


def test_ltr_rpl_does_not_matter() -> None:
    pc = flat_pc()
    pc.set_descriptor(SPARE, tables.segment(tables.TSS32, 0, TSS, 0x67))
    assert ltr(pc, SPARE | 3) is None
    assert pc.state.tr.selector == SPARE | 3


@pytest.mark.parametrize("selector", range(4))
def test_ltr_null(selector: int) -> None:
    assert ltr(flat_pc(), selector) == (Vector.GP, [0, CODE])


@pytest.mark.parametrize(
    ("selector", "data"),
    [
        (TR, None),  # busy
        (CS0, None),
        (DS0, None),
        (LDT_SELECTOR, None),
        (8 * GDT_ENTRIES, None),  # beyond the limit
        (SPARE, tables.gate(tables.CALL_GATE_32, CS0, 0)),
        (SPARE, tables.gate(tables.TASK_GATE, TR, 0)),
        (SPARE | 4, tables.segment(tables.TSS32, 0, TSS, 0x67)),  # in the LDT
    ],
)
def test_ltr_of_something_else(selector: int, data: bytes | None) -> None:
    pc = flat_pc()
    if data is not None:
        pc.set_descriptor(selector, data)
    assert ltr(pc, selector) == (Vector.GP, [selector & ~3, CODE])


def test_ltr_not_present() -> None:
    pc = flat_pc()
    pc.set_descriptor(SPARE, tables.segment(tables.TSS32 & 0x7F, 0, TSS, 0x67))
    assert ltr(pc, SPARE) == (Vector.NP, [SPARE, CODE])


def test_ltr_from_memory_and_its_page_fault() -> None:
    pc = paged_pc()
    pc.set_descriptor(SPARE, tables.segment(tables.TSS32, 0, TSS, 0x67))
    pc.write(DATA, SPARE.to_bytes(2, "little"))
    pc.load(f"0f 00 1d {le(DATA)} ; ltr word ptr [DATA]")
    assert fault_of(pc) is None
    assert pc.state.tr.selector == SPARE
    pc.state.rip = CODE
    protect(pc, DATA, clear=PRESENT)
    assert fault_of(pc) == (Vector.PF, [0, CODE])
    assert pc.state.cr2 == DATA


def test_ltr_whose_busy_flag_cannot_be_written() -> None:
    pc = paged_pc()
    pc.set_descriptor(SPARE, tables.segment(tables.TSS32, 0, TSS, 0x67))
    for selector, access in ((CS0, tables.CODE_R0), (DS0, tables.DATA_R0)):
        pc.set_descriptor(selector, tables.segment(access | 1))  # accessed, so that the handler can be entered
    protect(pc, GDT, clear=WRITABLE)
    assert ltr(pc, SPARE) == (Vector.PF, [3, CODE])
    assert pc.state.tr.selector == TR


def test_ltr_is_privileged_and_unknown_in_real_mode() -> None:
    pc = flat_pc()
    pc.user()
    assert ltr(pc, SPARE) == (Vector.GP, [0, CODE])
    pc = real_pc()
    pc.load("0f 00 d8 ; ltr ax")
    pc.complete(pc.event())
    assert pc.state.rip == 16 * Vector.UD


def test_ltr_in_64_bit_mode_reads_sixteen_bytes() -> None:
    pc = long_pc()
    base = 0xFFFF_8000_0000_1000
    pc.set_descriptor(SPARE, tables.system_segment_64(tables.TSS32, base, 0x67))
    assert ltr(pc, SPARE) is None
    assert (pc.state.tr.base, pc.state.tr.limit) == (base, 0x67)


def test_ltr_in_64_bit_mode_with_half_a_descriptor_in_the_table() -> None:
    pc = long_pc()
    pc.set_descriptor(SPARE, tables.system_segment_64(tables.TSS32, TSS, 0x67))
    pc.state.gdtr = DescriptorTable(GDT, SPARE + 14)
    assert ltr(pc, SPARE) == (Vector.GP, [SPARE, CODE])


def test_ltr_of_a_16_bit_tss_in_64_bit_mode() -> None:
    pc = long_pc()
    pc.set_descriptor(SPARE, tables.system_segment_64(tables.TSS16, TSS, 0x67))
    assert ltr(pc, SPARE) == (Vector.GP, [SPARE, CODE])


def test_ltr_of_an_extended_register() -> None:
    pc = long_pc()
    pc.set_descriptor(SPARE, tables.system_segment_64(tables.TSS32, TSS, 0x67))
    pc.state[8] = SPARE
    pc.load("41 0f 00 d8 ; ltr r8w")
    assert fault_of(pc) is None
    assert pc.state.tr.selector == SPARE


def test_str_shows_the_selector() -> None:
    pc = flat_pc()
    pc.state[EAX] = 0xFFFF_FFFF
    pc.load("0f 00 c8 ; str eax")
    assert fault_of(pc) is None
    assert pc.state[EAX] == TR


# ------------------------------------------------------------------------------------------------ GDTR, IDTR, LDTR


def test_lgdt_and_sgdt() -> None:
    pc = flat_pc()
    pc.write(DATA, bytes.fromhex("3412 78563412"))
    pc.load(f"0f 01 15 {le(DATA)} ; lgdt [DATA]\n0f 01 05 {le(DATA + 16)} ; sgdt [DATA + 16]")
    pc.step(2)
    assert pc.state.gdtr == DescriptorTable(0x1234_5678, 0x1234)
    assert bytes(pc.memory[DATA + 16 : DATA + 22]) == bytes.fromhex("3412 78563412")


def test_16_bit_lidt_loads_24_bits() -> None:
    pc = flat_pc()
    pc.write(DATA, bytes.fromhex("3412 78563412"))
    pc.load(f"66 0f 01 1d {le(DATA)} ; lidt [DATA]")
    pc.step()
    assert pc.state.idtr == DescriptorTable(0x34_5678, 0x1234)


def test_lgdt_in_64_bit_mode_loads_ten_bytes() -> None:
    pc = long_pc()
    pc.write(DATA, bytes.fromhex("3412 001000000080ffff"))
    pc.state[EBX] = DATA
    pc.load("0f 01 13 ; lgdt [rbx]")
    pc.step()
    assert pc.state.gdtr == DescriptorTable(0xFFFF_8000_0000_1000, 0x1234)


def test_lldt_loads_and_null_makes_it_unusable() -> None:
    pc = flat_pc()
    pc.state[EAX] = LDT_SELECTOR
    pc.load("""
        0f 00 d0            ; lldt ax
        31 c0               ; xor eax, eax
        0f 00 d0            ; lldt ax
        b8 0c 00 00 00      ; mov eax, 0xc
        8e d8               ; mov ds, ax
    """)
    pc.write(LDT + 8, tables.segment(tables.DATA_R0))
    pc.step()
    assert (pc.state.ldtr.base, pc.state.ldtr.limit) == (LDT, 0x3F)
    pc.step(3)
    assert pc.state.ldtr == Segment(0, 0, 0, 0)
    assert fault_of(pc) == (Vector.GP, [0x0C, CODE + 13])


@pytest.mark.parametrize("listing", ["0f 01 13 ; lgdt [rbx]", "0f 01 1b ; lidt [rbx]"])
@pytest.mark.parametrize("base", [0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF])
def test_tables_do_not_begin_at_an_address_that_is_not_canonical(listing: str, base: int) -> None:
    pc = long_pc()
    before = pc.state.gdtr, pc.state.idtr
    pc.write(DATA, b"\xff\x0f" + base.to_bytes(8, "little"))
    pc.state[EBX] = DATA
    pc.load(listing)
    assert fault_of(pc) == (Vector.GP, [0, CODE])
    assert (pc.state.gdtr, pc.state.idtr) == before


@pytest.mark.parametrize(("listing", "access"), [("0f 00 d0 ; lldt ax", 0x82), ("0f 00 d8 ; ltr ax", 0x89)])
@pytest.mark.parametrize("upper", [0, 0x1, 0x1F, 0xE0])
def test_the_upper_half_of_a_system_descriptor_has_no_type(listing: str, access: int, upper: int) -> None:
    """IA-32e mode: bits 12:8 of its second doubleword are 0, or it is #GP(selector)."""
    pc = long_pc()
    data = bytearray(tables.system_segment_64(access, 0xFFFF_8000_0000_0000, 0x67))
    data[13] = upper
    pc.set_descriptor(SPARE, bytes(data))
    pc.state[EAX] = SPARE
    pc.load(listing)
    assert fault_of(pc) == ((Vector.GP, [SPARE, CODE]) if upper & 0x1F else None)


def test_lldt_beyond_the_table_counts_sixteen_bytes() -> None:
    pc = long_pc()
    pc.state.gdtr = DescriptorTable(GDT, SPARE + 14)
    pc.set_descriptor(SPARE, tables.system_segment_64(0x82, 0, 0x67))
    pc.state[EAX] = SPARE
    pc.load("0f 00 d0 ; lldt ax")
    assert fault_of(pc) == (Vector.GP, [SPARE, CODE])


@pytest.mark.parametrize(
    "listing", ["0f 01 13 ; lgdt [ebx]", "0f 01 1b ; lidt [ebx]", "0f 00 d0 ; lldt ax", "0f 00 d8 ; ltr ax"]
)
def test_loading_is_privileged(listing: str) -> None:
    pc = flat_pc()
    pc.user()
    pc.state[EBX] = DATA
    pc.load(listing)
    assert fault_of(pc) == (Vector.GP, [0, CODE])


# ------------------------------------------------------------------------------------------------ UMIP

STORING = [
    "0f 01 03 ; sgdt [ebx]",
    "0f 01 0b ; sidt [ebx]",
    "0f 00 c0 ; sldt eax",
    "0f 00 c8 ; str eax",
    "0f 01 e0 ; smsw eax",
    "0f 01 23 ; smsw word ptr [ebx]",
]


@pytest.mark.parametrize("listing", STORING)
@pytest.mark.parametrize("umip", [False, True])
@pytest.mark.parametrize("cpl", [0, 1, 3])
def test_umip(listing: str, umip: bool, cpl: int) -> None:
    """With CR4.UMIP set SGDT, SIDT, SLDT, SMSW and STR are #GP(0) at CPL above 0 (§2.5)."""
    pc = flat_pc()
    pc.load("0f 22 e0 ; mov cr4, eax")
    pc.state[EAX] = umip * UMIP
    pc.step()
    if cpl:
        pc.ring(cpl, 0x1B if cpl == 3 else 0x51, 0x23 if cpl == 3 else 0x59, 0x2_0000)
    pc.state.rip = CODE
    pc.state[EBX] = DATA
    pc.load(listing)
    assert fault_of(pc) == ((Vector.GP, [0, CODE]) if umip and cpl else None)


def test_clearing_umip_opens_them_again() -> None:
    pc = flat_pc()
    for value in (UMIP, 0):
        pc.state.rip = CODE
        pc.state[EAX] = value
        pc.load("0f 22 e0 ; mov cr4, eax")
        pc.step()
    pc.user()
    pc.state.rip = CODE
    pc.load("0f 00 c8 ; str eax")
    assert fault_of(pc) is None


def test_umip_in_ring_0_stores_the_real_values() -> None:
    pc = flat_pc()
    pc.state[EAX], pc.state[EBX] = UMIP, DATA
    pc.load("0f 22 e0 ; mov cr4, eax\n0f 01 0b ; sidt [ebx]\n0f 00 c8 ; str eax\nf4 ; hlt")
    pc.run()
    assert pc.read(DATA, 6) == 0x7FF | IDT << 16
    assert pc.state[EAX] == TR


@pytest.mark.parametrize("listing", ["0f 00 c0 ; sldt ax", "0f 00 c8 ; str ax"])
def test_sldt_and_str_do_not_exist_in_virtual_8086_mode(listing: str) -> None:
    pc = flat_pc()
    pc.state.set_segment(1, Segment(CODE >> 4, CODE, 0xFFFF, 0xFB00))
    pc.state.set_segment(2, Segment(0x3000, 0x3_0000, 0xFFFF, 0xF300))
    pc.state.rip, pc.state.rsp = 0, 0x100
    pc.state.eflags = 2 | 1 << 17
    pc.state.refresh()
    pc.load(listing)
    pc.complete(pc.event())
    assert pc.vector == Vector.UD
