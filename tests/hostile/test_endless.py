"""Guests that never end: the budget of instructions ends each of them, and a request to stop does so soon."""

from __future__ import annotations

import threading
import time

import pytest

from simvirt.machine.machine import Outcome
from tests.hostile.arena import Arena
from tests.hostile.directed import CALL_GATE, CODE, CS0, HANDLERS, OTHER_TASK, PAGES, PROLOGUE_COUNT, TASK, guest
from tests.hostile.guests import HostileGuest
from tests.support import tables
from tests.support.code import le

STRATEGIES = ("bare-metal", "trap-and-emulate", "vtx")
SOON = 0.5
"""Seconds of the processor's time, so that a busy host does not matter."""


@pytest.fixture(params=STRATEGIES, scope="module")
def arena(request: pytest.FixtureRequest) -> Arena:
    return Arena(request.param)


def timer(*, icw4: str = "01", mode: str = "34", icw1: str = "11", count: int = 1) -> str:
    """The 8259A at vector 0x20 with IRQ 0 open, and the 8254 as quick as can be."""
    ports = [
        (0x20, icw1), (0x21, "20"), (0x21, "04"), (0x21, icw4), (0x21, "fe"),
        (0x43, mode), (0x40, f"{count:02x}"), (0x40, "00"),
    ]  # fmt: skip
    return "".join(f"b0 {value} ; mov al\ne6 {port:02x} ; out\n" for port, value in ports)


END_OF_INTERRUPT = "50 ; push eax\nb0 20 ; mov al\ne6 20 ; out\n58 ; pop eax\ncf ; iretd"
RETURN = "cf ; iretd"
AGAIN = "eb fe ; jmp to itself"
_IDENTITY = b"".join((page << 12 | 7).to_bytes(4, "little") for page in range(1024))
_PAGING_ON = f"""
    b8 {le(PAGES)}          ; mov eax, PAGES
    0f 22 d8                ; mov cr3, eax
    0f 20 c0                ; mov eax, cr0
    0d 00 00 00 80          ; or eax, PG
    0f 22 c0                ; mov cr0, eax
"""
_PAGES = ((PAGES, (PAGES + 0x1000 | 7).to_bytes(4, "little")), (PAGES + 0x1000, _IDENTITY))

ENDLESS: dict[str, HostileGuest] = {
    "a jump to itself": guest(AGAIN),
    "REP STOSB over all of memory": guest(f"31 ff ; xor edi, edi\nbf {le(0x80000)} ; mov edi\nb9 {le(-1)} ; mov ecx\nf3 aa ; rep stosb\n{AGAIN}"),
    "REP STOSB into a hole": guest(f"bf {le(0xA0000)} ; mov edi\nb9 {le(-1)} ; mov ecx\nf3 aa ; rep stosb\n{AGAIN}"),
    "REP LODSD from nowhere": guest(f"be {le(0x8000_0000)} ; mov esi\nb9 {le(-1)} ; mov ecx\nf3 ad ; rep lodsd\n{AGAIN}"),
    "REP MOVSB onto itself": guest(f"be {le(CODE)} ; mov esi\nbf {le(CODE + 1)} ; mov edi\nb9 {le(-1)} ; mov ecx\nf3 a4 ; rep movsb"),
    "REP OUTSB": guest(f"be {le(CODE)} ; mov esi\nba 80 00 00 00 ; mov edx\nb9 {le(-1)} ; mov ecx\nf3 6e ; rep outsb\n{AGAIN}"),
    "REP INSD into a hole": guest(f"bf {le(0xA0000)} ; mov edi\nba 80 00 00 00 ; mov edx\nb9 {le(-1)} ; mov ecx\nf3 6d ; rep insd\n{AGAIN}"),
    "an exception whose handler returns to it": guest("0f 0b ; ud2", handlers={6: RETURN}),
    "INT in a loop": guest("cd 30 ; int\neb fc ; jmp", gates={0x30: tables.gate(tables.INT_GATE, CS0, HANDLERS + 64 * 16)}, handlers={16: RETURN}),
    "ports in a loop": guest("e4 80 ; in\ne6 80 ; out\neb fa ; jmp"),
    "CPUID and RDTSC in a loop": guest("0f a2 ; cpuid\n0f 31 ; rdtsc\neb fa ; jmp"),
    "a hole in a loop": guest(f"a1 {le(0xA0000)} ; mov eax\neb f9 ; jmp"),
    "segment loads in a loop": guest("8c d8 ; mov eax, ds\n8e d8 ; mov ds, eax\n8e c0 ; mov es, eax\neb f8 ; jmp"),
    "far jumps in a loop": guest(f"ea {le(CODE)} {le(CS0, 2)} ; jmp"),
    "calls through a gate in a loop": guest(
        f"9a 00 00 00 00 {le(CALL_GATE, 2)} ; call\neb f7 ; jmp",
        descriptors={CALL_GATE: tables.gate(tables.CALL_GATE_32, CS0, HANDLERS + 64 * 16)},
        handlers={16: "cb ; retf"},
    ),
    "x87 state in a loop": guest(f"dd 35 {le(0x6_0000)} ; fnsave\ndd 25 {le(0x6_0000)} ; frstor\nd9 fe ; fsin\neb f0 ; jmp"),
    "code that modifies itself": guest(f"fe 05 {le(CODE + 8)} ; inc byte ptr [the immediate]\nb8 00 00 00 00 ; mov eax\neb f1 ; jmp", at=CODE),
    "code that modifies its own jump": guest(f"80 35 {le(CODE + 8)} 00 ; xor byte ptr [the displacement], 0\neb f7 ; jmp", at=CODE),
    "a single-stepped loop": guest(f"9c ; pushfd\n80 4c 24 01 01 ; or byte ptr [esp + 1], TF\n9d ; popfd\n{AGAIN}", handlers={1: RETURN}),
    "HLT and a timer": guest(f"{timer(count=20)}fb ; sti\nf4 ; hlt\neb fd ; jmp", gates={0x20: tables.gate(tables.INT_GATE, CS0, HANDLERS + 64 * 16)}, handlers={16: END_OF_INTERRUPT}),
    "a timer that interrupts all the time": guest(f"{timer()}fb ; sti\n{AGAIN}", gates={0x20: tables.gate(tables.INT_GATE, CS0, HANDLERS + 64 * 16)}, handlers={16: END_OF_INTERRUPT}),
    "a timer whose interrupts are never ended": guest(f"{timer()}fb ; sti\n{AGAIN}", gates={0x20: tables.gate(tables.TRAP_GATE, CS0, HANDLERS + 64 * 16)}, handlers={16: RETURN}),
    "interrupts that end themselves": guest(f"{timer(icw4='03')}fb ; sti\n{AGAIN}", gates={0x20: tables.gate(tables.TRAP_GATE, CS0, HANDLERS + 64 * 16)}, handlers={16: RETURN}),
    "HLT in a handler, interrupts nested": guest(f"{timer(icw4='03', count=20)}fb ; sti\n{AGAIN}", gates={0x20: tables.gate(tables.TRAP_GATE, CS0, HANDLERS + 64 * 16)}, handlers={16: "f4 ; hlt\neb fd ; jmp"}),
}  # fmt: skip

ENDLESS |= {
    "CR3 reloads": guest(f"{_PAGING_ON}0f 20 d8 ; mov eax, cr3\n0f 22 d8 ; mov cr3, eax\neb f8 ; jmp", pieces=_PAGES),
    "INVLPG": guest(f"{_PAGING_ON}0f 01 38 ; invlpg\neb fb ; jmp", pieces=_PAGES),
    "a page fault whose handler returns to it": guest(
        f"{_PAGING_ON}a1 {le(0x40_0000)} ; mov eax", pieces=_PAGES, handlers={14: "83 c4 04 ; add esp, 4\ncf ; iretd"}),
    "a loop at the end of a page before one that is not there": guest(
        _PAGING_ON + f"e9 {le(0x6_0FFC - (CODE + 24))} ; jmp",
        pieces=(*_PAGES, (0x6_0FFC, bytes.fromhex("40 90 eb fc")), (PAGES + 0x1000 + 4 * 0x61, bytes(4)))),
}  # fmt: skip
"""Every strategy runs these."""

ENDLESS_WITH_TASKS: dict[str, HostileGuest] = {
    "tasks that switch to each other": guest(
        f"ea 00 00 00 00 {le(OTHER_TASK, 2)} ; jmp\neb f7 ; jmp",
        pieces=((0x3800, tables.tss_32(0x78000, 0x10)), (0x3820, (HANDLERS + 64 * 16).to_bytes(4, "little")),
                (0x3824, (2).to_bytes(4, "little")), (0x3838, (0x77000).to_bytes(4, "little")),
                (0x3848, b"".join(s.to_bytes(4, "little") for s in (0x10, 8, 0x10, 0x10, 0x10, 0x10)))),
        handlers={16: f"ea 00 00 00 00 {le(TASK, 2)} ; jmp\neb f7 ; jmp"}),
}  # fmt: skip
"""Trap-and-emulate does not virtualize tasks."""


@pytest.fixture(params=[*ENDLESS, *ENDLESS_WITH_TASKS])
def endless(request: pytest.FixtureRequest, arena: Arena) -> HostileGuest:
    name = request.param
    if name in ENDLESS_WITH_TASKS:
        if arena.strategy == "trap-and-emulate":
            pytest.skip("trap-and-emulate says that it does not virtualize this")
        return ENDLESS_WITH_TASKS[name]
    return ENDLESS[name]


def test_the_budget_ends_it(arena: Arena, endless: HostileGuest) -> None:
    for budget in (1000, 3001):
        report = arena.run(endless, budget)
        assert report.outcome == "limit", report
        assert report.count == budget


def test_a_request_to_stop_ends_it_soon(arena: Arena, endless: HostileGuest) -> None:
    machine = arena.machine
    arena.load(endless)
    machine.run_to(100)
    asked: list[float] = []

    def ask() -> None:
        asked.append(time.process_time())
        machine.request_stop()

    asker = threading.Timer(0.1, ask)
    asker.start()
    outcome = machine.run()
    ended = time.process_time()
    asker.join()
    assert outcome is Outcome.INTERRUPTED
    assert ended - asked[0] < SOON
    machine.resume()
    count = machine.count
    assert machine.run_to(count + 10) is None
    assert machine.count == count + 10


NO_INSTRUCTION_RETIRES: dict[str, HostileGuest] = {
    "an undefined handler of #UD": guest("0f 0b ; ud2", handlers={6: "0f 0b ; ud2"}),
    "#GP and #UD in turn": guest("0f 0b ; ud2", handlers={6: "cd ff ; int", 13: "0f 0b ; ud2"}, gates={255: bytes(8)}),
    "an interrupt whose handler is undefined, and so is the handler of that": guest(
        f"{timer()}fb ; sti\n{AGAIN}", gates={0x20: tables.gate(tables.TRAP_GATE, CS0, HANDLERS + 64 * 6)}, handlers={6: "0f 0b ; ud2"}),
    "an interrupt line that stays high, and interrupts that end themselves": guest(
        f"{timer(icw1='19', icw4='03', mode='30')}fb ; sti\n{AGAIN}", gates={0x20: tables.gate(tables.TRAP_GATE, CS0, HANDLERS + 64 * 16)}, handlers={16: RETURN}),
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_page_faults_without_end(strategy: str) -> None:
    """The handler of #PF begins with the access that it is called for."""
    access = f"a1 {le(0x40_0000)} ; mov eax"
    report = Arena(strategy).run(guest(_PAGING_ON + access, pieces=_PAGES, handlers={14: access}), 1000)
    assert (report.outcome, report.count) == ("limit", PROLOGUE_COUNT + 5)


@pytest.mark.parametrize("name", NO_INSTRUCTION_RETIRES)
def test_exceptions_without_end(arena: Arena, name: str) -> None:
    """No instruction ever retires again, so no budget of instructions would end it."""
    report = arena.run(NO_INSTRUCTION_RETIRES[name], 100_000)
    assert report.outcome == "limit"
    assert PROLOGUE_COUNT <= report.count < 100_000 or "stays high" in name
    assert report.seconds < 20
