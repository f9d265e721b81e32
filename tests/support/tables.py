"""Descriptors, gates and task-state segments, put together from the manual's figures independently of simvirt.x86.

The figures are those of SDM Vol. 3A: 3-8 (segment descriptor), 6-2 and 6-8 (gates), 7-2, 7-10 and 7-11 (TSS).
"""

from __future__ import annotations

import struct

# Access bytes: P, DPL, S and the type (Table 3-1, Table 3-2).
CODE_R0, CODE_R1, CODE_R3 = 0x9A, 0xBA, 0xFA
CONFORMING_R0 = 0x9E
DATA_R0, DATA_R1, DATA_R3 = 0x92, 0xB2, 0xF2
READ_ONLY_R0 = 0x90
EXPAND_DOWN_R0 = 0x96
LDT, TSS16, TSS32, BUSY_TSS32 = 0x82, 0x81, 0x89, 0x8B
TASK_GATE, INT_GATE_16, TRAP_GATE_16, CALL_GATE_32, INT_GATE, TRAP_GATE = 0x5, 0x6, 0x7, 0xC, 0xE, 0xF

# The upper flags: G, D/B, L.
FLAT_32, FLAT_64, BYTES_16, BYTES_32 = 0xC, 0xA, 0x0, 0x4


def segment(access: int, flags: int = FLAT_32, base: int = 0, limit: int = 0xFFFFF) -> bytes:
    """A segment descriptor of eight bytes (Figure 3-8); `limit` is the 20-bit field."""
    return struct.pack(
        "<HHBBBB",
        limit & 0xFFFF,
        base & 0xFFFF,
        base >> 16 & 0xFF,
        access,
        limit >> 16 & 0xF | flags << 4,
        base >> 24 & 0xFF,
    )


def system_segment_64(access: int, base: int, limit: int) -> bytes:
    """A sixteen-byte TSS or LDT descriptor of IA-32e mode (Figure 7-4)."""
    return segment(access, 0, base & 0xFFFFFFFF, limit) + struct.pack("<II", base >> 32, 0)


def gate(kind: int, selector: int, offset: int, dpl: int = 0, *, present: bool = True, parameters: int = 0) -> bytes:
    """An eight-byte gate (Figure 6-2; call gate: Figure 5-8)."""
    access = kind | dpl << 5 | present << 7
    return struct.pack("<HHBBH", offset & 0xFFFF, selector, parameters, access, offset >> 16 & 0xFFFF)


def gate_64(kind: int, selector: int, offset: int, dpl: int = 0, *, present: bool = True, ist: int = 0) -> bytes:
    """A sixteen-byte gate of IA-32e mode (Figure 6-8)."""
    return gate(kind, selector, offset & 0xFFFFFFFF, dpl, present=present, parameters=ist) + struct.pack(
        "<II", offset >> 32, 0
    )


def tss_32(
    esp0: int, ss0: int, *, esp1: int = 0, ss1: int = 0, io_map_base: int = 0x68, io_map: bytes = b"", cr3: int = 0
) -> bytes:
    """A 32-bit TSS (Figure 7-2) with stacks for rings 0 and 1 and an I/O permission bitmap."""
    data = bytearray(max(0x68, io_map_base if io_map else 0) + len(io_map))
    struct.pack_into("<IIIII", data, 4, esp0, ss0, esp1, ss1, 0)
    struct.pack_into("<I", data, 28, cr3)
    struct.pack_into("<H", data, 102, io_map_base)
    if io_map:
        data[io_map_base : io_map_base + len(io_map)] = io_map
    return bytes(data)


def tss_16(sp0: int, ss0: int) -> bytes:
    """A 16-bit TSS (Figure 7-10) with a stack for ring 0."""
    data = bytearray(0x2C)
    struct.pack_into("<HH", data, 2, sp0, ss0)
    return bytes(data)


def tss_64(rsp0: int, *ist: int, rsp1: int = 0) -> bytes:
    """A 64-bit TSS (Figure 7-11) with RSP0, RSP1 and the interrupt stacks from IST1 on."""
    data = bytearray(0x68)
    struct.pack_into("<QQ", data, 4, rsp0, rsp1)
    for number, pointer in enumerate(ist):
        struct.pack_into("<Q", data, 36 + 8 * number, pointer)
    struct.pack_into("<H", data, 102, 0x68)
    return bytes(data)
