"""The memory-management unit against a walk written from SDM Vol. 3A chapter 4: random tables, accesses, controls."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from simvirt.machine.events import ExceptionRaised, LimitReached
from simvirt.machine.fills import PdpteLoad
from simvirt.x86.cpuid import Feature, find_cpu_model
from simvirt.x86.exceptions import Vector
from tests.support import page_walk
from tests.support.page_walk import PS, RW, US, XD, A, Access, D, P, Walk
from tests.support.pc import CODE, EBX, Pc, flat_pc, long_pc

ROOT, TABLE_1, TABLE_2, TABLE_3 = 0x20_0000, 0x20_1000, 0x20_2000, 0x20_3000
CODE_TABLES = 0x21_0000
LOW = 0x7F6120
"""Low bits of the linear address: with any page size it ends inside the 8 MiB of memory, away from everything else."""
LARGE_FRAMES = (0x20_0000, 0x60_0000)
USER_CODE, SUPERVISOR_CODE = CODE, CODE + 0x1000
SAMPLES = 500


@dataclass(frozen=True)
class Mode:
    """A paging mode and where in it the linear address under test lies."""

    name: str
    va: int
    walk: Callable[[Callable[[int, int], int], int, int, Access, int], Walk]
    entry_size: int
    pse: bool = True
    pae: bool = False
    long: bool = False

    def __str__(self) -> str:
        return self.name


MODES = [
    Mode("32-bit", 0x8000_0000 + LOW, page_walk.walk_32, 4, pse=False),
    Mode("32-bit with PSE", 0x8000_0000 + LOW, page_walk.walk_32, 4),
    Mode("PAE", 0x8000_0000 + LOW, page_walk.walk_pae, 8, pae=True),
    Mode("4-level", 0x7F80_8000_0000 + LOW, page_walk.walk_4_level, 8, pae=True, long=True),
]


def _map_code(pc: Pc, mode: Mode) -> None:
    """Two pages of code that no test touches, one for ring 3, one for ring 0 (no user page: SMEP)."""
    flags = {USER_CODE: 0x67, SUPERVISOR_CODE: 0x63}
    if not mode.pae:
        pc.write32(ROOT, CODE_TABLES | 0x67)
        for page, bits in flags.items():
            pc.write32(CODE_TABLES + 4 * (page >> 12), page | bits)
        return
    directory = CODE_TABLES + 0x1000
    if mode.long:
        pc.write64(ROOT, CODE_TABLES + 0x2000 | 0x67)
        pc.write64(CODE_TABLES + 0x2000, directory | 0x67)
    else:
        pc.write64(ROOT, directory | 1)
    pc.write64(directory, CODE_TABLES | 0x67)
    for page, bits in flags.items():
        pc.write64(CODE_TABLES + 8 * (page >> 12), page | bits)


def _pc(mode: Mode) -> Pc:
    pc = long_pc() if mode.long else flat_pc()
    _map_code(pc, mode)
    return pc


def _random_flags(rng: random.Random, mode: Mode, physical_bits: int) -> int:
    """Bits of one entry beside its address: usually present and permissive, so that walks get far."""
    flags = 0
    for bit, likely in ((P, 0.94), (RW, 0.8), (US, 0.75), (A, 0.3), (D, 0.3)):
        flags |= bit if rng.random() < likely else 0
    if mode.pae and rng.random() < 0.15:
        flags |= XD
    if rng.random() < 0.06:
        flags |= 1 << rng.choice([*range(9, 12), 3, 4, *([*range(physical_bits, 63)] if mode.pae else [])])
    return flags


def _make_tables(pc: Pc, mode: Mode, rng: random.Random, physical_bits: int) -> None:
    """One random path of tables from the root to a page."""
    va = mode.va
    write = pc.write32 if mode.entry_size == 4 else pc.write64
    path = [(TABLE_2, va >> 12 & 0x3FF, False), (ROOT, va >> 22, True)]
    if mode.pae:
        path = [(TABLE_2, va >> 12 & 0x1FF, False), (TABLE_1, va >> 21 & 0x1FF, True)]
        if mode.long:
            path += [(TABLE_3, va >> 30 & 0x1FF, True), (ROOT, va >> 39 & 0x1FF, False)]
        else:
            path += [(ROOT, va >> 30, False)]
    below = rng.choice((0x30_0000, 0x40_5000, 0x7F_F000))
    for depth, (table, index, may_be_large) in enumerate(path):
        flags = _random_flags(rng, mode, physical_bits)
        target = below
        if may_be_large and rng.random() < 0.25:
            flags |= PS
            if rng.random() < 0.8:  # well aligned; otherwise low bits of the address fall on reserved ones
                target = 0 if depth == 2 else rng.choice(LARGE_FRAMES) & (~0x3FFFFF if not mode.pae else -1)
        if mode.pae and not mode.long and depth == 2:  # a PDPTE of PAE paging: with a reserved bit it is not loaded
            flags &= (1 << physical_bits) - 1 & ~(RW | US | A | D | PS)
        write(table + mode.entry_size * index, target | flags)
        below = table


def _random_access(rng: random.Random, mode: Mode, *, gigabyte_pages: bool) -> Access:
    kind = rng.choice(("read", "write", "fetch"))
    flip = rng.random
    return Access(
        write=kind == "write", fetch=kind == "fetch", user=flip() < 0.5, wp=flip() < 0.5, nxe=mode.pae and flip() < 0.7,
        smep=flip() < 0.4, smap=flip() < 0.4, ac=flip() < 0.5, pse=mode.pse, pae=mode.pae,
        gigabyte_pages=gigabyte_pages,
    )  # fmt: skip


def _perform(pc: Pc, mode: Mode, access: Access) -> object:
    """Make the access by an instruction at the wanted privilege level; the event that the CPU reports."""
    state = pc.state
    state.set_control_register(0, 0x8000_0011 | access.wp << 16)
    state.set_control_register(3, ROOT)
    state.set_control_register(4, mode.pse << 4 | mode.pae << 5 | access.smep << 20 | access.smap << 21)
    state.efer = (0x500 if mode.long else 0) | access.nxe << 11
    if mode.long:
        pc.ring(3 if access.user else 0, 0x2B if access.user else 0x38, 0x23 if access.user else 0x10, 0)
    else:
        pc.ring(3 if access.user else 0, 0x1B if access.user else 0x08, 0x23 if access.user else 0x10, 0)
    state.eflags = 2 | access.ac << 18
    state.refresh()
    if state.pae_paging:
        assert pc.engine.load_pdptes(ROOT) is PdpteLoad.LOADED
    state[EBX] = mode.va
    state[0] = 0x5A5A_A5A5
    base = USER_CODE if access.user else SUPERVISOR_CODE
    state.rip = base + (0x20 if access.write else 0x40 if access.fetch else 0)
    pc.engine.drop_translations()
    return pc.event(2)


CODE_BYTES = """
    8b 03       ; mov eax, [ebx]
    eb fe       ; jmp $
"""


@pytest.mark.parametrize("model", ["core2", "x86-64"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_random_walks(mode: Mode, model: str) -> None:
    pc = _pc(mode)
    cpu_model = find_cpu_model(model)
    pc.engine.follow_model(cpu_model)
    gigabyte_pages = cpu_model.has(Feature.PDPE1GB)
    rng = random.Random(f"page walk {mode.name}")
    physical_bits = pc.engine.physical_bits
    for page in (USER_CODE, SUPERVISOR_CODE):
        pc.load(CODE_BYTES, page)
        pc.load("89 03 ; mov [ebx], eax\neb fe ; jmp $", page + 0x20)
        pc.load("ff e3 ; jmp ebx", page + 0x40)
    outcomes: dict[str, int] = {}
    for sample in range(SAMPLES):
        _make_tables(pc, mode, rng, physical_bits)
        access = _random_access(rng, mode, gigabyte_pages=gigabyte_pages)
        expected = mode.walk(pc.read, ROOT, mode.va, access, physical_bits)
        before = {at: pc.read(at, size) for at, size in expected.used}
        if expected.gpa is not None:
            if expected.gpa + 4 > len(pc.memory):
                continue  # a hole: another test's matter
            pc.write(expected.gpa, b"\xeb\xfe\x90\x90" if access.fetch else b"\x11\x22\x33\x44")
        old = pc.read(expected.gpa, 4) if expected.gpa is not None else 0
        event = _perform(pc, mode, access)
        what = f"sample {sample}: {access}, {expected}, entries {[hex(v) for v in before.values()]}"
        if expected.gpa is None:
            assert event == ExceptionRaised(Vector.PF, expected.error, mode.va), what  # type: ignore[arg-type]
            for at, size in expected.used:
                assert pc.read(at, size) & ~A == before[at] & ~A, f"{what}: more than an accessed flag changed"
            outcomes[f"fault {expected.error:#x}"] = outcomes.get(f"fault {expected.error:#x}", 0) + 1
            continue
        assert isinstance(event, LimitReached), f"{what}: {event}"
        if access.write:
            assert pc.read(expected.gpa, 4) == 0x5A5A_A5A5, what
        else:
            assert pc.read(expected.gpa, 4) == old, what
            if not access.fetch:
                assert pc.state[0] == old, what
        for at, size in expected.used:
            dirty = D if access.write and at == expected.leaf else 0
            assert pc.read(at, size) == before[at] | A | dirty, f"{what}: entry at {at:#x}"
        outcomes["translated"] = outcomes.get("translated", 0) + 1
    # The sample is worth something only if it reached all kinds of outcomes.
    assert outcomes["translated"] > SAMPLES // 8
    assert len(outcomes) > 6
