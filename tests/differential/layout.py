"""Where everything lies in the memory of the bench (`bench.S`), and the tables that the machine works with.

Physical addresses; where there is paging, what is mapped is mapped to itself.

==============  ======================================================================================
00000-9FFFF     real mode and virtual-8086 mode: IVT, the bench's real-mode part, code of cases, sandbox
100000          the bench
110000          GDT, IDT, TSS, LDT, kernel stack, parameters
140000          paging structures, not mapped
200000          cases, sandbox masters, floating-point states
600000          code of the cases
800000          the sandbox, with its neighbours: absent, read-only and supervisor pages
1000000         the log
==============  ======================================================================================
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.guests.build import build
from simvirt.guests.image import BootProtocol, GuestImage, ImageKind, Segment
from simvirt.guests.recognise import recognise
from simvirt.x86.addresses import Gpa
from tests.support import tables as t

if TYPE_CHECKING:
    from pathlib import Path

MEMORY_SIZE: Final = 64 << 20
GDT, IDT, TSS, LDT, PARAMETERS = 0x11_0000, 0x11_2000, 0x11_4000, 0x11_8000, 0x11_F000
PAGE_TABLES: Final = 0x14_0000
CASES, MASTERS, FLOATING_POINT = 0x20_0000, 0x40_0000, 0x48_0000
CODE, CODE_SIZE = 0x60_0000, 0x10_0000
LOG, LOG_END = 0x100_0000, 0x3F0_0000
LOG_LINEAR: Final = 0xE000_0000
"""With paging the log is so far up: wild pointers seldom find it."""
LOG_RANGE: Final = (LOG_LINEAR, LOG_LINEAR + LOG_END - LOG)
KERNEL_STACK: Final = 0x11_E000
REAL, LOW_PARAMETERS = 0x8000, 0xF000
CASE_SIZE, CASE_CODE, RECORD_SIZE = 0x100, 0x80, 0x300
LOW_CODE, LOW_CODE_SIZE = 0x1_0000, 0x4_0000
MOST_CASES: Final = {True: LOW_CODE_SIZE // CASE_CODE, False: CODE_SIZE // CASE_CODE}
"""Cases that there is room for, by: is their code in low memory?"""


class Mode(Enum):
    """The mode that the bench goes to; the value is what its parameters say."""

    REAL = 0
    PROTECTED = 1
    LONG = 2


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The memory that cases play with: two windows that are filled before each case and summed up after each step."""

    base: int
    """Where pointers into it begin; the base of segments whose offsets reach it with 16 bits."""
    window: int
    window_size: int
    edge: int
    """The second window, at the end of what can be written."""
    edge_size: int


HIGH_SANDBOX: Final = Sandbox(0x80_1E00, 0x80_1000, 0x2000, 0x80_2FC0, 0x40)
LOW_SANDBOX: Final = Sandbox(0x5_0000, 0x5_0000, 0x600, 0x5_FF00, 0x100)

# Selectors of protected and of long mode.
KERNEL_CODE, KERNEL_DATA, CODE_3, DATA_3, TASK = 0x08, 0x10, 0x43, 0x4B, 0x58
CODE_3_64, DATA_3_16, SHIFTED_3 = 0x73, 0x83, 0x8B
CODE_3_16: Final = 0x303
"""The first of the segments that divide the code into parts of 64 KiB."""
LOCAL: Final = 0xA0
_FIRST_ODD: Final = 0xC0


def _odd_descriptors(sink: int, call_gate: int) -> list[bytes]:
    """Descriptors of all kinds, for what looks at them: LAR, LSL, VERR, VERW, segment loads, far transfers."""
    odd = [
        t.segment(t.DATA_R3 & 0x7F | 1),
        t.segment(t.CODE_R3 & 0x7F | 1),
        t.segment(t.DATA_R0 | 1, base=0x80_0000, limit=0xFF),
        t.segment(t.CONFORMING_R0 | 1),
        t.segment(0xF9),  # execute only, DPL 3
        t.segment(0xF1, t.BYTES_16, 0x80_0000, 0xFFFF),  # read only, DPL 3
        t.segment(0xF5, t.BYTES_32, 0x80_0000, 0x0FFF),  # expand down, read only
        t.segment(0xF7, t.BYTES_16, 0x80_0000, 0x0FFF),  # expand down
        t.segment(0xFF, t.FLAT_32),  # conforming, DPL 3
        t.segment(0xD3),  # DPL 2
        t.segment(0xFB, t.FLAT_64),  # L, in legacy mode a reserved bit
        t.segment(0xFB, 0xE),  # L and D
        t.gate(call_gate, KERNEL_CODE, sink, dpl=3),
        t.gate(call_gate, KERNEL_CODE, sink, dpl=0),
        t.gate(call_gate, KERNEL_CODE, sink, dpl=3, present=False),
        t.gate(call_gate, 0, sink, dpl=3),
        t.gate(call_gate, KERNEL_DATA, sink, dpl=3),
        t.gate(call_gate, CODE_3, sink, dpl=3),
        t.gate(4, KERNEL_CODE, sink & 0xFFFF, dpl=3),  # 16-bit call gate
    ]
    # Every type of system descriptor once more, at DPL 3 and present; the tasks are left out.
    return odd + [
        t.segment(0xE0 | kind, 0, 0x80_1000, 0xFF) for kind in range(16) if kind not in (1, 3, 4, 5, 9, 11, 12)
    ]


def selectors(mode: Mode) -> list[int]:
    """Selectors for a case to play with: of every descriptor, in the LDT, beyond the table, null."""
    count = len(_odd_descriptors(0, t.CALL_GATE_32))
    step = 16 if mode is Mode.LONG else 8
    odd = [_FIRST_ODD + step * i | rpl for i in range(count) for rpl in (0, 3)]
    common = [0, 3, DATA_3, DATA_3, SHIFTED_3, SHIFTED_3, DATA_3_16, CODE_3, CODE_3_16, KERNEL_DATA, KERNEL_CODE]
    return common + odd + [0x4, 0xC | 3, 0x7, 0x14, TASK, TASK | 3, 0x7F8, 0xFFF8, CODE_3_64]


def _gdt(mode: Mode, sink: int) -> bytes:
    long = mode is Mode.LONG
    gdt = bytearray(0x800)

    def put(selector: int, data: bytes) -> None:
        gdt[selector & ~7 : (selector & ~7) + len(data)] = data

    put(KERNEL_CODE, t.segment(t.CODE_R0 | 1, t.FLAT_64 if long else t.FLAT_32))
    put(KERNEL_DATA, t.segment(t.DATA_R0 | 1))
    put(0x18, t.segment(t.DATA_R0 | 1, t.BYTES_16, 0, 0xFFFF))
    put(0x20, t.segment(t.CODE_R0 | 1, t.BYTES_16, REAL, 0xFFFF))
    put(CODE_3, t.segment(t.CODE_R3 | 1))
    put(DATA_3, t.segment(t.DATA_R3 | 1))
    put(TASK, t.system_segment_64(t.TSS32, TSS, 0x67) if long else t.segment(t.TSS32, 0, TSS, 0x67))
    put(LOCAL, t.segment(t.LDT, 0, LDT, 0x1F))  # in long mode its upper half is null, as it must be
    put(CODE_3_64, t.segment(t.CODE_R3 | 1, t.FLAT_64) if long else t.segment(t.CODE_R3 | 1))
    for part in range(CODE_SIZE >> 16):
        put(CODE_3_16 + 8 * part, t.segment(t.CODE_R3 | 1, t.BYTES_16, CODE + (part << 16), 0xFFFF))
    put(DATA_3_16, t.segment(t.DATA_R3 | 1, t.BYTES_16, HIGH_SANDBOX.base, 0xFFFF))
    put(SHIFTED_3, t.segment(t.DATA_R3 | 1, base=0x10))
    for i, odd in enumerate(_odd_descriptors(sink, t.CALL_GATE_32)):
        put(_FIRST_ODD + (16 if long else 8) * i, odd)
    return bytes(gdt)


def _legacy_page_tables(*, low: bool) -> dict[int, bytes]:
    directory, table = bytearray(4096), bytearray(4096 * 16)
    for i in range(16):
        place = i if i << 22 < LOG else i + ((LOG_LINEAR - LOG) >> 22)
        struct.pack_into("<I", directory, 4 * place, PAGE_TABLES + 0x1000 * (i + 1) | 7)
    for page, flags in _mapping(low=low).items():
        struct.pack_into("<I", table, 4 * page, page << 12 | flags)
    return {PAGE_TABLES: bytes(directory), PAGE_TABLES + 0x1000: bytes(table)}


def _long_page_tables() -> dict[int, bytes]:
    pml4, pdpt, directory, table = bytearray(4096), bytearray(4096), bytearray(4096), bytearray(4096 * 32)
    high = bytearray(4096)
    struct.pack_into("<Q", pml4, 0, PAGE_TABLES + 0x1000 | 7)
    struct.pack_into("<Q", pdpt, 0, PAGE_TABLES + 0x2000 | 7)
    struct.pack_into("<Q", pdpt, 8 * (LOG_LINEAR >> 30), PAGE_TABLES + 0x3000 | 7)
    for i in range(32):
        place, part = (i, directory) if i << 21 < LOG else (i + ((LOG_LINEAR - LOG & 0x3FFF_FFFF) >> 21), high)
        struct.pack_into("<Q", part, 8 * (place & 511), PAGE_TABLES + 0x1000 * (i + 4) | 7)
    for page, flags in _mapping(low=False).items():
        struct.pack_into("<Q", table, 8 * page, page << 12 | flags)
    parts = (pml4, pdpt, directory, high, table)
    return {PAGE_TABLES + 0x1000 * i: bytes(part) for i, part in enumerate(parts)}


def _mapping(*, low: bool) -> dict[int, int]:
    """Pages and their flags: 1 present, 2 writable, 4 user."""
    ranges = (
        (0, 0xA_0000 if low else 0, 7),
        (0x10_0000, 0x11_0000, 1),
        (0x11_0000, 0x12_0000, 3),
        (CASES, CODE, 1),
        (CODE, CODE + CODE_SIZE, 5),
        (0x80_1000, 0x80_3000, 7),
        (0x80_3000, 0x80_4000, 5),
        (0x80_5000, 0x80_6000, 1),
        (LOG, LOG_END, 3),
    )
    return {page: flags for start, end, flags in ranges for page in range(start >> 12, end >> 12)}


@dataclass(frozen=True, slots=True)
class Bench:
    """The assembled bench."""

    pieces: dict[int, bytes]
    """Its bytes by address."""
    entry: int
    symbols: dict[str, int]

    @classmethod
    def build(cls, folder: Path, source: Path) -> Bench:
        """Assemble it."""
        image = recognise(build(source, folder / "bench.elf"))
        symbols = {symbol.name: int(symbol.address) for symbol in image.symbols}
        return cls({s.gpa: s.data for s in image.segments if s.data}, image.entry, symbols)

    def _byte_range(self, start: str, end: str) -> bytes:
        first, last = self.symbols[start], self.symbols[end]
        address, data = next((a, d) for a, d in self.pieces.items() if a <= first < a + len(d))
        return data[first - address : last - address]

    def memory(self, mode: Mode, sandbox: Sandbox, cases: int, *, cr0: int = 0, cr4: int = 0) -> dict[int, bytes]:
        """All memory but the cases: the bench, tables and parameters."""
        memory = dict(self.pieces)
        s = self.symbols
        long = mode is Mode.LONG
        if mode is Mode.REAL:
            memory[REAL] = self._byte_range("real_start", "real_end")
            base = s["real_stubs"] - s["real_start"]
            memory[0] = b"".join(struct.pack("<HH", base + 8 * vector, REAL >> 4) for vector in range(256))
        elif long:
            memory[IDT] = b"".join(
                t.gate_64(t.INT_GATE, KERNEL_CODE, s["long_stubs"] + 16 * vector, dpl=3 if vector % 3 else 0, ist=1)
                for vector in range(256)
            )
            memory[TSS] = t.tss_64(KERNEL_STACK, KERNEL_STACK)
            memory.update(_long_page_tables())
        else:
            memory[IDT] = b"".join(
                t.gate(
                    t.TRAP_GATE if vector % 5 == 2 else t.INT_GATE,
                    KERNEL_CODE,
                    s["stubs"] + 16 * vector,
                    dpl=3 if vector % 3 else 0,
                )
                for vector in range(256)
            )
            memory[TSS] = t.tss_32(KERNEL_STACK, KERNEL_DATA)
            memory.update(_legacy_page_tables(low=sandbox is LOW_SANDBOX))
        memory[GDT] = _gdt(mode, s["long_sink" if long else "sink"])
        memory[LDT] = bytes(8) + t.segment(t.DATA_R3 | 1, base=0x20) + t.segment(t.CODE_R3 | 1) + bytes(8)
        idt_limit = {Mode.REAL: 0x3FF, Mode.PROTECTED: 0x7FF, Mode.LONG: 0xFFF}[mode]
        parameters = bytearray(0x100)
        log = LOG if mode is Mode.REAL else LOG_LINEAR
        struct.pack_into("<IIiIIIII", parameters, 0, mode.value, cases, -1, log, 0, 0, 0, 0)
        struct.pack_into(
            "<IIII", parameters, 0x20, sandbox.window, sandbox.window_size // 4, sandbox.edge, sandbox.edge_size // 4
        )
        struct.pack_into("<IIII", parameters, 0x30, MASTERS, CASES, FLOATING_POINT, log + LOG_END - LOG - RECORD_SIZE)
        cr4 |= 0x600 | (0x20 if long else 0)
        cr0 |= 0x32 | (0x8001_0001 if mode is not Mode.REAL else 0)
        struct.pack_into("<IIII", parameters, 0x40, PAGE_TABLES, cr4, 0, cr0)
        struct.pack_into("<HI", parameters, 0x60, 0x7FF, GDT)
        struct.pack_into("<HI", parameters, 0x70, idt_limit, 0 if mode is Mode.REAL else IDT)
        struct.pack_into("<III", parameters, 0x80, TASK, LOCAL, 0x901)
        memory[PARAMETERS] = bytes(parameters)
        if mode is Mode.REAL:
            memory[LOW_PARAMETERS] = bytes(parameters)
        return memory


def guest_image(memory: dict[int, bytes], entry: int) -> GuestImage:
    """The memory as a guest that can be loaded."""
    from simvirt.guests.symbols import SymbolTable

    segments = tuple(Segment(Gpa(address), data, len(data)) for address, data in sorted(memory.items()))
    return GuestImage(
        "bench", None, ImageKind.FLAT, "", segments, Gpa(entry), BootProtocol.PROTECTED_FLAT, SymbolTable.of(()), None
    )
