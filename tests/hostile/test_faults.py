"""Bad descriptors, bad tables, bad code, one at a time: the guest gets the exception that the manual names, and nobody else does.

Each guest halts in its handler; the processor's chain of faults says what it was.
"""

from __future__ import annotations

import pytest

from simvirt.x86.exceptions import Vector
from tests.hostile.arena import Arena
from tests.hostile.directed import CALL_GATE, CS0, CS3, DS0, DS3, GDT, HANDLERS, IDT, LDT, SPARE, TASK, guest, raw
from tests.support import tables
from tests.support.code import le

STRATEGIES = ("bare-metal", "trap-and-emulate", "vtx")
FLAT_DATA = tables.segment(tables.DATA_R0)


@pytest.fixture(params=STRATEGIES, scope="module")
def arena(request: pytest.FixtureRequest) -> Arena:
    return Arena(request.param)


def far(opcode: str, selector: int, offset: int = 0) -> str:
    """Far JMP (ea) or CALL (9a) with an immediate pointer."""
    return f"{opcode} {le(offset)} {le(selector, 2)} ; {'jmp' if opcode == 'ea' else 'call'} far\n"


def to_ring_3(listing: str) -> str:
    """IRET to CPL 3, where `listing` follows."""
    return f"""
        6a {le(DS3 | 3, 1)}     ; push ss
        68 {le(0x6_0000)}       ; push esp
        6a 02                   ; push eflags
        6a {le(CS3 | 3, 1)}     ; push cs
        e8 00 00 00 00          ; call to the next
        83 04 24 05             ; add dword ptr [esp], to behind the iret
        cf                      ; iretd
        {listing}
    """


def load(opcode: str, selector: int) -> str:
    """MOV AX, selector, and an instruction that takes it from there."""
    return f"66 b8 {le(selector, 2)} ; mov ax, selector\n{opcode}\n"


LTR, LLDT, MOV_SS, MOV_DS = "0f 00 d8 ; ltr", "0f 00 d0 ; lldt", "8e d0 ; mov ss", "8e d8 ; mov ds"
GP, NP, SS, TS, UD, PF, DE = Vector.GP, Vector.NP, Vector.SS, Vector.TS, Vector.UD, Vector.PF, Vector.DE
CODE_BYTE = HANDLERS

CASES: dict[str, tuple[str, dict[int, bytes], Vector, int | None]] = {
    # name: listing, descriptors, exception, error code
    "LTR of a null selector": (load(LTR, 0), {}, GP, 0),
    "LTR of a data segment": (load(LTR, DS0), {}, GP, DS0),
    "LTR of a busy TSS": (load(LTR, SPARE), {SPARE: tables.segment(tables.BUSY_TSS32, 0, 0x3000, 0x67)}, GP, SPARE),
    "LTR of an absent TSS": (load(LTR, SPARE), {SPARE: tables.segment(tables.TSS32 & 0x7F, 0, 0x3000, 0x67)}, NP, SPARE),
    "LTR of a call gate": (load(LTR, CALL_GATE), {}, GP, CALL_GATE),
    "LTR from the LDT": (load(LTR, SPARE | 4), {}, GP, SPARE | 4),
    "LTR beyond the table": (load(LTR, 0xFFF8), {}, GP, 0xFFF8),
    "LLDT of a TSS": (load(LLDT, TASK), {}, GP, TASK),
    "LLDT of an absent LDT": (load(LLDT, SPARE), {SPARE: tables.segment(tables.LDT & 0x7F)}, NP, SPARE),
    "MOV SS, null": (load(MOV_SS, 0), {}, GP, 0),
    "MOV SS of code": (load(MOV_SS, CS0), {}, GP, CS0),
    "MOV SS of ring 3 data": (load(MOV_SS, DS3 | 3), {}, GP, DS3),
    "MOV SS of an absent segment": (load(MOV_SS, SPARE), {SPARE: tables.segment(tables.DATA_R0 & 0x7F)}, SS, SPARE),
    "MOV DS of an absent segment": (load(MOV_DS, SPARE), {SPARE: tables.segment(tables.DATA_R0 & 0x7F)}, NP, SPARE),
    "MOV DS of execute-only code": (load(MOV_DS, SPARE), {SPARE: tables.segment(0x98)}, GP, SPARE),
    "MOV DS of a TSS": (load(MOV_DS, TASK), {}, GP, TASK),
    "MOV DS from the LDT that is not there": (load(MOV_DS, SPARE | 4), {}, GP, SPARE | 4),
    "MOV CS": ("8e c8 ; raw mov cs, ax", {}, UD, None),
    "JMP to a null selector": (far("ea", 0), {}, GP, 0),
    "JMP beyond the table": (far("ea", 0x1000), {}, GP, 0x1000),
    "JMP to data": (far("ea", DS0), {}, GP, DS0),
    "JMP to ring 3 code": (far("ea", CS3 | 3), {}, GP, CS3),
    "JMP to absent code": (far("ea", SPARE), {SPARE: tables.segment(tables.CODE_R0 & 0x7F)}, NP, SPARE),
    "JMP beyond the limit": (far("ea", SPARE, 0x1_0000), {SPARE: tables.segment(tables.CODE_R0, 0x4, limit=0xFFFF)}, GP, 0),
    "JMP to an LDT": (far("ea", LDT), {}, GP, LDT),
    "CALL to an interrupt gate": (far("9a", SPARE), {SPARE: tables.gate(tables.INT_GATE, CS0, CODE_BYTE)}, GP, SPARE),
    "CALL through an absent gate": (far("9a", SPARE), {SPARE: tables.gate(tables.CALL_GATE_32, CS0, CODE_BYTE, present=False)}, NP, SPARE),
    "CALL through a gate to null": (far("9a", SPARE), {SPARE: tables.gate(tables.CALL_GATE_32, 0, CODE_BYTE)}, GP, 0),
    "CALL through a gate to data": (far("9a", SPARE), {SPARE: tables.gate(tables.CALL_GATE_32, DS0, CODE_BYTE)}, GP, DS0),
    "CALL through a gate beyond the table": (far("9a", SPARE), {SPARE: tables.gate(tables.CALL_GATE_32, 0x2000, 0)}, GP, 0x2000),
    "JMP through a gate with too high an RPL": (far("ea", SPARE | 3), {SPARE: tables.gate(tables.CALL_GATE_32, CS0, CODE_BYTE)}, GP, SPARE),
    "RETF to a null selector": ("6a 00 ; push\n6a 00 ; push\ncb ; retf", {}, GP, 0),
    "RETF to data": (f"6a {le(DS0, 1)} ; push\n6a 00 ; push\ncb ; retf", {}, GP, DS0),
    "IRET to a null selector": ("6a 02 ; push\n6a 00 ; push\n6a 00 ; push\ncf ; iretd", {}, GP, 0),
    "IRET to ring 3 with a ring 0 stack": (
        f"6a {le(DS0, 1)} ; push\n6a 00 ; push\n6a 02 ; push\n6a {le(CS3 | 3, 1)} ; push\n6a 00 ; push\ncf ; iretd", {}, GP, DS0),
    "IRET to ring 3 with a null stack": (
        f"6a 00 ; push\n6a 00 ; push\n6a 02 ; push\n6a {le(CS3 | 3, 1)} ; push\n6a 00 ; push\ncf ; iretd", {}, GP, 0),
    "LDS of a null pointer is fine, LSS is not": (
        "6a 00 ; push\n6a 00 ; push\nc5 04 24 ; lds eax, [esp]\n36 0f b2 04 24 ; lss eax, [esp]", {}, GP, 0),
    "UD2": ("0f 0b ; ud2", {}, UD, None),
    "DIV by zero": ("31 c9 ; xor ecx, ecx\nf7 f1 ; div ecx", {}, DE, None),
    "INT through a gate beyond the IDT": ("cd ff ; int", {}, GP, 0xFF * 8 + 2),
    "17 prefixes": ("66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90 ; raw", {}, GP, 0),
    "LOCK on a load": ("f0 8b 00 ; raw lock mov eax, [eax]", {}, UD, None),
    "LOCK on NOP": ("f0 90 ; raw lock nop", {}, UD, None),
    "RDMSR of no MSR": (f"b9 {le(0x1234_5678)} ; mov ecx\n0f 32 ; rdmsr", {}, GP, 0),
    "WRMSR of a reserved bit of EFER": (
        f"b9 {le(0xC000_0080)} ; mov ecx\n31 d2 ; xor\nb8 02 00 00 00 ; mov eax\n0f 30 ; wrmsr", {}, GP, 0),
    "MOV to CR0 of PG without PE": (f"b8 {le(0x8000_0000)} ; mov eax\n0f 22 c0 ; mov cr0", {}, GP, 0),
    "MOV to CR0 of NW without CD": (f"b8 {le(0x2000_0011)} ; mov eax\n0f 22 c0 ; mov cr0", {}, GP, 0),
    "MOV to CR4 of a reserved bit": (f"b8 {le(1 << 31)} ; mov eax\n0f 22 e0 ; mov cr4", {}, GP, 0),
    "MOV to CR1": ("0f 22 c8 ; raw mov cr1, eax", {}, UD, None),
    "MOV from CR5": ("0f 20 e8 ; raw mov eax, cr5", {}, UD, None),
    "MOV from CR7": ("0f 20 f8 ; raw mov eax, cr7", {}, UD, None),
    "VMCALL": ("0f 01 c1 ; vmcall", {}, UD, None),
    "VMRUN": ("0f 01 d8 ; raw vmrun", {}, UD, None),
    "RSM": ("0f aa ; rsm", {}, UD, None),
    "XSETBV": ("0f 01 d1 ; raw xsetbv", {}, UD, None),
    "XSETBV in ring 3": (to_ring_3("0f 01 d1 ; raw xsetbv"), {}, UD, None),
    "SYSRET in 32-bit code": ("0f 07 ; raw sysret", {}, UD, None),
    "SYSENTER without a CS": ("0f 34 ; sysenter", {}, GP, 0),
    "SYSEXIT without a CS": ("0f 35 ; sysexit", {}, GP, 0),
    "HLT in ring 3": (to_ring_3("f4 ; hlt"), {}, GP, 0),
    "CLI in ring 3": (to_ring_3("fa ; cli"), {}, GP, 0),
    "IN in ring 3": (to_ring_3("e4 20 ; in"), {}, GP, 0),
    "MOV from CR0 in ring 3": (to_ring_3("0f 20 c0 ; mov eax, cr0"), {}, GP, 0),
    "LGDT in ring 3": (to_ring_3("0f 01 10 ; lgdt"), {}, GP, 0),
    "far JMP to ring 0 from ring 3": (to_ring_3(far("ea", CS0)), {}, GP, CS0),
    "INT through a gate of ring 0 from ring 3": (to_ring_3("cd 20 ; int"), {}, GP, 0x20 * 8 + 2),
    "MOV SS of ring 0 from ring 3": (to_ring_3(load(MOV_SS, DS0)), {}, GP, DS0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_guest_gets_the_exception(arena: Arena, name: str) -> None:
    listing, descriptors, vector, error_code = CASES[name]
    gates = {0x20: tables.gate(tables.INT_GATE, CS0, HANDLERS)}
    if name.startswith("INT through a gate beyond"):
        listing = f"68 {le(IDT)} ; push\n66 68 {le(0x6FF, 2)} ; push\n0f 01 1c 24 ; lidt [esp]\n{listing}"
    arena.virtualized.cpu.fault_chain.clear()
    report = arena.run(guest(listing, descriptors=descriptors, gates=gates), 1000)
    assert report.outcome == "halted", report
    chain = [(record.vector, record.error_code) for record in arena.virtualized.cpu.fault_chain]
    assert chain == [(vector, error_code)]


TRIPLE_FAULTS: dict[str, tuple[str, dict[int, bytes]]] = {
    "IDT of limit 0": (f"68 {le(IDT)} ; push\n66 6a 00 ; push\n0f 01 1c 24 ; lidt [esp]\n0f 0b ; ud2", {}),
    "IDT in a hole": (f"68 {le(0xA_0000)} ; push\n66 68 ff 07 ; push\n0f 01 1c 24 ; lidt [esp]\n0f 0b ; ud2", {}),
    "IDT at the top of the address space": (f"68 {le(-8)} ; push\n66 68 ff 07 ; push\n0f 01 1c 24 ; lidt [esp]\ncd 01 ; int", {}),
    "GDT of limit 0": (f"68 {le(GDT)} ; push\n66 6a 00 ; push\n0f 01 14 24 ; lgdt [esp]\n0f 0b ; ud2", {}),
    "GDT in a hole": (f"68 {le(0xA_0000)} ; push\n66 68 ff 00 ; push\n0f 01 14 24 ; lgdt [esp]\n0f 0b ; ud2", {}),
    "GDT that wraps around": (f"68 {le(0xFFFF_FFF0)} ; push\n66 68 ff 07 ; push\n0f 01 14 24 ; lgdt [esp]\n0f 0b ; ud2", {}),
    "a task without a stack": (to_ring_3("0f 0b ; ud2"), {TASK: tables.segment(tables.TSS32, 0, 0x4_0000, 0x67)}),
    "a task of limit 0": (to_ring_3("0f 0b ; ud2"), {TASK: tables.segment(tables.TSS32, 0, 0x3000, 0)}),
    "a task in a hole": (to_ring_3("0f 0b ; ud2"), {TASK: tables.segment(tables.TSS32, 0, 0xA_0000, 0x67)}),
    "a task at the top of the address space": (to_ring_3("0f 0b ; ud2"), {TASK: tables.segment(tables.TSS32, 0, 0xFFFF_FFF8, 0x67)}),
}  # fmt: skip


@pytest.mark.parametrize("name", TRIPLE_FAULTS)
def test_triple_faults(arena: Arena, name: str) -> None:
    listing, descriptors = TRIPLE_FAULTS[name]
    report = arena.run(guest(listing, descriptors=descriptors), 1000)
    assert report.outcome == "triple-fault", report


@pytest.mark.parametrize(
    "code",
    ["0f 0b", "cc", "cd 80", "f7 f0", "ff ff", "0f 00 d8", "ea 00 00 00 00 08 00", "8e d4", "fb f4", "f1", "0f ff"],
)
def test_faults_without_any_table(arena: Arena, code: str) -> None:
    """The state of a flat binary at its entry: GDTR and IDTR are empty."""
    report = arena.run(raw(code), 1000)
    assert report.outcome in ("triple-fault", "halted")


@pytest.mark.parametrize("address", [0xA_0000, 0xFFFF_FFF0, 0x20_0000, 0xFEE0_0000, 0xFFC0_0000])
def test_execution_where_there_is_no_memory(arena: Arena, address: int) -> None:
    """The bus gives ones, and FF FF is no instruction."""
    if address == 0xFFC0_0000 and "trap" in arena.strategy:
        pytest.skip("the VMM's own pages are there: docs/deviations.md")
    arena.virtualized.cpu.fault_chain.clear()
    report = arena.run(guest(f"b8 {le(address)} ; mov eax\nff e0 ; jmp eax"), 1000)
    assert report.outcome == "halted"
    record = arena.virtualized.cpu.fault_chain[-1]
    assert (record.vector, record.rip) == (UD, address)


def test_execution_runs_into_the_end_of_memory(arena: Arena) -> None:
    report = arena.run(guest("90 ; nop\n90 ; nop\n90 ; nop", at=0x20_0000 - 3), 1000)
    assert report.outcome == "halted"
    record = arena.virtualized.cpu.fault_chain[-1]
    assert (record.vector, record.rip) == (UD, 0x20_0000)


def test_an_instruction_that_ends_where_memory_ends(arena: Arena) -> None:
    """MOV EAX, imm32 of which two bytes are memory: the rest reads as ones, or the fetch is #UD; never anything worse."""
    report = arena.run(guest("b8 01 ; raw the beginning of mov eax, imm32", at=0x20_0000 - 2), 1000)
    assert report.outcome == "halted"
