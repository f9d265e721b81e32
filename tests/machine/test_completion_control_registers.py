"""MOV CR, LMSW, SMSW, CLTS, MOV DR with the processor's checks (SDM Vol. 2A, 2B; Vol. 3A §2.5, Vol. 3B §18.2)."""

from __future__ import annotations

import pytest

from simvirt.machine.clock import GuestClock
from simvirt.machine.devices.local_apic import LocalApic
from simvirt.machine.event_queue import EventQueue
from simvirt.machine.state import Segment
from simvirt.x86.exceptions import Vector
from tests.support.code import le
from tests.support.paging import paged_pc
from tests.support.pc import (
    CODE,
    CS,
    CS0_64,
    DATA,
    EAX,
    EBX,
    ECX,
    PAGE_TABLES,
    TR,
    TSS,
    Pc,
    flat_pc,
    identity_tables,
    long_pc,
    real_pc,
)  # fmt: skip

PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG = (1 << bit for bit in (0, 1, 2, 3, 4, 5, 16, 18, 29, 30, 31))
PAE = 1 << 5
LME, LMA = 1 << 8, 1 << 10
GP0 = (Vector.GP, [0, CODE])


def outcome(pc: Pc) -> tuple[int, list[int]] | None:
    """Complete the instruction at RIP: None when it retired, or the vector with error code and EIP of its fault."""
    pc.complete(pc.event(1))
    if pc.cpu.count:
        return None
    return pc.vector, pc.stack(2, 8 if pc.state.code_64 else 4)


def mov_to_cr(pc: Pc, number: int, value: int) -> tuple[int, list[int]] | None:
    pc.state[EAX] = value
    pc.load(f"0f 22 {0xC0 | number << 3:02x} ; mov cr{number}, eax")
    return outcome(pc)


# ------------------------------------------------------------------------------------------------ CR0


@pytest.mark.parametrize("value", [PG | ET, PE | NW | ET, PG | NW])
def test_cr0_combinations_that_are_refused(value: int) -> None:
    """PG without PE, NW without CD."""
    pc = flat_pc()
    assert mov_to_cr(pc, 0, value) == GP0
    assert pc.state.cr0 == PE | ET


@pytest.mark.parametrize("value", [PE | MP, PE | EM, PE | TS, PE | NE, PE | WP, PE | AM, PE | CD, PE | CD | NW])
def test_cr0_bits_are_stored(value: int) -> None:
    pc = flat_pc()
    assert mov_to_cr(pc, 0, value) is None
    assert pc.state.cr0 == value | ET, "ET is always 1"


def test_reserved_bits_of_cr0_are_ignored() -> None:
    pc = flat_pc()
    assert mov_to_cr(pc, 0, 0x1FFA_FFC0 | PE) is None
    assert pc.state.cr0 == PE | ET


def test_upper_half_of_cr0_is_refused_in_64_bit_mode() -> None:
    pc = long_pc()
    assert mov_to_cr(pc, 0, 1 << 32 | PG | PE) == GP0


def test_reading_cr0_in_64_bit_mode_takes_the_whole_register() -> None:
    pc = long_pc()
    pc.state[EAX] = (1 << 64) - 1
    pc.load("0f 20 c0 ; mov rax, cr0")
    assert outcome(pc) is None
    assert pc.state[EAX] == PG | PE | ET


def test_64_bit_mode_cannot_be_left_by_clearing_pg() -> None:
    pc = long_pc()
    assert mov_to_cr(pc, 0, PE) == GP0


def test_activating_ia_32e_mode_sets_lma() -> None:
    pc = flat_pc()
    pc.state.set_control_register(3, identity_tables(pc))
    pc.state.set_control_register(4, PAE)
    pc.state.efer = LME
    pc.state.refresh()
    assert mov_to_cr(pc, 0, PG | PE) is None
    assert pc.state.efer == LME | LMA
    assert not pc.state.code_64, "compatibility mode until a far jump"


def test_ia_32e_mode_needs_pae() -> None:
    pc = flat_pc()
    pc.state.efer = LME
    assert mov_to_cr(pc, 0, PG | PE) == GP0
    assert pc.state.efer == LME


def test_ia_32e_mode_cannot_begin_in_a_64_bit_code_segment() -> None:
    """CS.L = 1 while LMA becomes 1 (Vol. 2B "MOV to CR", 32-bit #GP conditions)."""
    pc = flat_pc()
    pc.state.set_control_register(4, PAE)
    pc.state.efer = LME
    cs = pc.state.segment(CS)
    pc.state.set_segment(CS, Segment(cs.selector, 0, 0xFFFF_FFFF, cs.flags | 1 << 21))
    pc.state.refresh()
    assert mov_to_cr(pc, 0, PG | PE) == GP0


def test_ia_32e_mode_cannot_begin_with_a_16_bit_tss() -> None:
    pc = flat_pc()
    pc.state.set_control_register(3, identity_tables(pc))
    pc.state.set_control_register(4, PAE)
    pc.state.efer = LME
    pc.state.tr = Segment(TR, TSS, 0x2B, 0x8100)
    assert mov_to_cr(pc, 0, PG | PE) == GP0


def test_compatibility_mode_can_turn_paging_off() -> None:
    pc = long_pc()
    pc.ring(0, 0x08, 0x10, 0x2_0000)
    assert mov_to_cr(pc, 0, PE) is None
    assert pc.state.efer & (LME | LMA) == LME


# ------------------------------------------------------------------------------------------------ CR2, CR3, CR4, CR8


def test_cr2_takes_any_value() -> None:
    pc = flat_pc()
    assert mov_to_cr(pc, 2, 0xDEAD_BEEF) is None
    assert pc.state.cr2 == 0xDEAD_BEEF


@pytest.mark.parametrize("bit", [0, 1, 6, 12, 13, 14, 15, 17, 18, 19, *range(22, 32)])
def test_cr4_bits_that_the_processor_does_not_have(bit: int) -> None:
    pc = flat_pc()
    assert mov_to_cr(pc, 4, 1 << bit) == GP0
    assert pc.state.cr4 == 0


@pytest.mark.parametrize("bit", [2, 3, 4, 5, 7, 8, 9, 10, 11, 16, 20, 21])
def test_cr4_bits_that_it_has(bit: int) -> None:
    pc = flat_pc()
    assert mov_to_cr(pc, 4, 1 << bit) is None
    assert pc.state.cr4 == 1 << bit


@pytest.mark.parametrize(
    ("model", "bits"),
    [("pentium", 0x1C), ("pentium4", 0x7BC), ("core2", 0x7BC), ("x86-64", 0x31_0FBC)],
)
def test_cr4_has_the_bits_of_the_model_s_features(model: str, bits: int) -> None:
    """TSD, DE, PSE; PAE, PGE, PCE, OSFXSR, OSXMMEXCPT; UMIP, FSGSBASE, SMEP, SMAP."""
    for bit in range(32):
        pc = flat_pc(cpu_model=model)
        pc.engine.follow_model(pc.bus.cpu_model)
        assert (mov_to_cr(pc, 4, 1 << bit) is None) is bool(bits >> bit & 1), bit


def test_upper_half_of_cr4_is_refused() -> None:
    assert mov_to_cr(long_pc(), 4, 1 << 32 | PAE) == GP0


def test_pae_cannot_be_cleared_in_ia_32e_mode() -> None:
    assert mov_to_cr(long_pc(), 4, 0) == GP0


def test_mov_cr_is_privileged() -> None:
    for listing in (
        "0f 22 c0 ; mov cr0, eax",
        "0f 20 c0 ; mov eax, cr0",
        "0f 22 d8 ; mov cr3, eax",
        "0f 20 e0 ; mov eax, cr4",
    ):
        pc = flat_pc()
        pc.user()
        pc.load(listing)
        assert outcome(pc) == GP0


@pytest.mark.parametrize("number", [1, 5, 6, 7])
def test_control_registers_that_do_not_exist(number: int) -> None:
    for opcode in ("20", "22"):
        pc = flat_pc()
        pc.load(f"0f {opcode} {0xC0 | number << 3:02x} ; raw mov")
        event = pc.event()
        pc.complete(event)
        assert pc.vector == Vector.UD


def test_mov_cr_ignores_the_mode_field() -> None:
    """The instruction has register operands only; mod is ignored (Vol. 2B)."""
    pc = flat_pc()
    pc.state[EAX] = 0x1000
    pc.load("0f 22 10 ; raw mov cr2, eax")
    assert outcome(pc) is None
    assert pc.state.cr2 == 0x1000


def test_cr8_takes_four_bits() -> None:
    pc = long_pc()
    pc.state[EAX] = 16
    pc.load("44 0f 22 c0 ; mov cr8, rax")
    assert outcome(pc) == GP0


CR8 = "44 0f 22 c0 ; mov cr8, rax\n44 0f 20 c3 ; mov rbx, cr8\nf4 ; hlt"


def test_cr8_is_the_task_priority_of_the_local_apic() -> None:
    pc = long_pc()
    pc.bus.local_apic = apic = LocalApic(GuestClock(lambda: 0), EventQueue(), lambda _ns: None)
    pc.state[EAX] = 5
    pc.load(CR8)
    pc.run()
    assert (pc.state[EBX], apic.read(0x80, 4)) == (5, 0x50)


def test_cr8_without_a_local_apic_reads_zero() -> None:
    pc = long_pc()
    pc.state[EAX] = 5
    pc.load(CR8)
    pc.state[EBX] = 9
    pc.run()
    assert pc.state[EBX] == 0


@pytest.mark.parametrize("bit", [36, 40, 52, 63])
def test_reserved_bits_of_cr3_are_refused_in_64_bit_mode(bit: int) -> None:
    pc = long_pc(cpu_model="core2")
    pc.engine.follow_model(pc.bus.cpu_model)
    assert mov_to_cr(pc, 3, PAGE_TABLES | 1 << bit) == GP0
    assert pc.state.cr3 == PAGE_TABLES


@pytest.mark.parametrize("low", [0, 0x18, 0xFE7])
def test_ignored_bits_of_cr3_are_kept(low: int) -> None:
    pc = long_pc()
    assert mov_to_cr(pc, 3, PAGE_TABLES | low) is None
    assert pc.state.cr3 == PAGE_TABLES | low


def test_mov_to_cr3_takes_any_register() -> None:
    for register in range(16):
        pc = long_pc()
        pc.state[register] = PAGE_TABLES | 0x18
        pc.load(f"{0x48 | register >> 3:02x} 0f 22 {0xD8 | register & 7:02x} ; mov cr3, r{register}\nf4 ; hlt")
        pc.run()
        assert (pc.state.cr3, pc.state.rip) == (PAGE_TABLES | 0x18, CODE + 4)


# ------------------------------------------------------------------------------------------------ PDPTE registers

_GIGABYTE = 1 << 30


def pae_pc() -> Pc:
    """PAE paging in use; the first 2 MBytes are mapped by the first PDPTE, and again by the second."""
    pc = flat_pc(cpu_model="core2")
    pc.engine.follow_model(pc.bus.cpu_model)
    pc.write64(PAGE_TABLES + 0x1000, 0x83)
    for number in range(2):
        pc.write64(PAGE_TABLES + 8 * number, PAGE_TABLES + 0x1000 | 1)
    pc.set_paging(PAGE_TABLES, cr4=PAE)
    return pc


@pytest.mark.parametrize("bit", [1, 2, 5, 6, 7, 8, 36, 51, 52, 62, 63])
def test_a_present_pdpte_with_a_reserved_bit_is_refused(bit: int) -> None:
    pc = pae_pc()
    pc.write64(PAGE_TABLES + 16, 1 << bit | 1)
    before = pc.state.pdptes
    assert mov_to_cr(pc, 3, PAGE_TABLES) == GP0
    assert pc.state.pdptes == before, "none is loaded"


@pytest.mark.parametrize("entry", [(1 << 64) - 2, PAGE_TABLES | 0xE19])
def test_reserved_bits_count_in_present_pdptes_alone(entry: int) -> None:
    pc = pae_pc()
    pc.write64(PAGE_TABLES + 24, entry)
    assert mov_to_cr(pc, 3, PAGE_TABLES) is None
    assert pc.state.pdptes[3] == entry


def test_pdptes_are_registers() -> None:
    """What is written to their table counts from the next MOV to CR3 on, whatever INVLPG says."""
    pc = pae_pc()
    pc.write64(PAGE_TABLES + 8, 0)
    pc.load(f"""
        0f 01 3d {le(_GIGABYTE + DATA)} ; invlpg
        a1 {le(_GIGABYTE + DATA)}       ; mov eax, [DATA]
        b8 {le(PAGE_TABLES)}            ; mov eax, PAGE_TABLES
        0f 22 d8                        ; mov cr3, eax
        a1 {le(_GIGABYTE + DATA)}       ; mov eax, [DATA]
    """)
    pc.run()
    assert (pc.vector, pc.state.cr2, pc.stack(2)[1]) == (Vector.PF, _GIGABYTE + DATA, CODE + 20)


@pytest.mark.parametrize(
    ("number", "value", "loads"),
    [
        (0, PG | PE | ET | CD, True),
        (0, PG | PE | ET | CD | NW, True),
        (0, PG | PE | ET | WP, False),
        (0, PE | ET, False),
        (4, PAE | 1 << 4, True),
        (4, PAE | 1 << 7, True),
        (4, PAE | 1 << 2, False),
        (4, 0, False),
    ],
)
def test_what_else_loads_pdptes(number: int, value: int, loads: bool) -> None:
    """A change of CD, NW, PG, PAE, PGE, PSE or SMEP that leaves PAE paging in use (Vol. 3A §4.4.1)."""
    pc = pae_pc()
    pc.write64(PAGE_TABLES + 8, PAGE_TABLES + 0x2000 | 1)
    assert mov_to_cr(pc, number, value) is None
    assert pc.state.pdptes[1] == PAGE_TABLES + (0x2001 if loads else 0x1001)
    pc = pae_pc()
    pc.write64(PAGE_TABLES + 8, 3)
    assert (mov_to_cr(pc, number, value) is None) is not loads


@pytest.mark.parametrize("reserved", [0, 2])
def test_turning_pae_paging_on_loads_and_checks_pdptes(reserved: int) -> None:
    pc = flat_pc()
    pc.write64(PAGE_TABLES, PAGE_TABLES + 0x1001 | reserved)
    pc.write64(PAGE_TABLES + 0x1000, 0x83)
    pc.state.set_control_register(3, PAGE_TABLES)
    pc.state.set_control_register(4, PAE)
    assert (mov_to_cr(pc, 0, PG | PE | ET) is None) is not bool(reserved)
    assert pc.state.pae_paging is not bool(reserved)


def test_setting_pae_while_paging_is_on_loads_and_checks_pdptes() -> None:
    """The page directory is the new table, and its entry of a large page has reserved bits."""
    pc = flat_pc()
    pc.write32(PAGE_TABLES, 0x83)
    pc.set_paging(PAGE_TABLES, cr4=1 << 4)
    assert mov_to_cr(pc, 4, PAE | 1 << 4) == GP0
    assert pc.state.cr4 == 1 << 4


# ------------------------------------------------------------------------------------------------ LMSW, SMSW, CLTS


def test_lmsw_loads_four_bits_and_cannot_clear_pe() -> None:
    pc = flat_pc()
    pc.state[EAX] = 0xFFFF_FFFE
    pc.load("0f 01 f0 ; lmsw ax")
    assert outcome(pc) is None
    assert pc.state.cr0 == PE | MP | EM | TS | ET
    pc = flat_pc()
    pc.state[EAX] = 0
    pc.load("0f 01 f0 ; lmsw ax")
    assert outcome(pc) is None
    assert pc.state.cr0 == PE | ET


def test_lmsw_from_memory_enters_protected_mode() -> None:
    pc = real_pc()
    pc.write(CODE + 0x100, b"\x01\x00")
    pc.load("2e 0f 01 36 00 01 ; lmsw word ptr cs:[0x100]")
    assert outcome(pc) is None
    assert pc.state.protected_mode
    assert pc.state.cpl == 0


def test_clts() -> None:
    pc = flat_pc()
    pc.state.set_control_register(0, PE | ET | TS | MP)
    pc.state.refresh()
    pc.load("0f 06 ; clts\n9b ; wait\nf4 ; hlt")
    pc.run()
    assert pc.state.cr0 == PE | ET | MP


def test_task_switched_makes_fpu_instructions_fault() -> None:
    """CR0.TS and EM: #NM (§2.5); MP is for WAIT."""
    for cr0, listing, faults in (
        (TS, "d9 e8 ; fld1", True), (EM, "d9 e8 ; fld1", True), (MP, "d9 e8 ; fld1", False),
        (TS, "9b ; wait", False), (TS | MP, "9b ; wait", True), (EM, "9b ; wait", False),
    ):  # fmt: skip
        pc = flat_pc()
        assert mov_to_cr(pc, 0, PE | cr0) is None
        pc.state.rip = CODE
        pc.load(listing + "\nf4 ; hlt")
        pc.run()
        assert (pc.state.rip != CODE + len(bytes.fromhex(listing.split(";")[0]))) is faults
        if faults:
            assert pc.vector == Vector.NM


@pytest.mark.parametrize("listing", ["0f 01 f0 ; lmsw ax", "0f 06 ; clts"])
def test_lmsw_and_clts_are_privileged(listing: str) -> None:
    pc = flat_pc()
    pc.user()
    pc.load(listing)
    assert outcome(pc) == GP0


def test_smsw_shows_cr0_to_everybody() -> None:
    pc = flat_pc()
    pc.user()
    pc.state.set_control_register(0, PE | ET | NE)
    pc.load(f"0f 01 25 {le(DATA)} ; smsw word ptr [DATA]\n0f 01 e1 ; smsw ecx")
    pc.write32(DATA, 0xFFFF_FFFF)
    pc.step(2)
    assert pc.read(DATA, 4) == 0xFFFF_0031, "a memory operand has 16 bits"
    assert pc.state[ECX] & 0xFFFF == 0x31


# ------------------------------------------------------------------------------------------------ debug registers


def mov_to_dr(pc: Pc, number: int, value: int) -> tuple[int, list[int]] | None:
    pc.state[EAX] = value
    pc.load(f"0f 23 {0xC0 | number << 3:02x} ; mov dr{number}, eax")
    return outcome(pc)


def test_reset_values() -> None:
    """Vol. 3A Table 10-1."""
    pc = flat_pc()
    assert [pc.state.debug_register(n) for n in (0, 1, 2, 3, 6, 7)] == [0, 0, 0, 0, 0xFFFF_0FF0, 0x400]


@pytest.mark.parametrize(
    ("number", "written", "read"),
    [
        (0, 0x1234_5678, 0x1234_5678),
        (3, 0xFFFF_FFFF, 0xFFFF_FFFF),
        (6, 0, 0xFFFF_0FF0),
        (6, 0xFFFF_FFFF, 0xFFFF_EFFF),  # bit 12 reads as zero
        (7, 0, 0x400),
        (7, 0xFFFF_FFFF, 0xFFFF_27FF),  # bits 11, 12, 14 and 15 read as zero, bit 10 as one
    ],
)
def test_debug_registers_keep_what_they_have(number: int, written: int, read: int) -> None:
    pc = flat_pc()
    assert mov_to_dr(pc, number, written & ~(1 << 13) if number == 7 else written) is None
    pc.state.rip = CODE
    pc.load(f"0f 21 {0xC3 | number << 3:02x} ; mov ebx, dr{number}\nf4 ; hlt")
    pc.run()
    assert pc.state[EBX] == (read & ~(1 << 13) if number == 7 else read)


@pytest.mark.parametrize(("alias", "real"), [(4, 6), (5, 7)])
def test_dr4_and_dr5(alias: int, real: int) -> None:
    """Aliases while CR4.DE is 0, #UD otherwise (§18.2.2)."""
    pc = flat_pc()
    assert mov_to_dr(pc, alias, 0) is None
    pc.state.rip = CODE
    pc.load(f"0f 21 {0xC3 | alias << 3:02x} ; mov ebx, dr{alias}\nf4 ; hlt")
    pc.run()
    assert pc.state[EBX] == pc.state.debug_register(real)
    for opcode, word in (("23", f"dr{alias}, ebx"), ("21", f"ebx, dr{alias}")):
        pc = flat_pc()
        pc.state.set_control_register(4, 1 << 3)
        pc.load(f"0f {opcode} {0xC3 | alias << 3:02x} ; mov {word}")
        assert outcome(pc) == (Vector.UD, [CODE, 0x08])


def test_mov_dr_is_privileged() -> None:
    for listing in ("0f 23 c0 ; mov dr0, eax", "0f 21 f8 ; mov eax, dr7"):
        pc = flat_pc()
        pc.user()
        pc.load(listing)
        assert outcome(pc) == GP0


@pytest.mark.parametrize("number", [6, 7])
def test_upper_half_of_dr6_and_dr7_is_refused(number: int) -> None:
    assert mov_to_dr_64(long_pc(), number, 1 << 32) == GP0


def mov_to_dr_64(pc: Pc, number: int, value: int) -> tuple[int, list[int]] | None:
    pc.state[EAX] = value
    pc.load(f"0f 23 {0xC0 | number << 3:02x} ; mov dr{number}, rax")
    return outcome(pc)


def test_dr0_has_64_bits_in_64_bit_mode() -> None:
    pc = long_pc()
    assert mov_to_dr_64(pc, 0, 0x1234_5678_9ABC_DEF0) is None
    assert pc.state.debug_register(0) == 0x1234_5678_9ABC_DEF0


# ------------------------------------------------------------------------------------------------ INVLPG and friends


@pytest.mark.parametrize("listing", ["0f 01 38 ; invlpg [eax]", "0f 08 ; invd", "0f 09 ; wbinvd", "f4 ; hlt"])
def test_privileged_instructions(listing: str) -> None:
    pc = paged_pc()
    pc.user()
    pc.load(listing)
    pc.complete(pc.event())
    assert (pc.vector, pc.stack(2)) == GP0


def test_invlpg_of_an_unmapped_address_is_harmless() -> None:
    pc = paged_pc()
    pc.state[EAX] = 0xC000_0000
    pc.load("0f 01 38 ; invlpg [eax]\nf4 ; hlt")
    pc.run()
    assert (pc.state.rip, pc.cpu.count) == (CODE + 3, 1)


def test_extended_registers() -> None:
    """REX.R and REX.B name R8 to R15."""
    pc = long_pc()
    pc.state[9] = 0xABCD_E000
    pc.load("41 0f 22 d1 ; mov cr2, r9\n45 0f 20 c2 ; raw mov r10, cr8\n41 0f 20 d3 ; mov r11, cr2\nf4 ; hlt")
    pc.run()
    assert pc.state[11] == 0xABCD_E000
    assert pc.state.selector(CS) == CS0_64
