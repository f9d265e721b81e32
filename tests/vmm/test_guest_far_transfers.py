"""Far JMP, CALL, RET, IRET and SYSEXIT to every kind of target, from rings 0 and 3, against the bare PC."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from simvirt.errors import UnsupportedGuestError
from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from tests.support import tables as t
from tests.support.assembler import d16, d32
from tests.support.code import code, le
from tests.support.twins import (
    BASE_16,
    CODE,
    CS0,
    CS1,
    CS3,
    CS3_16,
    CS16,
    DATA,
    DESCRIPTORS,
    DS0,
    DS3,
    ENTRY_16,
    GATE_16,
    GATE_CONFORMING,
    GATE_PARAMETERS,
    GDT,
    HANDLERS,
    HOLE,
    INNER_STACK,
    LDT_,
    LOCAL_DESCRIPTORS,
    STACK,
    TASK,
    TASK_GATE,
    TSS,
    TSS_16,
    TSS_FREE,
    TSS_OLD,
    TSS_USER,
    USER,
    USER_STACK,
    Twins,
    loaded,
    start,
    vector,
)
from tests.vmm.test_guest_segment_loads import BEYOND, NULL

TARGET = CODE + 0x80
TASKS = {TSS_FREE, TASK_GATE, TSS_USER, TSS_OLD}
KERNEL_CODE = {selector & ~3 for selector, raw in {**DESCRIPTORS, **LOCAL_DESCRIPTORS}.items() if raw[5] & 0xF8 == 0x98}


def _push(*values: int) -> bytes:
    return b"".join(b"\x68" + d32(value) for value in values)


def transfers(selector: int) -> dict[str, bytes]:
    """Code that ends in a transfer to `selector`."""
    frame = _push(DS3, USER_STACK, 0x3203, selector, TARGET)
    return {
        "jmp": b"\xea" + d32(TARGET) + d16(selector),
        "jmp 16": b"\x66\xea" + d16(0x40) + d16(selector),
        "jmp [m]": _stored(selector) + b"\xff\x2d" + d32(DATA),
        "jmp beyond": b"\xea" + d32(0x20_0000) + d16(selector),
        "call": b"\x9a" + d32(TARGET) + d16(selector),
        "call 16": b"\x66\x9a" + d16(0x40) + d16(selector),
        "call [m]": _stored(selector) + b"\x66\xff\x1d" + d32(DATA),
        "call beyond": b"\x9a" + d32(0x20_0000) + d16(selector),
        "iret": frame + b"\xcf",
        "iret 16": b"".join(b"\x66\x68" + d16(v) for v in (DS3, 0x800, 0x3203, selector, 0x40)) + b"\x66\xcf",
        "iret to stack": _push(selector, USER_STACK, 0x202, CS3, TARGET) + b"\xcf",
        "ret": _push(DS3, USER_STACK, selector, TARGET) + b"\xcb",
        "ret n": _push(DS3, USER_STACK, 0, 0, selector, TARGET) + b"\xca\x08\x00",
        "ret to stack": _push(selector, USER_STACK, CS3, TARGET) + b"\xcb",
    }


def _stored(selector: int) -> bytes:
    return b"\xc7\x05" + d32(DATA) + d32(TARGET) + b"\xc7\x05" + d32(DATA + 4) + d32(selector)


NAMES = tuple(transfers(0))


def _runs_silently(name: str, selector: int, cs: int) -> bool:
    """A far CALL that does not trap pushes the real CS: that is a leak, and has its own test."""
    return name.startswith("call") and cs == CS0 and selector & ~3 in KERNEL_CODE


def _left_out(name: str, selector: int, cs: int) -> bool:
    named = selector & ~3
    return (
        (named in TASKS and name[:4] in ("jmp", "jmp ", "call") and cs == CS0)
        or (named == GATE_CONFORMING and name.startswith("call"))  # test_deviations
        or named in (CS1, CS1 + 8)
        or _runs_silently(name, selector, cs)
    )


def _check(twins: Twins, name: str, cs: int, rpls: Iterable[int]) -> None:
    every = [*NULL, *(s & ~3 | rpl for s in (*DESCRIPTORS, *LOCAL_DESCRIPTORS, *BEYOND) for rpl in rpls)]
    for selector in every:
        if _left_out(name, selector, cs):
            continue
        twins.renew()
        twins.write(TARGET, b"\x40\xf4")
        try:
            difference = twins.compare(transfers(selector)[name], start(cs=cs))
        except UnsupportedGuestError:
            assert selector & ~3 in TASKS
            continue
        assert difference is None, f"{name} {selector:#x} at CS {cs:#x}: {difference}"


@pytest.mark.parametrize("cs", [CS0, CS3])
@pytest.mark.parametrize("name", NAMES)
def test_every_selector(twins: Twins, name: str, cs: int) -> None:
    _check(twins, name, cs, (0, 3))


@pytest.mark.long
@pytest.mark.parametrize("cs", [CS0, CS3])
@pytest.mark.parametrize("name", NAMES)
def test_every_selector_with_rpl_2(twins: Twins, name: str, cs: int) -> None:
    _check(twins, name, cs, (2,))


# ------------------------------------------------------------------------------------------------ call gates


def test_parameters_come_along_through_a_gate(twins: Twins) -> None:
    """SDM Vol. 3A §5.8.5: SS, ESP, the parameters, CS and EIP on the stack of the TSS."""
    state = twins.run(
        _push(3, 2, 1) + b"\x9a" + bytes(4) + d16(GATE_PARAMETERS) + b"\xf4", start(cs=USER, esp=USER_STACK), steps=5
    )
    top = state.general[GeneralRegister.RSP]
    assert top == INNER_STACK - 4 * 7
    frame = twins.memory(twins.virtual.machine)[top : top + 28]
    returns_to = CODE + 15 + 7
    assert frame == b"".join(map(d32, (returns_to, CS3, 1, 2, 3, USER_STACK - 12, DS3)))


def test_a_16_bit_gate_onto_a_16_bit_stack_keeps_the_upper_half_of_esp(twins: Twins) -> None:
    twins.write(GDT + TASK, t.segment(t.TSS16, 0, TSS_16, 0x2B))
    twins.write(BASE_16 + (INNER_STACK & 0xFFFF), bytes(16))
    state = replace(start(cs=USER, esp=0x1232_2800), tr=replace(loaded(TSS_OLD), flags=0x8100))
    end = twins.run(_push(0x11112222) + b"\x9a" + bytes(4) + d16(GATE_16), state, steps=2)
    assert end.general[GeneralRegister.RSP] >> 16 == 0x1232
    assert end.segments[SegmentRegister.CS].selector == CS16
    assert end.rip == ENTRY_16


@pytest.mark.parametrize("pointer", [0, 2, 4, 6, 0xFFFE])
def test_pushes_wrap_in_a_16_bit_stack(twins: Twins, pointer: int) -> None:
    """Each of them by itself: CS at the bottom of the segment and IP at its top."""
    twins.write(BASE_16 + 0x300, code("cb ; retf"))
    twins.run(
        b"\x9a" + d16(0x300) + d16(CS3) + b"\xf4",
        start(cs=CS16, esp=0x5555_0000 | pointer, ss=0x30),
        at=CODE,
    )


@pytest.mark.parametrize("iopl", [0, 1, 3])
@pytest.mark.parametrize("flags", [0x2, 0x202, 0x3202, 0x8D7, 0x240AD7, 0x10202, 0x40102])
def test_iret_restores_the_flags_that_its_privilege_may(twins: Twins, flags: int, iopl: int) -> None:
    """SDM Vol. 2A "IRET": IF by IOPL, IOPL in ring 0 alone; from ring 0 and from ring 3."""
    twins.write(TARGET, b"\x90\xf4")
    for cs in (CS0, USER):
        body = _push(flags, cs, TARGET) + b"\xcf"
        twins.run(body, start(cs=cs, eflags=2 | iopl << 12))
        if not (cs == USER and flags & 0x100):
            assert twins.virtual.log.counts[TrapReason.IRET]


def test_data_segments_are_cleared_on_the_way_out(twins: Twins) -> None:
    """SDM Vol. 2B "RET": those of the inner ring go, conforming code stays."""
    twins.write(TARGET, b"\xf4")
    state = replace(
        start(),
        segments=tuple(loaded(s) for s in (DS0, CS0, DS0, DS3, 3, 0x50)),  # ES, CS, SS, DS, FS null, GS conforming
    )
    end = twins.run(transfers(CS3)["ret"], state, steps=5)
    assert [segment.selector for segment in end.segments] == [0, CS3, DS3, DS3, 0, 0x50]


@pytest.mark.parametrize("selector", [0, 8, 0xFFF0, 0x0B])
@pytest.mark.parametrize("flags", [0x2, 0x102])
def test_sysexit(twins: Twins, selector: int, flags: int) -> None:
    twins.write(TARGET, b"\x40\xf4")
    body = code(
        f"""
        b9 74 01 00 00      ; mov ecx, IA32_SYSENTER_CS
        b8 {le(selector)}   ; mov eax, selector
        31 d2               ; xor edx, edx
        0f 30               ; wrmsr
        b9 {le(USER_STACK)} ; mov ecx, stack
        ba {le(TARGET)}     ; mov edx, target
        0f 35               ; sysexit
        """
    )
    state = twins.run(body, start(), steps=7)
    if selector:
        assert state.segments[SegmentRegister.SS].selector == (selector & 0xFFFC) + 24 & 0xFFFC | 3
    twins.run(code("0f 35 ; sysexit"), start(cs=USER, eflags=flags))


@pytest.mark.parametrize("esp", [0x7_FFFE, 0x8_0002, 0x8_0000, HOLE, GDT + 6, GDT + 0xFFE, 0xFFFF_FFFE, 2])
@pytest.mark.parametrize("cs", [CS0, CS3])
def test_frames_in_odd_places(twins: Twins, esp: int, cs: int) -> None:
    """Partly or wholly outside of memory, over a page of descriptors, around the end of the address space."""
    twins.write(TARGET, b"\x40\xf4")
    bodies = ["cb ; retf", "66 cb ; retf", "ca 04 00 ; retf 4", "9a 00 00 00 00 83 00 ; call 83:0", "1f ; pop ds"]
    if cs == CS3:
        bodies += ["cd 80 ; int 0x80", "9a 00 00 00 00 08 00 ; call 8:0"]
    for body in bodies:
        twins.renew()
        twins.run(code(f"{body}\nf4 ; hlt"), start(cs=cs, esp=esp))


@pytest.mark.parametrize("cs", [CS0, CS3])
@pytest.mark.parametrize("at", [0x7_FFFC, 0x7_FFFE, HOLE, 0xFFFF_FFFC, DATA + 0xFFD])
def test_far_pointers_in_odd_places(twins: Twins, at: int, cs: int) -> None:
    raw = d32(TARGET) + d16(GATE_PARAMETERS)
    if at < 0x8_0000:
        twins.write(at, raw[: 0x8_0000 - at])
    for opcode in ("ff 2d", "ff 1d", "66 ff 2d", "c5 05", "0f b2 05"):
        twins.run(bytes.fromhex(opcode) + d32(at) + b"\xf4", start(cs=cs))


@pytest.mark.parametrize("again", [b"\xcb", b"\xcf"])
def test_a_return_to_a_segment_that_is_known_is_checked_too(twins: Twins, again: bytes) -> None:
    """Beyond its limit: the first transfer to the segment traps, the second may not."""
    short = CS3_16 | 3
    twins.renew()
    twins.write(GDT + CS3_16, t.segment(t.CODE_R3, t.BYTES_32, 0, 0xFFF))
    twins.write(0x800, (_push(2) if again == b"\xcf" else b"") + _push(short, 0x2000) + again)
    twins.run(_push(short, 0x800) + b"\xcb", start(cs=USER))


# ------------------------------------------------------------------------------------------------ tasks, virtual 8086


@pytest.mark.parametrize("selector", sorted(TASKS))
@pytest.mark.parametrize("opcode", [0xEA, 0x9A])
def test_a_task_switch_is_refused_by_name(twins: Twins, selector: int, opcode: int) -> None:
    with pytest.raises(UnsupportedGuestError, match=r"switches tasks by hardware .*use bare-metal or vtx"):
        twins.compare(bytes([opcode]) + bytes(4) + d16(selector))


@pytest.mark.parametrize("selector", [TSS_FREE, TSS_FREE | 3, TASK, TASK_GATE, LDT_])
def test_a_task_that_the_user_may_not_enter_is_a_fault(twins: Twins, selector: int) -> None:
    assert vector(twins.run(b"\xea" + bytes(4) + d16(selector), start(cs=USER), steps=1)) == 13


def test_a_return_from_a_nested_task_is_refused_by_name(twins: Twins) -> None:
    for cs in (CS0, USER):
        twins.begin(_push(2, CS0, TARGET) + b"\xcf", start(cs=cs, eflags=0x4002))
        with pytest.raises(UnsupportedGuestError, match="nested task"):
            twins.virtual.machine.run(10)


def test_virtual_8086_mode_is_refused_by_name(twins: Twins) -> None:
    twins.begin(_push(0, 0, 0, 0, 0, 0x1000, 0x2_0002, 0, 0) + b"\xcf")
    with pytest.raises(UnsupportedGuestError, match=r"virtual-8086 mode .*use bare-metal or vtx"):
        twins.virtual.machine.run(20)


@pytest.mark.parametrize("cs", [USER, CS3])
def test_user_code_cannot_enter_virtual_8086_mode(twins: Twins, cs: int) -> None:
    """SDM Vol. 2A "IRET" tests VM in ring 0 alone. The engine tests it always, and would load IOPL 3 as well: the VMM
    must not let it (docs/deviations.md)."""
    twins.write(TARGET, b"\x40\xf4")
    twins.begin(_push(0x2_3202, CS3, TARGET) + b"\xcf", start(cs=cs))
    machine = twins.virtual.machine
    machine.run_to(4)
    state = machine.processor.guest_state()
    assert (state.rip, state.eflags, state.segments[SegmentRegister.CS].selector) == (TARGET, 2, CS3)
    assert twins.virtual_cpu.guest_state.real.eflags & 0x2_3200 == 0x200


def test_the_stack_of_an_absent_or_wrong_tss(twins: Twins) -> None:
    """SS0 null, of the wrong ring, not present, not writable, beyond its table; the TSS too short."""
    body = b"\x9a" + bytes(4) + d16(GATE_PARAMETERS) + b"\xf4"
    for ss0 in (0, 3, DS3, DS0 | 3, CS0, 0x60, 0x68, 0x78, 0x7FF8, 0x14):
        twins.renew()
        twins.write(TSS + 8, d16(ss0))
        twins.run(body, start(cs=USER))
    for limit in (3, 7, 8, 0xB):
        twins.renew()
        twins.run(body, replace(start(cs=USER), tr=replace(loaded(TASK), limit=limit, flags=0x8900)))


def test_the_handlers_are_where_they_are_expected(twins: Twins) -> None:
    assert twins.run(b"\x0f\x0b", start(esp=STACK)).rip == HANDLERS + 16 * 6 + 1
