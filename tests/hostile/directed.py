"""Directed hostile guests: a listing with the usual tables behind it.

Every guest is a flat binary, entered at 1 MiB with nothing set up but flat segments. `guest` puts a prologue in front
that loads GDT, IDT and, if wanted, a task, by the guest's own instructions, so that it runs under every strategy.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from tests.hostile.guests import ENTRY, Family, HostileGuest
from tests.support import tables
from tests.support.code import code

GDT: Final = 0x1000
IDT: Final = 0x2000
TSS: Final = 0x3000
OTHER_TSS: Final = 0x3800
HANDLERS: Final = 0x5000
"""The handler of vector n is at HANDLERS + 64 n; by default it is CLI, HLT: the guest has halted."""
PAGES: Final = 0x10000
STACK: Final = 0x70000
INNER_STACK: Final = 0x78000
CODE: Final = ENTRY + 0x100
"""Where the listing begins, behind the prologue."""

CS0, DS0, CS3, DS3, TASK, OTHER_TASK, CALL_GATE, TASK_GATE, CS64, CS16, LDT, SPARE = range(0x08, 0x68, 8)
"""Selectors of the GDT; those of ring 3 are to be used with RPL 3."""

_HALT: Final = b"\xfa\xf4"


def guest(
    listing: str,
    *,
    handlers: Mapping[int, str] | None = None,
    gates: Mapping[int, bytes] | None = None,
    descriptors: Mapping[int, bytes] | None = None,
    pieces: Sequence[tuple[int, bytes]] = (),
    at: int = CODE,
    task: bool = True,
) -> HostileGuest:
    """A guest that runs `listing` (tests.support.code) in ring 0 behind the prologue.

    :param handlers: listings by vector.
    :param gates: gates by vector, instead of the usual ones.
    :param descriptors: descriptors by selector, instead of the usual ones.
    :param pieces: more memory.
    :param at: where the listing goes.
    :param task: load TR.
    """
    idt = [tables.gate(tables.INT_GATE, CS0, HANDLERS + 64 * vector, dpl=3) for vector in range(256)]
    for vector, gate in (gates or {}).items():
        idt[vector] = gate
    gdt = {
        CS0: tables.segment(tables.CODE_R0),
        DS0: tables.segment(tables.DATA_R0),
        CS3: tables.segment(tables.CODE_R3),
        DS3: tables.segment(tables.DATA_R3),
        TASK: tables.segment(tables.TSS32, 0, TSS, 0x67),
        OTHER_TASK: tables.segment(tables.TSS32, 0, OTHER_TSS, 0x67),
        CALL_GATE: tables.gate(tables.CALL_GATE_32, CS0, CODE, dpl=3),
        TASK_GATE: tables.gate(tables.TASK_GATE, OTHER_TASK, 0, dpl=3),
        CS64: tables.segment(tables.CODE_R0, tables.FLAT_64),
        CS16: tables.segment(tables.CODE_R0, tables.BYTES_16, limit=0xFFFF),
        LDT: tables.segment(tables.LDT, 0, GDT, 0xFF),
        SPARE: bytes(8),
        **(descriptors or {}),
    }
    handler_code = [(HANDLERS + 64 * vector, _HALT) for vector in range(32)]
    handler_code += [(HANDLERS + 64 * vector, code(text)) for vector, text in (handlers or {}).items()]
    pointers = struct.pack("<HI2xHI", 0xFF, GDT, 0x7FF, IDT)
    prologue = bytes.fromhex("0f0115 000c0000 0f011d 080c0000 bc 00000700 66b81000 8ed8 8ec0 8ed0 8ee0 8ee8")
    if task:
        prologue += bytes.fromhex("66b82800 0f00d8")
    body = code(listing)
    jump = b"\xe9" + struct.pack("<i", at - (ENTRY + len(prologue) + 5))
    return HostileGuest(
        0,
        Family.BYTES,
        (
            (0xC00, pointers),
            (GDT, b"".join(gdt.get(selector, bytes(8)) for selector in range(0, 0x100, 8))),
            (IDT, b"".join(idt)),
            (TSS, tables.tss_32(INNER_STACK, DS0, esp1=INNER_STACK, ss1=DS0)),
            (ENTRY, prologue + jump),
            *handler_code,
            *pieces,
            (at, body),
        ),
    )


PROLOGUE_COUNT: Final = 12
"""Instructions that the prologue retires, with `task`."""


def raw(data: str | bytes, at: int = ENTRY) -> HostileGuest:
    """Bytes and nothing else."""
    return HostileGuest(0, Family.BYTES, ((at, bytes.fromhex(data) if isinstance(data, str) else data),))
