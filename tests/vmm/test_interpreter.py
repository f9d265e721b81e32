"""Trapped instructions do what they do on the bare PC: flags, tables, control and debug registers, ports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simvirt.errors import UnsupportedGuestError
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.x86.flags import Cr4
from simvirt.x86.registers import GeneralRegister
from tests.support import tables as t
from tests.support.assembler import d16, d32
from tests.support.twins import (
    BASE_16,
    CODE,
    CS0,
    CS3,
    CS3_16,
    CS16,
    DATA,
    DESCRIPTORS,
    DS3,
    GDT,
    HOLE,
    IDT,
    MEMORY,
    TASK,
    TSS,
    USER,
    USER_STACK,
    VMM,
    Twins,
    contents,
    start,
    vector,
)

FLAGS = (0x2, 0x3002, 0x102, 0x3102, 0x202, 0x1_0002)
"""Plain; IOPL 3; TF; both; IF; RF."""
CODES = (CS0, CS3, CS16, CS3_16 | 3)

_TRAPPING = """
    fa fb f4 0f06 0f08 0f09 0f20c0 0f20d0 0f20d8 0f20e0 0f22d0 0f22d8 0f22e0 0f21c0 0f21f0 0f21e0 0f23c0 0f23f0 0f23f8
    0f23e0 0f30 0f32 0f31 0f01f9 0f33 0f00d0 0f00d8 0f01f0 0f0138 0f01f8 0f0110 0f0118 0f01cb 0f01ca 0f01d0 0f01d1
    0f01c8 0f01c9 0f01d8 0f01c1 0f20c8 0f22c8 0f20e8 0f20f0 0f22f0 0f20f8 0f22f8 0f35 0f34 0f05 0f07 0faa 0f37 f1 cc
    ce cd80 cd20 cdff 0f0b 6200 0fa2 e440 e450 e500 ec ed ee ef e640 e770 6c 6d 6e 6f f36c f36d f36e f36f f26c 66ef
    66ed 6766e440 f30f20c0 660f20c0 0f22c1 0fc7f0 f390 0fff 0fb9 1f 07 17 0fa1 0fa9 cb cf 66cb 66cf 661f 6617 8ed1
    8e18 8e10 8ec8 8ef8 c500 c400 0fb200 0fb400 66c500 ff28 66ff28 678e1e0000 678ed8 6766c51e0000
"""
TRAPPING = tuple(_TRAPPING.split())
"""Instructions that trap in ring 1 or 3 and do not leak. EAX and EBX point to data, EDX is a port."""


def _state(cs: int, eflags: int) -> ArchitecturalState:
    small = cs & ~7 in (CS16, CS3_16)
    if small:
        return start(cs=cs, eflags=eflags, eax=8, ecx=3, edx=0x40, esi=0x40, edi=0x80, ebx=0x200)
    return start(cs=cs, eflags=eflags, eax=DATA, ecx=3, edx=0x40, esi=DATA + 64, edi=DATA + 128, ebx=DATA + 0x200)


def _sweep(twins: Twins, cs: int, eflags: int) -> None:
    access = next(raw[5] for selector, raw in DESCRIPTORS.items() if selector & ~7 == cs & ~7)
    for text in TRAPPING:
        twins.renew()
        twins.write(GDT + (cs & ~7) + 5, bytes([access | 1]))  # as whoever loaded CS has left it
        twins.write(DATA, d32(CODE + 0x20) + d16(cs) + bytes(10) + 4 * d32(DS3))
        difference = twins.compare(bytes.fromhex(text) + b"\x42\x43", _state(cs, eflags), steps=5)
        assert difference is None, f"{text} at CS {cs:#x}, EFLAGS {eflags:#x}: {difference}"


@pytest.mark.parametrize("cs", CODES)
@pytest.mark.parametrize("eflags", FLAGS[:3])
def test_every_trapping_instruction(twins: Twins, cs: int, eflags: int) -> None:
    _sweep(twins, cs, eflags)


@pytest.mark.long
@pytest.mark.parametrize("cs", CODES)
@pytest.mark.parametrize("eflags", FLAGS[3:])
def test_every_trapping_instruction_with_other_flags(twins: Twins, cs: int, eflags: int) -> None:
    _sweep(twins, cs, eflags)


def lgdt(base: int, limit: int) -> bytes:
    """PUSH base; PUSH limit; LGDT [ESP]."""
    return b"\x68" + d32(base) + b"\x66\x68" + d16(limit) + b"\x0f\x01\x14\x24"


def lidt(base: int, limit: int) -> bytes:
    return lgdt(base, limit)[:-2] + b"\x1c\x24"


def load_ds(selector: int) -> bytes:
    """MOV EAX, selector; MOV DS, AX; HLT."""
    return b"\xb8" + d32(selector) + b"\x8e\xd8\xf4"


# ------------------------------------------------------------------------------------------------ shadows and steps


@pytest.mark.parametrize("eflags", [0x2, 0x202, 0x102, 0x3202])
@pytest.mark.parametrize("text", ["fb", "fbfb", "fbfa", "fafb", "fb6a1017", "6a1017fb", "fb0f0b", "fbcd80", "fb9090"])
def test_interrupt_shadows(twins: Twins, text: str, eflags: int) -> None:
    """SDM Vol. 2B "STI", "MOV": one instruction long, and the first of several in a row alone makes one."""
    twins.run(bytes.fromhex(text) + b"\x42\xf4", start(eflags=eflags))


# ------------------------------------------------------------------------------------------------ tables


@pytest.mark.parametrize("limit", [0, 1, 6, 7, 8, 0xE, 0xF, 0x10, 0x13, 0x16, 0x17, 0x1E, 0x22, 0x26, 0x27, 0xFFFF])
def test_a_gdt_with_any_limit(twins: Twins, limit: int) -> None:
    """A descriptor whose last byte lies beyond the limit is #GP, though its other bytes are there (Vol. 3A §3.5.1)."""
    for selector in (0x23, 0x10, 0xFFFB):
        twins.renew()
        twins.run(lgdt(GDT, limit) + load_ds(selector))


@pytest.mark.parametrize("base", [HOLE, 0x7_F000, 0x7_FFF0, 0x7_FFEC, 0xFFFF_FFF0, VMM, VMM - 8, 0xFFBF_FFFC, GDT + 3])
def test_a_gdt_anywhere(twins: Twins, base: int) -> None:
    """In a hole, partly in one, around the end of the address space, in the VMM's part of it, at odd addresses."""
    for selector in (0x08, 0x10, 0x1B, 0x23):
        twins.renew()
        if base < MEMORY:
            twins.write(base, contents()[GDT][: MEMORY - base])
        twins.write(CODE + 0x60, b"\x40\xf4")
        twins.run(lgdt(base, 0xFF) + load_ds(selector))
        twins.run(lgdt(base, 0xFF) + b"\xea" + d32(CODE + 0x60) + d16(selector))
        twins.run(lgdt(base, 0xFF) + b"\xcd\x80")


@pytest.mark.parametrize("limit", [0x7FF, 0x80 * 8 + 6, 0x80 * 8 + 7, 0])
@pytest.mark.parametrize("base", [HOLE, 0x7_FFC0, 0x1_FFFD, 0x7_FFFD - 0x400, 0xFFFF_FFFC - 0x400, VMM])
def test_an_idt_anywhere(twins: Twins, base: int, limit: int) -> None:
    for body in (b"\xcd\x80", b"\x0f\x0b"):
        twins.renew()
        if base < MEMORY:
            twins.write(base, contents()[IDT][: MEMORY - base])
        twins.run(lidt(base, limit) + body)


@pytest.mark.parametrize("limit", [0x67, 8, 9, 3, 7, 0x66, 0xFFF])
@pytest.mark.parametrize("base", [HOLE, 0x7_FFF8, 0x7_FFC0, 0x3FFD, 0x5FF9, 0xFFFF_FFFC, 0x7_FFFF, VMM])
def test_a_tss_anywhere(twins: Twins, base: int, limit: int) -> None:
    """The stack for ring 0 and the I/O permission bitmap come from it."""
    frame = b"".join(b"\x68" + d32(value) for value in (DS3, USER_STACK, 0x202, CS3, CODE + 0x60)) + b"\xcf"
    for body in (b"\xcd\x80", b"\xe4\x80\xe4\x40\xf4"):
        twins.renew()
        twins.write(GDT + TASK, t.segment(t.TSS32, 0, base, limit))
        if base < MEMORY:
            twins.write(base, contents()[TSS][: MEMORY - base])
        twins.write(CODE + 0x60, body)
        twins.run(b"\xb8" + d32(TASK) + b"\x0f\x00\xd8" + frame)


def test_16_bit_code_loads_24_bits_of_a_base(twins: Twins) -> None:
    """SDM Vol. 2A "LGDT/LIDT"; with an operand-size prefix all 32."""
    twins.write(BASE_16 + 0x200, d16(0xFFFF) + d32(0x1234_5678))
    for text, base in (("0f01 16 0002", 0x34_5678), ("66 0f01 16 0002", 0x1234_5678)):
        state = twins.run(bytes.fromhex(text), replace(start(cs=CS16, ds=0x30)), steps=1)
        assert state.gdtr.base == base


def test_lldt_of_null_unloads_the_table(twins: Twins) -> None:
    for selector in (0, 3):
        body = b"\xb8" + d32(selector) + b"\x0f\x00\xd0" + load_ds(0x14)
        assert vector(twins.run(body)) == 13


# ------------------------------------------------------------------------------------------------ control registers


@pytest.mark.parametrize("cr0", [0x11, 0x31, 0x13, 0x15, 0x19, 0x6000_0011, 0x2000_0011, 0x5_0011, 0x1B])
def test_cr0_and_the_floating_point_unit(twins: Twins, cr0: int) -> None:
    """TS, EM, MP and NE work on the real processor; NW without CD is #GP; x87 errors come as NE says."""
    body = b"\xb8" + d32(cr0) + bytes.fromhex("0f22c0 0f20c3 d9e8 6a3b d92c24 d9ee def9 9b d9c0 0f06 d9e8 f4")
    twins.run(body, steps=30)


@pytest.mark.parametrize(
    "cr4", [0, 4, 8, 0x10, 0x20, 0x80, 0x200, 0x600, 0x800, 0x10_0000, 0x20_0000, 1, 0x2000, 0xC00]
)
def test_cr4(twins: Twins, cr4: int) -> None:
    """What it permits and forbids, in rings 0 and 3: RDTSC, SSE, MOV to DR4, STAC, SGDT."""
    use = bytes.fromhex("0f31 0f57c0 0f01cb 0f21e0 f4")
    twins.run(b"\xb8" + d32(cr4) + b"\x0f\x22\xe0\x0f\x20\xe3" + use)
    if cr4 & Cr4.UMIP:
        for store in ("0f0105", "0f010d", "0f0005", "0f000d", "0f0125"):
            for cs in (CS0, USER):
                twins.run(bytes.fromhex(store) + d32(DATA) + b"\xf4", replace(start(cs=cs), control=(0x11, 0, 0, cr4)))


@pytest.mark.parametrize(
    "text", ["0f00c0", "660f00c3", "0f00c8", "660f00c9", "0f01e0", "660f01e2", "660f0100", "0f0108"]
)
@pytest.mark.parametrize("cs", CODES)
def test_what_umip_forbids_is_emulated_for_the_kernel(twins: Twins, text: str, cs: int) -> None:
    """SDM Vol. 3A §2.5 (UMIP): with it SGDT and its kin fault in rings 1 and 3, so nothing leaks."""
    state = replace(start(cs=cs, eax=0x1234_5678 if "00c" in text else 0x300), control=(0x11, 0, 0, int(Cr4.UMIP)))
    end = twins.run(bytes.fromhex(text), state, steps=1)
    assert vector(end) == (13 if cs & 3 else None)


def test_paging_and_real_mode_are_refused_by_name(twins: Twins) -> None:
    for value, what in ((0x10, "protected mode off"),):
        twins.begin(b"\xb8" + d32(value) + b"\x0f\x22\xc0")
        with pytest.raises(UnsupportedGuestError, match=rf"turns {what} .*use bare-metal or vtx"):
            twins.virtual.machine.run(2)
        assert twins.virtual.machine.processor.guest_state().rip == CODE + 5


# ------------------------------------------------------------------------------------------------ privileged user code


def test_iopl_3_lets_user_code_switch_interrupts(twins: Twins) -> None:
    state = twins.run(b"\xfb\x42\xfa\x42\xe4\x80\xcd\x80", start(cs=USER, eflags=0x3002))
    assert state.general[GeneralRegister.RDX] == 2
    assert twins.virtual.log.counts[TrapReason.STI] == twins.virtual.log.counts[TrapReason.CLI] == 1


@pytest.mark.parametrize("port", [0x3F, 0x40, 0x41, 0x7C, 0x7D, 0x7E, 0x7F, 0x80, 0x43F, 0xFFFF])
@pytest.mark.parametrize("text", ["ec", "66ed", "ed", "ee", "66ef", "ef", "6c", "66f36d", "f36f"])
def test_the_io_permission_bitmap_is_the_guest_s(twins: Twins, port: int, text: str) -> None:
    """SDM Vol. 1 §19.5.2: every port of the access must be given."""
    state = start(cs=USER, edx=port, esi=DATA, edi=DATA + 64, ecx=2)
    twins.run(bytes.fromhex(text) + b"\x42\xf4", state)


@pytest.mark.parametrize("cs", CODES)
def test_sysenter_and_its_return(twins: Twins, cs: int) -> None:
    for selector in (0, CS0, 0xB):
        registers = b"\xb9\x74\x01\0\0\x31\xd2"
        for value in (selector, USER_STACK, CODE + 0x40):
            registers += b"\xb8" + d32(value) + b"\x0f\x30\x41"
        twins.run(registers + b"\x0f\x34", steps=12)
        twins.run(b"\x0f\x34", start(cs=cs, eflags=0x202), steps=1)
