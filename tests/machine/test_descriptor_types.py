"""Descriptors of every type where each is not wanted: the exception and the error code that the manual has for it.

The types are those of SDM Vol. 3A Tables 3-1 and 3-2, spelled out here without the project's own names for them. What
may be loaded is the manual's page of each instruction (Vol. 2A "JMP", "LLDT", "LTR", "INT n", Vol. 2B "MOV").
"""

from __future__ import annotations

from functools import cache

import pytest

from simvirt.machine.state import Segment
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.pc import CODE, CS0, DATA, EAX, EBX, HANDLERS, LDT, SPARE, TSS, Pc, flat_pc, long_pc

TYPES = range(32)
"""S in bit 4, the type below."""
READABLE_DATA = {0x10 | kind for kind in range(8)}
WRITABLE_DATA = {kind for kind in READABLE_DATA if kind & 2}
CODE_SEGMENTS = {0x18 | kind for kind in range(8)}
READABLE_CODE = {kind for kind in CODE_SEGMENTS if kind & 2}
LDT_TYPE, FREE_TSS, CALL_GATES, TASK_GATE = 0x02, {0x01, 0x09}, {0x04, 0x0C}, 0x05
GATES = {0x05, 0x06, 0x07, 0x0E, 0x0F}
"""Task, interrupt and trap gates: what an IDT may hold."""


_KEPT = 0x6_0000
"""Tables, code and stacks lie below."""


@cache
def _bench(long: bool) -> tuple[Pc, bytes, bytes]:
    """A PC, and its state and memory to go back to, which is quicker than another one."""
    pc = long_pc() if long else flat_pc()
    return pc, pc.engine.save_image(), bytes(pc.memory[:_KEPT])


def fresh(long: bool) -> Pc:
    """A PC as it was made."""
    pc, image, memory = _bench(long)
    pc.memory[:_KEPT] = memory
    pc.engine.restore_image(image)
    pc.cpu.count = 0
    return pc


def pc_with(kind: int, *, long: bool = False, present: bool = True, dpl: int = 0) -> Pc:
    """A PC whose spare descriptor has this type; as a segment it is flat 32-bit or, in IA-32e mode, 64-bit code."""
    pc = fresh(long)
    access = kind | present << 7 | dpl << 5
    flags = tables.FLAT_64 if long and kind in CODE_SEGMENTS else tables.FLAT_32
    base, limit = (0, 0xFFFFF) if kind & 0x10 else (LDT if kind == LDT_TYPE else TSS, 0x67)
    pc.set_descriptor(SPARE, tables.segment(access, flags if kind & 0x10 else 0, base, limit))
    pc.set_descriptor(SPARE + 8, bytes(8))
    return pc


def fault(pc: Pc) -> tuple[Vector, int | None] | None:
    """What the instruction at RIP meets; None if it retires."""
    before = pc.cpu.count
    pc.complete(pc.event(1))
    if pc.cpu.count > before:
        return None
    size = 8 if pc.state.code_64 else 4
    vector = Vector(pc.vector)
    return vector, pc.stack(1, size)[0] if vector in (10, 11, 12, 13, 14) else None


@pytest.mark.parametrize("long", [False, True], ids=["32", "64"])
@pytest.mark.parametrize("kind", TYPES)
def test_mov_to_a_data_segment_register(kind: int, long: bool) -> None:
    for register, encoding in (("ds", "8e d8"), ("es", "8e c0"), ("fs", "8e e0"), ("gs", "8e e8")):
        for present in (True, False):
            pc = pc_with(kind, long=long, present=present)
            pc.state[EAX] = SPARE
            pc.load(f"{encoding} ; mov {register}, ax")
            usable = kind in READABLE_DATA | READABLE_CODE
            expected = None if usable and present else (Vector.NP if usable else Vector.GP, SPARE)
            assert fault(pc) == expected, (register, present)


@pytest.mark.parametrize("long", [False, True], ids=["32", "64"])
@pytest.mark.parametrize("kind", TYPES)
def test_mov_to_ss(kind: int, long: bool) -> None:
    for present in (True, False):
        pc = pc_with(kind, long=long, present=present)
        pc.state[EAX] = SPARE
        pc.load("8e d0 ; mov ss, ax")
        usable = kind in WRITABLE_DATA
        assert fault(pc) == (None if usable and present else (Vector.SS if usable else Vector.GP, SPARE))


@pytest.mark.parametrize("kind", sorted(set(TYPES) - CALL_GATES - FREE_TSS - {TASK_GATE}))
def test_far_jump(kind: int) -> None:
    """Gates and tasks have their own rules and tests (test_far_transfers.py, test_task_switch.py)."""
    for present in (True, False):
        pc = pc_with(kind, present=present)
        pc.load(f"ea {(CODE + 7).to_bytes(4, 'little').hex()} {SPARE.to_bytes(2, 'little').hex()} ; jmp far")
        usable = kind in CODE_SEGMENTS
        assert fault(pc) == (None if usable and present else (Vector.NP if usable else Vector.GP, SPARE))


@pytest.mark.parametrize("long", [False, True], ids=["32", "64"])
@pytest.mark.parametrize("kind", TYPES)
def test_lldt(kind: int, long: bool) -> None:
    for present in (True, False):
        pc = pc_with(kind, long=long, present=present)
        pc.state[EAX] = SPARE
        pc.load("0f 00 d0 ; lldt ax")
        usable = kind == LDT_TYPE
        assert fault(pc) == (None if usable and present else (Vector.NP if usable else Vector.GP, SPARE))


@pytest.mark.parametrize("long", [False, True], ids=["32", "64"])
@pytest.mark.parametrize("kind", TYPES)
def test_ltr(kind: int, long: bool) -> None:
    for present in (True, False):
        pc = pc_with(kind, long=long, present=present)
        pc.state[EAX] = SPARE
        pc.load("0f 00 d8 ; ltr ax")
        usable = kind in ({0x09} if long else FREE_TSS)
        assert fault(pc) == (None if usable and present else (Vector.NP if usable else Vector.GP, SPARE))


@pytest.mark.parametrize(
    ("kind", "long"), [(kind, long) for kind in TYPES for long in (False, True) if kind != TASK_GATE or long]
)
def test_an_entry_of_the_idt(kind: int, long: bool) -> None:
    """A task gate leads to a task, where there are any (test_task_switch.py)."""
    gates = {0x0E, 0x0F} if long else GATES - {TASK_GATE}
    for present in (True, False):
        pc = fresh(long)
        selector = 0x38 if long else CS0
        gate = (tables.gate_64 if long else tables.gate)(kind & 0xF, selector, HANDLERS + 16 * 0x80, present=present)
        gate = gate[:5] + bytes([gate[5] | kind & 0x10]) + gate[6:]
        pc.set_gate(0x80, gate)
        pc.load("cd 80 ; int 0x80")
        usable = kind in gates
        if usable and present:
            pc.complete(pc.event(1))
            # a 16-bit gate leads to the lower half of the offset
            assert pc.state.rip in (HANDLERS + 16 * 0x80, HANDLERS + 16 * 0x80 & 0xFFFF)
        else:
            assert fault(pc) == (Vector.NP if usable else Vector.GP, 0x80 * 8 + 2)


@pytest.mark.parametrize("long", [False, True], ids=["32", "64"])
@pytest.mark.parametrize("kind", TYPES)
def test_the_segment_that_a_gate_names(kind: int, long: bool) -> None:
    for present in (True, False):
        pc = pc_with(kind, long=long, present=present)
        pc.set_gate(0x80, (tables.gate_64 if long else tables.gate)(tables.INT_GATE, SPARE, HANDLERS + 16 * 0x80))
        pc.load("cd 80 ; int 0x80")
        usable = kind in CODE_SEGMENTS
        if usable and present:
            pc.complete(pc.event(1))
            assert pc.vector == 0x80
        else:
            assert fault(pc) == (Vector.NP if usable else Vector.GP, SPARE)


@pytest.mark.parametrize("opcode", ["b4", "b5", "b2"], ids=["LFS", "LGS", "LSS"])
@pytest.mark.parametrize("kind", [0x13, 0x1A, 0x10, 0x18, 0x02])
def test_far_pointers_with_64_bit_offsets(opcode: str, kind: int) -> None:
    """REX.W LFS, LGS, LSS: an offset of eight bytes, then the selector (SDM Vol. 2A "LDS")."""
    pc = pc_with(kind, long=True)
    pc.write(DATA, (0x1122_3344_5566_7788).to_bytes(8, "little") + SPARE.to_bytes(2, "little"))
    pc.state[EBX], pc.state[EAX] = DATA, 0
    names = {"b4": "lfs", "b5": "lgs", "b2": "lss"}
    pc.load(f"48 0f {opcode} 03 ; {names[opcode]} rax, [rbx]")
    usable = kind in (WRITABLE_DATA if opcode == "b2" else READABLE_DATA | READABLE_CODE)
    assert fault(pc) == (None if usable else (Vector.GP, SPARE))
    assert pc.state[EAX] == (0x1122_3344_5566_7788 if usable else 0)


def test_an_ldt_of_null_holds_nothing() -> None:
    pc = fresh(False)
    pc.state.ldtr = Segment(0, 0, 0, 0)
    pc.state[EAX] = 4
    pc.load("8e d8 ; mov ds, ax")
    assert fault(pc) == (Vector.GP, 4)
