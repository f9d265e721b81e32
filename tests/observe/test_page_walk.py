"""Page walks and linear memory, against the processor's own walk."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from simvirt.guests.flat import flat_image
from simvirt.guests.resolve import resolve
from simvirt.machine.fills import Access
from simvirt.machine.memory import RegionKind
from simvirt.observe.dimensions import translate
from simvirt.observe.page_walk import read_linear, walk, write_linear
from simvirt.observe.results import RunConfig
from simvirt.observe.trial import Trial
from simvirt.strategies.registry import find
from simvirt.x86.addresses import Gpa

MEMORY = 4 << 20
TABLES = 0x20_0000
PG, PE, PSE, PAE, LMA, LME, NXE = 1 << 31, 1, 1 << 4, 1 << 5, 1 << 10, 1 << 8, 1 << 11
MODES = {
    "32-bit": (0, 0), "32-bit with large pages": (PSE, 0), "PAE": (PAE, 0), "PAE with NXE": (PAE, NXE),
    "4-level": (PAE, LMA | LME), "4-level with NXE": (PAE, LMA | LME | NXE),
}  # fmt: skip


def trial(cpu: str = "x86-64", strategy: str = "bare-metal") -> Trial:
    return Trial(resolve("hello"), find(strategy), RunConfig(cpu, MEMORY, 0, 1000))


@pytest.mark.parametrize("cpu", ["core2", "x86-64"])
@pytest.mark.parametrize("mode", MODES)
def test_random_tables_are_walked_as_the_processor_does(mode: str, cpu: str) -> None:
    """Tables that are full of tables, of pages large and small, of holes and of reserved bits."""
    t = trial(cpu)
    cr4, efer = MODES[mode]
    size = 8 if cr4 & PAE else 4
    rng = random.Random(f"{mode} {cpu}")
    for page in range(16):
        entries = b""
        for _ in range(4096 // size):
            target = rng.choice([TABLES + 0x1000 * rng.randrange(16), 0x1000 * rng.randrange(0x500)])
            entry = target | rng.choice([1, 3, 5, 7, 7, 7, 0x67, 0x87, 0x83, 0x87, 6])
            if size == 8 and rng.random() < 0.1:
                entry |= 1 << rng.choice([63, 52, 40, 36, 62, 13])
            if entry & 0x80 and rng.random() < 0.7:
                entry &= ~0x1F_F000
            entries += entry.to_bytes(size, "little")
        if page == 0 and mode.startswith("PAE"):  # rights and flags are reserved in the PDPTEs
            pdptes = [TABLES + 0x1000 * n | 1 for n in (5, 6, 7)] + [TABLES | 6]
            entries = b"".join(entry.to_bytes(8, "little") for entry in pdptes) + entries[32:]
        t.machine.write_physical(Gpa(TABLES + 0x1000 * page), entries)
    state = t.machine.processor.guest_state()
    state = replace(state, control=(PG | PE | 0x10, 0, TABLES, cr4), efer=efer)
    t.machine.processor.set_guest_state(state)
    before = bytes(t.machine.memory.view)
    found = {"translated": 0, "refused": 0}
    for _ in range(3000):
        linear = rng.getrandbits(48 if efer & LMA else 32)
        if efer & LMA and linear >> 47:
            linear |= 0xFFFF << 48
        host = t.cpu.engine.translate(linear, Access.READ, user=False)
        mine = walk(t, linear, state)
        assert (mine.host if mine.gpa is not None else None) == host, f"{linear:#x}: {mine}"
        if host is None and mine.gpa is None:
            assert mine.fault
            assert mine.steps[-1].gpa == t.cpu.engine.verdict.gpa or "canonical" in mine.fault
        elif host is not None:
            user = t.cpu.engine.translate(linear, Access.READ, user=True) is not None
            fetch = t.cpu.engine.translate(linear, Access.FETCH, user=False) is not None
            write = t.cpu.engine.translate(linear, Access.WRITE, user=True) is not None
            rom = mine.region is not None and mine.region.kind is RegionKind.ROM
            writable = mine.writable and mine.user and not rom
            assert (mine.user, mine.executable, writable) == (user, fetch, write)
        found["refused" if host is None else "translated"] += 1
    assert min(found.values()) > 30, found
    assert bytes(t.machine.memory.view) == before, "no accessed flag has been set"


def test_addresses_that_are_not_canonical() -> None:
    t = trial()
    state = replace(t.machine.processor.guest_state(), control=(PG | PE, 0, TABLES, PAE), efer=LMA | LME)
    assert "canonical" in walk(t, 1 << 47, state).fault


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx", "trap-and-emulate"])
def test_linear_memory(strategy: str) -> None:
    t = trial(strategy=strategy)
    assert write_linear(t, 0x10_0FFE, b"abcd")
    assert read_linear(t, 0x10_0FFE, 4) == b"abcd"
    assert read_linear(t, MEMORY - 2, 100) == bytes(2)
    assert not write_linear(t, MEMORY - 2, b"abcd")
    assert read_linear(t, MEMORY - 2, 2) == bytes(2), "nothing has been written"
    assert read_linear(t, 0xF000_0000, 4) == b""


def test_references_in_two_dimensions() -> None:
    """With 32-bit 4-MiB pages: one entry of the guest's, and two walks of EPT."""
    code = bytes.fromhex(
        "c7 05 00 00 20 00 83 00 00 00  b8 00 00 20 00 0f 22 d8  b8 10 00 00 00 0f 22 e0"
        "0f 20 c0 0d 00 00 00 80 0f 22 c0  eb fe"
    )
    counts = {}
    for strategy in ("bare-metal", "vtx", "trap-and-emulate"):
        t = Trial(flat_image(code, "paging"), find(strategy), RunConfig("core2", MEMORY, 0, 1000))
        t.advance(20)
        found = translate(t, 0x10_0000)
        assert found.guest.gpa == 0x10_0000
        assert [w.gpa for w in found.nested] == ([0x20_0000, 0x10_0000] if strategy == "vtx" else [])
        for nested in found.nested:
            assert nested.host == t.machine.space.host(nested.gpa)
        if found.shadow is not None:
            assert found.shadow.host == t.machine.space.host(Gpa(0x10_0000)), "the code runs there"
        counts[strategy] = found.references
    assert counts["bare-metal"] == 1
    assert counts["vtx"] == 1 + 4 + 3, (
        "the code's 4 KiB lie beside the hole below 1 MiB, the table's in a page of 2 MiB"
    )
    assert counts["trap-and-emulate"] == 3
