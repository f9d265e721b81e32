"""Where everything lies in the memory of the probed PC, and what stands there before the instruction under test.

One small machine, the same for every experiment: 64 KiB of linear addresses, so that 16-bit operands reach all of them,
mapped page by page to themselves, or under the second address map to copies that lie 128 KiB higher. Two descriptor
tables, interrupt tables, local tables and task states each: a pair of states can then differ in a register that points
to one of them, and the other one is another table. Accessed and dirty bits are all set beforehand, so that no
instruction changes memory by merely touching it.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Final

from simvirt.x86.registers import Ring
from simvirt.x86.segments import Descriptor, GateDescriptor, Selector, SystemDescriptorType

GDT, GDT_B = 0x1000, 0x1400
GDT_LIMIT, GDT_LIMIT_B = 0xFF, 0xDF
IDT, IDT_B = 0x2000, 0x3000
TSS, TSS_B, IO_BITMAP_BYTES = 0x4000, 0x4400, 0x80
LDT, LDT_B, LDT_LIMIT = 0x4800, 0x4900, 0x1F
DATA: Final = 0x5000
"""Operands in memory."""
STACK: Final = 0x6800
"""The stack pointer at the start, the same at every CPL: only what is wanted shall differ."""
INNER_STACK, INNER_STACK_B, INNER_STACK_1 = 0x7800, 0x7400, 0x7C00
CODE, CODE_ELSEWHERE = 0x8100, 0x8500
TARGET, GATE_TARGET, SYSTEM_TARGET = 0x8140, 0x8180, 0x81C0
"""Where branches, call gates, and SYSENTER or SYSCALL lead."""
COPROCESSOR_CODE: Final = 0x8F00
"""Where a replay on another machine makes the x87 remember CS, before it comes to the instruction under test."""
HANDLERS: Final = 0x9000
"""The handler of vector n stands at HANDLERS + 16 n."""
LINEAR_SIZE: Final = 0x10000
TABLES, TABLES_B = 0x10000, 0x18000
"""The paging structures, outside of what they map."""
OTHER_MAP: Final = 0x20000
"""Under the second address map a linear page lies so much higher."""
MEMORY_SIZE: Final = 0x30000
PORT: Final = 0x80
"""A PC's diagnostics port: harmless on a real machine."""

FILLER: Final = 0xCC
"""INT3 stands wherever no data do, so that a replay on other machines stops behind the instruction under test."""

CS0, DS0, CS3, DS3, CS1, DS1 = 0x08, 0x10, 0x1B, 0x23, 0x29, 0x31
CONFORMING, OWN_TSS, OTHER_TSS, OWN_LDT, OTHER_LDT = 0x38, 0x40, 0x50, 0x60, 0x70
NOT_PRESENT_DATA, NOT_PRESENT_CODE, AVAILABLE_TSS = 0x80, 0x88, 0x90
CALL_GATE_0, CALL_GATE_3, SPECIAL_DATA = 0xA0, 0xB0, 0xC0
SPECIAL_CODE, DATA_16 = 0xC8, 0xD0
IN_LDT: Final = 0x0F
BEYOND: Final = 0x7F8
"""Behind the table's limit."""
CODE_SEGMENTS: Final = {0: CS0, 1: CS1, 3: CS3}
STACK_SEGMENTS: Final = {0: DS0, 1: DS1, 3: DS3}

VECTOR_DPL0, VECTOR_DPL3, VECTOR_TRAP_GATE, VECTOR_NOT_PRESENT = 0x40, 0x80, 0x81, 0x82

_CODE_TYPE, _DATA_TYPE, _CONFORMING_TYPE = 0xB, 0x3, 0xF  # accessed
_FLAT: Final = 0xFFFFF


def descriptors(bits: int, *, other: bool = False) -> dict[int, bytes]:
    """The entries of the GDT by selector, or of the other GDT."""
    long = bits == 64

    def code(dpl: int, kind: int = _CODE_TYPE, *, present: bool = True, base: int = 0) -> bytes:
        return Descriptor(base, _FLAT, kind, dpl=Ring(dpl), present=present, long=long, default_size=not long).encode()

    def data(dpl: int, *, present: bool = True, base: int = 0, limit: int = _FLAT, size: bool = True) -> bytes:
        return Descriptor(base, limit, _DATA_TYPE, dpl=Ring(dpl), present=present, default_size=size).encode()

    def system(kind: SystemDescriptorType, base: int, limit: int) -> bytes:
        found = Descriptor(base, limit, kind, is_code_or_data=False, default_size=False, granularity=False)
        return found.encode_long() if long else found.encode()

    def gate(dpl: int) -> bytes:
        found = GateDescriptor(SystemDescriptorType.CALL_GATE_32, Selector(CS0), GATE_TARGET, Ring(dpl))
        return found.encode_long() if long else found.encode()

    tss_limit = 0x68 + IO_BITMAP_BYTES
    return {
        CS0: code(0), DS0: data(0), CS3: code(3), DS3: data(3), CS1: code(1), DS1: data(1),
        CONFORMING: code(0, _CONFORMING_TYPE),
        OWN_TSS: system(SystemDescriptorType.BUSY_TSS_32, TSS, tss_limit),
        OTHER_TSS: system(SystemDescriptorType.BUSY_TSS_32, TSS_B, tss_limit),
        OWN_LDT: system(SystemDescriptorType.LDT, LDT, LDT_LIMIT),
        OTHER_LDT: system(SystemDescriptorType.LDT, LDT_B, LDT_LIMIT),
        NOT_PRESENT_DATA: data(3, present=False),
        NOT_PRESENT_CODE: code(3, present=False),
        AVAILABLE_TSS: system(SystemDescriptorType.AVAILABLE_TSS_32, TSS_B, tss_limit),
        CALL_GATE_0: gate(0),
        CALL_GATE_3: gate(3),
        SPECIAL_DATA: data(0, base=0x100) if other else data(3, limit=0xFEFFF),
        SPECIAL_CODE: code(0) if other else code(3),
        DATA_16: data(3, size=False),
    }  # fmt: skip


def gate_dpl(vector: int, *, other: bool = False) -> int:
    """The DPL of a gate of the IDT, or of the other IDT, which keeps breakpoints for itself."""
    return 3 if vector in (VECTOR_DPL3, VECTOR_TRAP_GATE, VECTOR_NOT_PRESENT) or (vector in (3, 4) and not other) else 0


def gates(bits: int, *, other: bool = False) -> bytes:
    """The IDT, or the other IDT."""
    table = bytearray()
    for vector in range(256):
        kind = (
            SystemDescriptorType.TRAP_GATE_32 if vector == VECTOR_TRAP_GATE else SystemDescriptorType.INTERRUPT_GATE_32
        )
        gate = GateDescriptor(
            kind,
            Selector(CS0),
            HANDLERS + 16 * vector + (8 if other else 0),
            Ring(gate_dpl(vector, other=other)),
            present=vector != VECTOR_NOT_PRESENT,
        )
        table += gate.encode_long() if bits == 64 else gate.encode()
    return bytes(table)


def task_state(bits: int, *, other: bool = False) -> bytes:
    """The TSS, or the other one: other inner stacks. Both keep all ports for CPL 0."""
    stack = INNER_STACK_B if other else INNER_STACK
    data = bytearray(0x68)
    if bits == 64:
        struct.pack_into("<QQ", data, 4, stack, INNER_STACK_1)
    else:
        struct.pack_into("<IIII", data, 4, stack, DS0, INNER_STACK_1, DS1)
        struct.pack_into("<I", data, 0x1C, TABLES)
    struct.pack_into("<H", data, 0x66, 0x68)
    return bytes(data) + b"\xff" * (IO_BITMAP_BYTES + 1)


IO_BITMAP_BYTE: Final = TSS + 0x68 + PORT // 8
IO_DENIED, IO_ALLOWED = 0xFF, 0xF0
"""The byte of the bitmap that speaks of ports 80H to 87H."""


def local_descriptors(*, other: bool = False) -> bytes:
    """The LDT, or the other one: entry 1 is a data segment, of another base there."""
    base = 0x200 if other else 0
    return bytes(8) + Descriptor(base, _FLAT, _DATA_TYPE, dpl=Ring.RING3).encode() + bytes(16)


@cache
def memory_image(bits: int) -> bytes:
    """All of physical memory, without operands and without the instruction."""
    linear = bytearray(bytes([FILLER]) * LINEAR_SIZE)
    linear[:0x1000] = bytes(0x1000)
    for base, limit, other in ((GDT, GDT_LIMIT, False), (GDT_B, GDT_LIMIT, True)):
        linear[base : base + limit + 1] = bytes(limit + 1)
        for selector, descriptor in descriptors(bits, other=other).items():
            at = base + (selector & ~7)
            linear[at : at + len(descriptor)] = descriptor
    for base, content in (
        (IDT, gates(bits)),
        (IDT_B, gates(bits, other=True)),
        (TSS, task_state(bits)),
        (TSS_B, task_state(bits, other=True)),
        (LDT, local_descriptors()),
        (LDT_B, local_descriptors(other=True)),
    ):
        linear[base : base + len(content)] = content
    for page in (DATA, STACK & ~0xFFF, INNER_STACK & ~0xFFF):
        linear[page : page + 0x1000] = bytes(0x1000)
    memory = bytearray(MEMORY_SIZE)
    memory[:LINEAR_SIZE] = linear
    memory[OTHER_MAP : OTHER_MAP + LINEAR_SIZE] = linear
    for root, offset in ((TABLES, 0), (TABLES_B, OTHER_MAP)):
        _paging_structures(memory, bits, root, offset)
    return bytes(memory)


_ENTRY: Final = 0x67
"""Present, writable, user, accessed, dirty."""


def _paging_structures(memory: bytearray, bits: int, root: int, offset: int) -> None:
    levels, size = (4, 8) if bits == 64 else (2, 4)
    table = root
    for _ in range(levels - 1):
        struct.pack_into("<Q" if size == 8 else "<I", memory, table, table + 0x1000 | _ENTRY & ~0x40)
        table += 0x1000
    for page in range(LINEAR_SIZE >> 12):
        struct.pack_into("<Q" if size == 8 else "<I", memory, table + size * page, (page << 12) + offset | _ENTRY)
