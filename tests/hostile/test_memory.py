"""Instructions whose operands lie where there is no memory, in several pages at once, or in what the VMM watches."""

from __future__ import annotations

import pytest

from simvirt.x86.registers import GeneralRegister
from tests.hostile.arena import Arena
from tests.hostile.directed import GDT, PROLOGUE_COUNT, guest
from tests.support.code import le

HOLE = 0xA_0000
EAX, ECX, ESI, EDI = GeneralRegister.RAX, GeneralRegister.RCX, GeneralRegister.RSI, GeneralRegister.RDI


@pytest.fixture(params=("bare-metal", "trap-and-emulate", "vtx"), scope="module")
def arena(request: pytest.FixtureRequest) -> Arena:
    return Arena(request.param)


def register(arena: Arena, number: int) -> int:
    return arena.machine.processor.guest_state().general[number]


def test_from_one_hole_page_to_another(arena: Arena) -> None:
    """MOVSD from a hole to a hole: nothing happens, and above all no page fault in a guest without paging."""
    report = arena.run(
        guest(f"""
        be {le(HOLE)}           ; mov esi, HOLE
        bf {le(HOLE + 0x5FFE)}  ; mov edi, two pages of it
        a5                      ; movsd
        f4                      ; hlt
    """),
        1000,
    )
    assert (report.outcome, report.count) == ("halted", PROLOGUE_COUNT + 4)
    assert (register(arena, ESI), register(arena, EDI)) == (HOLE + 4, HOLE + 0x6002)


def test_store_across_two_pages_of_a_descriptor_table(arena: Arena) -> None:
    """A GDT of 64 KiB lies in sixteen pages, all of which a de-privileging VMM watches."""
    report = arena.run(
        guest(f"""
        68 {le(GDT)}                        ; push GDT
        66 68 ff ff                         ; push 0xffff
        0f 01 14 24                         ; lgdt [esp]
        c7 05 {le(GDT + 0xFFE)} 78 56 34 12 ; mov dword ptr [GDT + 0xffe], 0x12345678
        a1 {le(GDT + 0xFFE)}                ; mov eax, [GDT + 0xffe]
        f4                                  ; hlt
    """),
        1000,
    )
    assert (report.outcome, report.count) == ("halted", PROLOGUE_COUNT + 6)
    assert register(arena, EAX) == 0x12345678


def test_from_a_hole_into_a_descriptor_table(arena: Arena) -> None:
    """One page of the instruction is no memory, the other is watched."""
    report = arena.run(
        guest(f"""
        be {le(HOLE)}       ; mov esi, HOLE
        bf {le(GDT + 0x80)} ; mov edi, GDT + 0x80
        a5                  ; movsd
        a1 {le(GDT + 0x80)} ; mov eax, [GDT + 0x80]
        f4                  ; hlt
    """),
        1000,
    )
    assert (report.outcome, report.count) == ("halted", PROLOGUE_COUNT + 5)
    assert register(arena, EAX) == 0xFFFFFFFF


def test_enter_with_both_frames_in_holes(arena: Arena) -> None:
    """ENTER reads 30 old frame pointers and pushes as many: four pages that are no memory."""
    report = arena.run(
        guest(f"""
        bd {le(HOLE + 0x1010)}  ; mov ebp, HOLE + 0x1010
        bc {le(HOLE + 0x4010)}  ; mov esp, HOLE + 0x4010
        c8 10 00 1f             ; enter 16, 31
        f4                      ; hlt
    """),
        1000,
    )
    assert (report.outcome, report.count) == ("halted", PROLOGUE_COUNT + 4)


@pytest.mark.parametrize(
    "load",
    [
        f"8e 1d {le(HOLE)} ; mov ds, [hole]",
        f"0f b2 25 {le(HOLE)} ; lss esp, [hole]",
        f"ff 2d {le(HOLE)} ; jmp far [hole]",
        f"bc {le(HOLE)} ; mov esp, HOLE\ncb ; retf",
        f"bc {le(HOLE)} ; mov esp, HOLE\n1f ; pop ds",
    ],
)
def test_segment_loads_from_a_hole(arena: Arena, load: str) -> None:
    """All ones are a selector in the LDT, of which there is none: #GP with that selector, from whatever instruction."""
    report = arena.run(guest(f"{load}\nf4 ; hlt"), 1000)
    assert report.outcome == "halted"
    record = arena.virtualized.cpu.fault_chain[-1]
    assert (record.vector, record.error_code) == (13, 0xFFFC)


def test_a_request_to_stop_during_an_access_to_a_hole_is_not_lost(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one instruction that touches the hole is completed, and then the run stops."""
    if arena.strategy == "bare-metal":
        pytest.skip("an access to a hole is no event there")
    machine = arena.machine
    arena.load(
        guest(f"""
        be {le(HOLE)}   ; mov esi, HOLE
        ad              ; lodsd
        eb fd           ; jmp to it
    """)
    )
    cpu = arena.virtualized.cpu
    natively = type(cpu).run_natively
    calls = 0

    def stop(self: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            machine.request_stop()
        return natively(self)  # type: ignore[arg-type]

    monkeypatch.setattr(type(cpu), "run_natively", stop)
    outcome = machine.run(100_000)
    assert outcome.value == "interrupted"
    assert machine.count < PROLOGUE_COUNT + 20
