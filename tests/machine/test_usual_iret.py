"""IRET by the engine, where native/iret.c allows it, against the reference in `machine.far_transfers`."""

from __future__ import annotations

import random

import pytest

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.events import ExceptionRaised
from simvirt.machine.faults import ProcessorFault
from simvirt.x86.decode import decode
from tests.support import tables as t
from tests.support.pc import (
    CODE,
    CS0,
    CS0_64,
    CS0_CONFORMING,
    CS1,
    CS3,
    CS3_64,
    CS16,
    DS0,
    DS1,
    DS3,
    DS3_64,
    DS16,
    ESP,
    FS,
    GDT,
    GS,
    NOT_PRESENT_CODE,
    NOT_PRESENT_DATA,
    SPARE,
    STACK,
    TR,
    Pc,
    flat_pc,
    long_pc,
)

CODES = (CS0, CS3, CS1, CS16, CS0_CONFORMING, CS3 & ~3, CS0 | 3, NOT_PRESENT_CODE, DS0, 0, TR, SPARE, 0x1F8)
STACKS = (DS0, DS3, DS1, DS16, DS0, DS3, NOT_PRESENT_DATA, CS0, 0, 3, 0x1F8)
CODES_64 = (*CODES, CS0_64, CS3_64, CS0_64, CS3_64)
STACKS_64 = (*STACKS, DS3_64, DS3_64)
FLAGS = 0x3F7FD7
PAIRS = ((CS0, DS0), (CS3, DS3), (CS3, DS3), (CS1, DS1), (CS0_CONFORMING, DS0), (CS16, DS16))
PAIRS_64 = ((CS0_64, DS0), (CS3_64, DS3_64), (CS3, DS3), (CS0_64, 0))


def _frame(rng: random.Random, *, long: bool) -> tuple[int, ...]:
    offset = rng.choice((CODE + 0x40, CODE + 0x40, CODE + 0x40, 0x1_0000, 0x12, 0xFFFF_F000))
    if long and rng.random() < 0.1:
        offset |= 1 << 50
    flags = rng.getrandbits(22) & (FLAGS if rng.random() < 0.3 else 0x0A55D7 & ~(1 << 17)) | 2
    if rng.random() < 0.8:
        flags &= ~(1 << 14 | 1 << 8)
    code, stack = rng.choice(PAIRS_64 if long else PAIRS)
    if rng.random() < 0.4:
        code, stack = rng.choice(CODES_64 if long else CODES), rng.choice(STACKS_64 if long else STACKS)
    return offset, code, flags, STACK - 0x800, stack


def _prepare(pc: Pc, rng: random.Random, *, long: bool) -> None:
    if rng.random() < 0.7:  # as a kernel finds them after the first time
        for selector in (CS0, CS3, CS1, CS16, CS0_CONFORMING, DS0, DS3, DS1, DS16, CS0_64, CS3_64, DS3_64):
            at = GDT + (selector & ~7) + 5
            pc.write(at, bytes([pc.read(at, 1) | 1]))
    pc.set_descriptor(SPARE, t.segment(t.CODE_R0 | 1, t.BYTES_32, 0, 0xFFF))
    for register in (FS, GS):
        if rng.random() < 0.2:
            pc.load_segment(register, rng.choice((0, 1, 3, DS3)))
    if rng.random() < 0.4:
        pc.ring(3, CS3_64 if long and rng.random() < 0.7 else CS3, DS3, STACK)
    state = pc.state
    state.eflags = rng.getrandbits(22) & 0x3ED5 & ~(1 << 14) | 2
    size = rng.choice((8, 8, 4, 2) if state.code_64 else (4, 4, 2))
    prefix = {2: b"\x66", 8: b"\x48"}.get(size, b"")
    pc.write(CODE, prefix + b"\xcf")
    data = b"".join((v & (1 << 8 * size) - 1).to_bytes(size, "little") for v in _frame(rng, long=long))
    state[ESP] = STACK - len(data)
    pc.write(STACK - len(data), data)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("part", range(4))
def test_the_engine_and_the_reference_agree(part: int, long: bool) -> None:
    done = 0
    pc = long_pc() if long else flat_pc()
    image, memory = pc.engine.save_image(), bytes(pc.memory[:0x9_0000])
    for seed in range(100 * part, 100 * part + 100):
        rng = random.Random(seed)
        pc.write(0, memory)
        pc.engine.restore_image(image)
        _prepare(pc, rng, long=long)
        before, written = pc.engine.save_image(), bytes(pc.memory[:0x9_0000])
        count = pc.cpu.count
        event = pc.cpu.run(count + 1)
        met = (event.vector, event.error_code, event.condition) if isinstance(event, ExceptionRaised) else None
        found = ArchitecturalState.of(pc.state), bytes(pc.memory[:0x9_0000]), pc.cpu.count - count
        pc.write(0, written)
        pc.engine.restore_image(before)
        pc.cpu.count = count
        instruction = decode(written[CODE : CODE + 15], pc.state.rip, pc.state.bits)
        try:
            pc.cpu.far_transfers.perform(instruction)
            expected = None
        except ProcessorFault as fault:
            expected = fault.vector, fault.error_code, fault.condition
        assert met == expected, f"seed {seed}"
        state = ArchitecturalState.of(pc.state)
        assert state.differences(found[0]) == [], f"seed {seed}"
        assert (bytes(pc.memory[:0x9_0000]), pc.cpu.count - count) == found[1:], f"seed {seed}"
        done += expected is None
    assert done > 20, "most frames must not be bad"


def test_a_null_stack_in_ring_0_needs_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels return with a null SS behind each interrupt from ring 3 that has met another one."""
    pc = long_pc()
    pc.write(GDT + (CS0_64 & ~7) + 5, bytes([pc.read(GDT + (CS0_64 & ~7) + 5, 1) | 1]))
    pc.write(CODE, b"\x48\xcf")
    frame = (CODE + 0x40, CS0_64, 0x246, STACK - 0x800, 0)
    pc.state[ESP] = STACK - 40
    pc.write(STACK - 40, b"".join(value.to_bytes(8, "little") for value in frame))
    monkeypatch.setattr(pc.cpu.far_transfers, "perform", None)
    count = pc.cpu.count
    pc.cpu.run(count + 1)
    assert (pc.state.rip, pc.state[ESP], pc.state.eflags, pc.cpu.count) == (*frame[:1], frame[3], frame[2], count + 1)
