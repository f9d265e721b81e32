"""Segment registers loaded with every kind of selector: de-privileged as on the bare PC, or as the shadows let it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.x86.registers import SegmentRegister
from tests.support import tables as t
from tests.support.assembler import d16, d32
from tests.support.code import code, le
from tests.support.twins import (
    BASE_16,
    CODE,
    CS0,
    CS1,
    CS3,
    DATA,
    DESCRIPTORS,
    DS0,
    DS1,
    DS3,
    DS3_16,
    DS16,
    GDT,
    LAST,
    LOCAL_DESCRIPTORS,
    STACK,
    USER,
    Twins,
    start,
    vector,
)

NULL = (0, 1, 2, 3)
BEYOND = (LAST, LAST + 8, 0xFFF0, 0xFFF8, 0x3C)
COMPRESSED = {CS1, DS1}
"""Descriptors of the guest's rings 1 and 2, whose DPL reads 0 once they are loaded (ring compression)."""


def selectors(rpls: Iterable[int] = (0, 3)) -> Iterable[int]:
    """All of the guest's selectors and some that name nothing."""
    yield from NULL
    for selector in (*DESCRIPTORS, *LOCAL_DESCRIPTORS, *BEYOND):
        if selector not in COMPRESSED:
            for rpl in rpls:
                yield selector & ~3 | rpl


LOADS = {
    "mov ds": "8e d8 ; mov ds, ax",
    "mov fs": "8e e0 ; mov fs, ax",
    "mov ss": "8e d0 ; mov ss, ax",
    "pop es": "50 ; push eax\n07 ; pop es",
    "pop ss": "50 ; push eax\n17 ; pop ss",
    "pop gs 16": "66 50 ; push ax\n66 0f a9 ; pop gs",
    "lds": f"a3 {le(DATA + 4)} ; mov [DATA + 4], eax\nc5 15 {le(DATA)} ; lds edx, [DATA]",
    "lss 16": f"a3 {le(DATA + 2)} ; mov [DATA + 2], eax\n66 0f b2 15 {le(DATA)} ; lss dx, [DATA]",
}


def _check(twins: Twins, name: str, cs: int, rpls: Iterable[int]) -> None:
    body = code(f"{LOADS[name]}\n43 ; inc ebx\n{LOADS[name].splitlines()[-1]}\nf4 ; hlt")
    for selector in selectors(rpls):
        twins.renew()
        difference = twins.compare(body, start(cs=cs, eax=selector))
        assert difference is None, f"{name} of {selector:#x} at CS {cs:#x}: {difference}"


@pytest.mark.parametrize("cs", [CS0, CS3])
@pytest.mark.parametrize("name", LOADS)
def test_every_selector(twins: Twins, name: str, cs: int) -> None:
    _check(twins, name, cs, (0, 3))


@pytest.mark.long
@pytest.mark.parametrize("cs", [CS0, CS3])
@pytest.mark.parametrize("name", LOADS)
def test_every_selector_with_rpl_2(twins: Twins, name: str, cs: int) -> None:
    _check(twins, name, cs, (2,))


def test_the_first_load_sets_the_accessed_flag_and_the_second_does_not_trap(twins: Twins) -> None:
    """SDM Vol. 3A §3.4.5.1: the flag in the guest's own table is set by the load, as the bare PC does it."""
    twins.run(code("8e c0 ; mov es, ax\n8e e0 ; mov fs, ax\n8e e8 ; mov gs, ax\nf4 ; hlt"), start(eax=DS3))
    assert twins.memory(twins.virtual.machine)[GDT + (DS3 & ~7) + 5] == t.DATA_R3 | 1
    assert twins.virtual.log.counts[TrapReason.DESCRIPTOR_LOAD] == 1
    assert twins.virtual.log.total == 2  # and HLT


def test_a_selector_with_rpl_1_is_the_kernel_s_own(twins: Twins) -> None:
    """What MOV from SS shows may be loaded again, whether the shadow is installed or not: the processor sees no harm
    in RPL 1, and neither does the VMM. The bare PC has no such selector, so there is nothing to compare."""
    body = code("8e d0 ; mov ss, ax\n8e d8 ; mov ds, ax\nf4 ; hlt")
    for installed in (True, False):
        twins.begin(body, start(eax=DS0 | 1))
        if not installed:
            twins.virtual_cpu.memory.write(GDT + DS0 + 5, b"\x92")  # hides the shadow
        twins.virtual.machine.run_to(2)
        state = twins.virtual.machine.processor.guest_state()
        assert state.rip == CODE + 4
        assert [state.segments[r].selector for r in (SegmentRegister.SS, SegmentRegister.DS)] == [DS0, DS0 | 1]


@pytest.mark.parametrize("flags", [2, 0x102])
def test_mov_ss_blocks_interrupts_and_the_single_step_trap(twins: Twins, flags: int) -> None:
    """SDM Vol. 3A §6.8.3: until the instruction behind it, and of two in a row the first alone."""
    for body in ("8e d0 ; mov ss, ax", "50 ; push eax\n17 ; pop ss", "8e d0 ; mov ss, ax\n8e d0 ; mov ss, ax"):
        state = twins.run(code(f"{body}\n40 ; inc eax\nf4 ; hlt"), start(eax=DS0, eflags=flags))
        assert vector(state) == (1 if flags & 0x100 else None)


def test_lss_blocks_nothing(twins: Twins) -> None:
    twins.write(DATA, d32(STACK) + d16(DS0))
    state = twins.run(code(f"0f b2 25 {le(DATA)} ; lss esp, [DATA]\nf4 ; hlt"), start(eflags=0x102))
    assert vector(state) == 1


def test_pop_ss_moves_the_pointer_of_the_old_stack(twins: Twins) -> None:
    """SP wraps at 16 bits, though the stack that is loaded has 32."""
    twins.write(BASE_16 + 0xFFFE, d32(DS0))
    state = twins.run(code("17 ; pop ss\nf4 ; hlt"), start(ss=DS16, esp=0x1234FFFE))
    assert state.general[4] == 0x12340002


def test_user_loads_of_user_data_run_directly_after_the_first(twins: Twins) -> None:
    state = start(cs=USER, ds=0, ss=DS3_16, eax=DS3)
    twins.run(code("8e d8 ; mov ds, ax\n8e d0 ; mov ss, ax\n8e c0 ; mov es, ax\nf4 ; hlt"), state)
    assert twins.virtual.log.counts[TrapReason.DESCRIPTOR_LOAD] == 1
