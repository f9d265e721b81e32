"""Task switches by hardware (SDM Vol. 3A §7.2 to §7.5, Tables 7-1 and 7-2)."""

from __future__ import annotations

import struct

import pytest

from simvirt.machine.state import Segment
from simvirt.x86.exceptions import Vector
from tests.support import tables as t
from tests.support.pc import (
    CODE,
    CS,
    CS0,
    CS3,
    CS16,
    DS,
    DS0,
    DS3,
    EAX,
    EBX,
    ESP,
    FS,
    GDT,
    HANDLERS,
    INNER_STACK,
    LDT,
    LDT_SELECTOR,
    NOT_PRESENT_CODE,
    NOT_PRESENT_DATA,
    SPARE,
    SS,
    STACK,
    TR,
    TSS,
    Pc,
    flat_pc,
    long_pc,
)

NEW = 0x6000
"""The TSS of the other task, at selector SPARE."""
GATE = 0x98
TARGET = CODE + 0x400
NT, VM, RF = 1 << 14, 1 << 17, 1 << 16
BUSY = 2
FIELDS = "cr3 eip eflags eax ecx edx ebx esp ebp esi edi es cs ss ds fs gs ldt trap".split()  # noqa: SIM905 - a row of a table


def new_task(pc: Pc, access: int = t.TSS32, limit: int = 0x67, **fields: int) -> None:
    """The other task: in ring 0 at TARGET, unless the fields say otherwise."""
    values = dict.fromkeys(FIELDS, 0) | {
        "eip": TARGET, "eflags": 2, "eax": 0x1111_2222, "esp": STACK - 0x1000,
        "es": DS0, "cs": CS0, "ss": DS0, "ds": DS0,
    } | fields  # fmt: skip
    pc.write(NEW, bytes(28) + struct.pack("<19I", *(values[name] for name in FIELDS)))
    pc.write(NEW + 4, struct.pack("<II", INNER_STACK, DS0))
    pc.set_descriptor(SPARE, t.segment(access, 0, NEW, limit))
    pc.write(TARGET, b"\xf4")


def busy(pc: Pc, selector: int) -> bool:
    return bool(pc.read(GDT + selector + 5, 1) & BUSY)


def saved(pc: Pc, base: int, name: str) -> int:
    return pc.read(base + 28 + 4 * FIELDS.index(name), 4)


def jump(pc: Pc, selector: int = SPARE, opcode: int = 0xEA) -> None:
    pc.write(CODE, bytes([opcode]) + bytes(4) + struct.pack("<H", selector))
    pc.run()


# ------------------------------------------------------------------------------------------------ the switch


def test_a_jump_saves_and_loads_everything() -> None:
    pc = flat_pc()
    new_task(pc, ldt=LDT_SELECTOR, fs=DS3)
    pc.state[EAX], pc.state[EBX], pc.state.eflags = 0xAAAA, 0xBBBB, 0x8D7
    jump(pc)
    state = pc.state
    assert (state.rip, pc.cpu.count, state[EAX], state[ESP]) == (TARGET, 1, 0x1111_2222, STACK - 0x1000)
    assert (state.tr.selector, state.tr.base, state.ldtr.base, state.eflags) == (SPARE, NEW, LDT, 2)
    assert state.segment(FS) == Segment(DS3, 0, 0xFFFF_FFFF, 0x00C0_F300)
    assert state.cr0 & 8, "TS"
    assert [saved(pc, TSS, name) for name in ("eip", "eflags", "eax", "ebx", "esp", "cs", "ss")] == [
        CODE + 7, 0x8D7, 0xAAAA, 0xBBBB, STACK, CS0, DS0,
    ]  # fmt: skip
    assert (busy(pc, TR), busy(pc, SPARE), pc.read(NEW, 2)) == (False, True, 0)


def test_a_call_nests_and_iret_returns() -> None:
    """§7.4: the link, NT, both tasks busy; IRET frees the inner one and leaves the outer one busy."""
    pc = flat_pc()
    new_task(pc)
    jump(pc, opcode=0x9A)
    assert (pc.state.rip, pc.state.eflags, pc.read(NEW, 2)) == (TARGET, 2 | NT, TR)
    assert (busy(pc, TR), busy(pc, SPARE)) == (True, True)
    pc.write(TARGET, b"\xcf")
    pc.write(CODE + 7, b"\xf4")
    pc.run()
    assert (pc.state.rip, pc.state.eflags, pc.state.tr.selector, pc.state[ESP]) == (CODE + 7, 2, TR, STACK)
    assert (busy(pc, TR), busy(pc, SPARE)) == (True, False)
    assert (saved(pc, NEW, "eip"), saved(pc, NEW, "eflags")) == (TARGET + 1, 2), "NT is cleared in the image"


@pytest.mark.parametrize("opcode", [0xEA, 0x9A])
def test_task_gates(opcode: int) -> None:
    pc = flat_pc()
    new_task(pc, cs=CS3, ss=DS3, ds=DS3, es=DS3)
    pc.set_descriptor(GATE, t.gate(t.TASK_GATE, SPARE, 0, 3))
    pc.write(TARGET, b"\x40\xf4")
    pc.write(CODE, bytes([opcode]) + bytes(4) + struct.pack("<H", GATE))
    pc.step()
    assert (pc.state.rip, pc.state.cpl, pc.state.selector(CS)) == (TARGET, 3, CS3)


@pytest.mark.parametrize(
    ("vector", "code", "error_code", "offset"), [(0x40, "cd 40", None, 2), (13, "cd 41", 0x41 << 3 | 2, 0)]
)
def test_a_task_gate_in_the_idt(vector: int, code: str, error_code: int | None, offset: int) -> None:
    """§6.12.2, §7.3: INT n, and an exception whose error code goes to the new task's stack; RF in the old image."""
    pc = flat_pc()
    new_task(pc)
    pc.set_gate(vector, t.gate(t.TASK_GATE, SPARE, 0))
    pc.set_gate(0x41, t.gate(t.INT_GATE, CS0, 0, present=False) if vector == 0x40 else bytes(8))
    pc.write(CODE, bytes.fromhex(code))
    pc.run()
    assert (pc.state.rip, pc.state.eflags & NT, pc.read(NEW, 2)) == (TARGET, NT, TR)
    assert saved(pc, TSS, "eip") == CODE + offset
    assert bool(saved(pc, TSS, "eflags") & RF) == (error_code is not None)
    if error_code is not None:
        assert pc.stack(1) == [error_code]
    assert pc.cpu.count == (1 if vector == 0x40 else 0)


def test_a_double_fault_through_a_task_gate() -> None:
    """The classic use: a stack that cannot be pushed to."""
    pc = flat_pc()
    new_task(pc)
    pc.set_gate(8, t.gate(t.TASK_GATE, SPARE, 0))
    pc.state.set_segment(SS, Segment(DS0, 0, 0xFF, 0x0040_9300))
    pc.load("0f 0b ; ud2")
    pc.run()
    assert (pc.state.rip, pc.state[ESP], pc.stack(1)) == (TARGET, STACK - 0x1004, [0])


def test_16_bit_tasks() -> None:
    pc = flat_pc()
    new_task(pc)
    image = bytearray(0x2C)
    struct.pack_into("<15H", image, 14, 0x100, 2, *range(0x11, 0x19), DS0, CS16, DS0, DS0, 0)
    pc.write(NEW, bytes(image))
    pc.write(0x100, b"\xf4")
    pc.set_descriptor(SPARE, t.segment(t.TSS16, 0, NEW, 0x2B))
    jump(pc)
    state = pc.state
    assert (state.rip, state.bits, state[EAX] & 0xFFFF, state[EBX] & 0xFFFF) == (0x100, 16, 0x11, 0x14)
    assert state.selector(FS) == 0
    assert state.tr.is_16_bit_tss
    pc.set_descriptor(TR, t.segment(t.TSS32, 0, TSS, 0x67))
    pc.write(TSS + 32, struct.pack("<II", TARGET, 2))
    pc.write(TSS + 72, struct.pack("<4I", DS0, CS0, DS0, DS0))
    pc.write(0x100, b"\xea" + struct.pack("<HH", 0, TR))
    pc.run()
    assert (pc.read(NEW + 14, 2), pc.read(NEW + 18, 2), state.rip) == (0x105, 0x11, TARGET)


def test_cr3_is_loaded_with_paging_alone() -> None:
    pc = flat_pc()
    new_task(pc, cr3=0x7000)
    jump(pc)
    assert pc.state.cr3 == 0
    pc = flat_pc()
    directory, table = 0x7000, 0x8000
    pc.write32(directory, table | 7)
    for page in range(1024):
        pc.write32(table + 4 * page, page << 12 | 7)
    pc.write(0x9000, bytes(pc.memory[directory : directory + 0x1000]))
    new_task(pc, cr3=0x9000)
    pc.set_paging(directory)
    jump(pc)
    assert (pc.state.cr3, pc.state.rip) == (0x9000, TARGET)


def pae_pc() -> tuple[Pc, int]:
    """PAE paging that maps memory at itself, and another page-directory-pointer table of the same kind."""
    pc = flat_pc()
    first, second, directory = 0x7000, 0x8000, 0x9000
    for number in range(4):
        pc.write64(directory + 8 * number, number << 21 | 0x83)
    for table in (first, second):
        pc.write64(table, directory | 1)
    pc.set_paging(first, cr4=0x20)
    return pc, second


def test_a_switch_loads_the_pdpte_registers() -> None:
    """With PAE paging, from the table that the new CR3 names (§4.4.1)."""
    pc, table = pae_pc()
    pc.write64(table + 8, 0x9000 | 1)
    new_task(pc, cr3=table)
    jump(pc)
    assert (pc.state.cr3, pc.state.pdptes[:2], pc.state.rip) == (table, (0x9001, 0x9001), TARGET)


@pytest.mark.parametrize("bit", [1, 2, 5, 8, 63])
def test_a_pdpte_with_a_reserved_bit_faults_in_the_switch(bit: int) -> None:
    """The manual says what MOV to CR3 does, #GP(0), and of a task switch only that it loads them (§4.4.1): the same.

    TR names the new task by then; its other registers are not loaded, and the old PDPTEs stay in use, so that a handler
    can run.
    """
    pc, table = pae_pc()
    before = pc.state.pdptes
    pc.write64(table + 16, 1 << bit | 1)
    new_task(pc, cr3=table)
    jump(pc)
    assert (pc.vector, pc.stack(1)) == (Vector.GP, [0])
    assert pc.state.pdptes == before
    assert pc.state.cr3 == 0x7000


def test_into_virtual_8086_mode() -> None:
    pc = flat_pc()
    new_task(pc, eflags=VM | 2, cs=0x1000, eip=0x400, ss=0x3000, esp=0xFFFE, ds=0x4000, fs=0x1234)
    pc.load("40 ; inc ax", TARGET, bits=16)
    pc.write(CODE, b"\xea" + bytes(4) + struct.pack("<H", SPARE))
    pc.step()
    state = pc.state
    assert (state.rip, state.cpl, state.virtual_8086_mode, state.bits) == (0x400, 3, True, 16)
    assert state.segment(DS) == Segment(0x4000, 0x40000, 0xFFFF, 0xF300)
    pc.step()
    assert state[EAX] & 0xFFFF == 0x2223


def test_the_t_flag_traps_before_the_first_instruction() -> None:
    """DR6.BT; and the local breakpoints of DR7 go with every switch (Vol. 3B §18.2.4, §18.3.1.5)."""
    pc = flat_pc()
    new_task(pc, trap=1)
    pc.state.set_debug_register(7, 0x400 | 0x355)
    jump(pc)
    assert (pc.vector, pc.stack(1)[0]) == (Vector.DB, TARGET)
    assert pc.state.debug_register(6) & 1 << 15
    assert pc.state.debug_register(7) & 0x3FF == 0x200


# ------------------------------------------------------------------------------------------------ Table 7-1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"access": t.TSS32 & 0x7F}, (Vector.NP, SPARE)),
        ({"access": t.BUSY_TSS32}, (Vector.GP, SPARE)),
        ({"limit": 0x66}, (Vector.TS, SPARE)),
    ],
)
def test_exceptions_of_the_old_task(fields: dict[str, int], expected: tuple[Vector, int]) -> None:
    pc = flat_pc()
    new_task(pc, **fields)
    jump(pc)
    assert (pc.vector, pc.stack(2)) == (expected[0], [expected[1], CODE])
    assert pc.state.tr.selector == TR


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ldt": CS0}, (Vector.TS, CS0)),
        ({"ldt": LDT_SELECTOR | 4}, (Vector.TS, LDT_SELECTOR | 4)),
        ({"cs": 0x1F8}, (Vector.TS, 0x1F8)),
        ({"cs": DS0}, (Vector.TS, DS0)),
        ({"cs": CS0 | 3, "ss": DS3}, (Vector.TS, CS0)),
        ({"cs": NOT_PRESENT_CODE}, (Vector.NP, NOT_PRESENT_CODE)),
        ({"ss": 0}, (Vector.TS, 0)),
        ({"ss": DS3}, (Vector.TS, DS3 & ~3)),
        ({"ss": CS0}, (Vector.TS, CS0)),
        ({"ds": 0x1F8}, (Vector.TS, 0x1F8)),
        ({"fs": NOT_PRESENT_DATA}, (Vector.NP, NOT_PRESENT_DATA)),
        ({"es": TR}, (Vector.TS, TR)),
    ],
)
def test_exceptions_of_the_new_task(fields: dict[str, int], expected: tuple[Vector, int]) -> None:
    """They find TR loaded and RIP at the new task's first instruction; the handler is a task, for SS may be bad."""
    pc = flat_pc()
    new_task(pc, **fields)
    handler = 0x6800
    pc.write(handler, bytes(pc.memory[NEW : NEW + 0x68]))
    pc.write(handler + 32, struct.pack("<I", HANDLERS))
    pc.write(handler + 56, struct.pack("<I", STACK))
    pc.write(handler + 72, struct.pack("<7I", DS0, CS0, DS0, DS0, 0, 0, 0))
    pc.set_descriptor(GATE, t.segment(t.TSS32, 0, handler, 0x67))
    pc.set_gate(expected[0], t.gate(t.TASK_GATE, GATE, 0))
    pc.write(CODE, b"\xea" + bytes(4) + struct.pack("<H", SPARE))
    pc.run()
    assert pc.cpu.fault_chain[-1].vector == expected[0]
    assert pc.stack(1) == [expected[1]]
    assert (pc.read(handler, 2), saved(pc, NEW, "eip")) == (SPARE, TARGET)


def test_a_first_instruction_beyond_the_limit() -> None:
    pc = flat_pc()
    pc.set_descriptor(GATE, t.segment(t.CODE_R0, t.BYTES_32, 0, 0xFFF))
    new_task(pc, cs=GATE)
    jump(pc)
    assert (pc.vector, pc.stack(2)) == (Vector.GP, [0, TARGET])


@pytest.mark.parametrize(
    ("link", "expected"),
    [(SPARE, (Vector.TS, SPARE)), (0x1F8, (Vector.TS, 0x1F8)), (CS0, (Vector.TS, CS0)), (TR | 4, (Vector.TS, TR | 4))],
)
def test_iret_with_a_bad_link(link: int, expected: tuple[Vector, int]) -> None:
    """The TSS that it names has to be busy, in the GDT, and a TSS."""
    pc = flat_pc()
    new_task(pc)
    pc.write(TSS, struct.pack("<H", link))
    pc.state.eflags = 2 | NT
    pc.load("cf ; iretd")
    pc.run()
    assert (pc.vector, pc.stack(2)) == (expected[0], [expected[1], CODE])


def test_no_tasks_in_ia_32e_mode() -> None:
    pc = long_pc()
    pc.state.eflags = 2 | NT
    pc.load("48 cf ; iretq")
    pc.run()
    assert (pc.vector, pc.stack(2, 8)) == (Vector.GP, [0, CODE])
