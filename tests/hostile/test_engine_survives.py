"""What Unicorn alone does not survive, or would go on with for ever: each was found by a hostile guest and is cured."""

from __future__ import annotations

import pytest

from simvirt.x86.exceptions import Vector
from tests.hostile.arena import Arena
from tests.hostile.directed import PROLOGUE_COUNT, guest
from tests.support.code import le
from tests.support.pc import DATA, ECX, Pc, long_pc

ALIAS = 0x1F_0000


@pytest.fixture(params=("bare-metal", "trap-and-emulate", "vtx"), scope="module")
def arena(request: pytest.FixtureRequest) -> Arena:
    return Arena(request.param)


@pytest.mark.parametrize(
    "undefined",
    [
        "f0 0f a3 f8 ; lock bt eax, edi",
        "f0 0f ab f8 ; lock bts eax, edi",
        "f0 0f b3 f8 ; lock btr eax, edi",
        "f0 0f bb f8 ; lock btc eax, edi",
        "f0 0f ba e0 05 ; lock bt eax, 5",
        "f0 0f ba e8 05 ; lock bts eax, 5",
        "f0 0f ba f0 05 ; lock btr eax, 5",
        "f0 0f ba f8 05 ; lock btc eax, 5",
        "66 f0 0f ab c0 ; lock bts ax, ax",
    ],
)
@pytest.mark.parametrize("before", ["", "40 ; inc\n", "eb 00 ; jmp\n"])
def test_lock_on_a_bit_test_of_a_register(arena: Arena, before: str, undefined: str) -> None:
    """LOCK is for destinations in memory only: #UD (SDM Vol. 2A "BTS"). Unicorn's translator calls abort() here."""
    data, _, comment = undefined.partition(";")
    report = arena.run(guest(f"{before}{data}; raw {comment}", handlers={6: "fa ; cli\nf4 ; hlt"}), 1000)
    assert report.outcome == "halted"
    assert report.count == PROLOGUE_COUNT + bool(before) + 2
    assert arena.virtualized.cpu.fault_chain[-1].vector is Vector.UD


def _alias_pc() -> Pc:
    """64-bit mode; the two pages at ALIAS are those at DATA, and cannot be executed there."""
    pc = long_pc()
    directory = pc.state.cr3 + 0x2000
    page_table = directory + 0x1000
    for page in range(512):
        pc.write64(page_table + 8 * page, page << 12 | 7)
    for page in range(2):
        pc.write64(page_table + 8 * ((ALIAS >> 12) + page), DATA + (page << 12) | 7 | 1 << 63)
    pc.write64(directory, page_table | 7)
    pc.engine.flush_tlb()
    return pc


@pytest.mark.parametrize("at", [DATA + 0x100, DATA + 0x1000 - 4])
@pytest.mark.parametrize("offset", [0x800, 0xFFE])
def test_code_that_writes_its_own_pages_through_a_no_execute_alias(at: int, offset: int) -> None:
    """Such a write needs a page that is not executed, and the instruction that makes it lies there: in one or two."""
    pc = _alias_pc()
    pc.load(
        f"""
        83 04 25 {le(ALIAS + offset)} 00    ; add dword ptr [alias], 0
        ff c9                               ; dec ecx
        75 f4                               ; jne the first
        f4                                  ; hlt
    """,
        at=at,
    )
    pc.state[ECX] = 200
    pc.state.rip = at
    pc.run(1000)
    assert pc.state[ECX] == 0
    assert pc.cpu.count == 600
