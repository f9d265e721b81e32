"""Hostile guests by number: the same seed is the same guest on every host.

A guest is bytes at guest-physical addresses, entered at 1 MiB as every flat binary is. All that it sets up (descriptor tables, page
tables, a task, a ring) it sets up by its own instructions, so that it runs unchanged under every strategy.

| family | what runs after the set-up |
|---|---|
| BYTES | nothing is set up: uniformly random bytes |
| TABLES | random bytes, with valid-looking GDT, IDT and TSS behind them, and handlers that step over what faults |
| SOUP | mostly valid instructions of every kind, with the tables |
| SYSTEM | the same, every third one a system instruction with random operands |
| PAGING | SYSTEM under random page tables: 32-bit, PAE or four levels |
| RING3 | SYSTEM in ring 3, or in virtual-8086 mode |
| REAL | SYSTEM in real-address mode or in 16-bit protected mode |
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from enum import Enum
from typing import Final

MEMORY_SIZE: Final = 2 << 20
ENTRY: Final = 0x100000
_GDT: Final = 0x1000
_IDT: Final = 0x2000
_TSS: Final = 0x3000
_STUBS: Final = 0x4000
_TABLES: Final = 0x10000
_DATA: Final = 0x20000
_STACK: Final = 0x70000
_CODE: Final = ENTRY + 0x400


class Family(Enum):
    """The kinds of hostile guests; see the module's table."""

    BYTES = "bytes"
    TABLES = "tables"
    SOUP = "soup"
    SYSTEM = "system"
    PAGING = "paging"
    RING3 = "ring3"
    REAL = "real"


@dataclass(frozen=True, slots=True)
class HostileGuest:
    """`pieces` are (guest-physical address, bytes)."""

    seed: int
    family: Family
    pieces: tuple[tuple[int, bytes], ...]


_FAMILIES: Final = (
    Family.BYTES, Family.TABLES, Family.SOUP, Family.SYSTEM, Family.SYSTEM, Family.PAGING, Family.PAGING, Family.RING3, Family.REAL,
    Family.SYSTEM,
)  # fmt: skip
"""By the seed's last digit."""


def hostile_guest(seed: int) -> HostileGuest:
    """The guest of this number."""
    family = _FAMILIES[seed % 10]
    return HostileGuest(seed, family, tuple(_Maker(random.Random(seed), family).make()))


class _Maker:
    def __init__(self, rng: random.Random, family: Family) -> None:
        self.rng = rng
        self.family = family
        self.levels = rng.choice((2, 3, 4))

    def make(self) -> list[tuple[int, bytes]]:
        rng = self.rng
        if self.family is Family.BYTES:
            return [(ENTRY, rng.randbytes(rng.choice((16, 256, 4096, 65536))))]
        pieces = [
            (_GDT, self._descriptors(64)),
            (_TSS, self._task()),
            (_DATA, rng.randbytes(4096)),
            (_STACK - 0x800, self._stack()),
        ]
        stubs, targets = self._stubs()
        pieces += [(_STUBS, stubs), (_IDT, self._gates(targets))]
        if self.family is Family.PAGING:
            pieces += self._page_tables()
        setup = self._setup()
        code = self._code(rng.choice((200, 1000, 4000)))
        # The end of the code is placed so that now and then it runs into the next page, or out of the memory.
        at = rng.choice((_CODE, _CODE, _CODE, ENTRY + 0xFF0 - len(code) % 16, MEMORY_SIZE - len(code)))
        jump = b"\xe9" + struct.pack("<i", at - (ENTRY + len(setup) + 5))
        return [*pieces, (ENTRY, setup + jump), (at, code)]

    # ------------------------------------------------------------------------------------ tables

    def _descriptor(self) -> bytes:
        rng = self.rng
        kind = rng.random()
        base = rng.choice((0, 0, 0, _TSS, _DATA, 0xA0000, 0xFFFFF000, rng.getrandbits(32)))
        limit = rng.choice((0xFFFFF, 0xFFFFF, 0xFFFF, 0x67, 0, rng.getrandbits(20)))
        dpl = rng.choice((0, 0, 3, 3, 1, 2))
        present = 0x80 if rng.random() < 0.9 else 0
        if kind < 0.55:  # code or data
            access = present | dpl << 5 | 0x10 | rng.choice((0x2, 0x3, 0xA, 0xB, 0xE, 0x6, rng.getrandbits(4)))
            flags = rng.choice((0xC, 0xC, 0xC, 0x4, 0x0, 0xA, rng.getrandbits(4)))
        else:
            access = (
                present | dpl << 5 | rng.choice((0x9, 0xB, 0x1, 0x2, 0x4, 0x5, 0xC, 0xE, 0xF, 0x6, rng.getrandbits(4)))
            )
            flags = rng.choice((0, 0, 8, rng.getrandbits(4)))
            if access & 0xF in (4, 0xC, 5, 6, 7, 0xE, 0xF):
                return self._gate(access, rng.choice((_CODE, _STUBS, rng.getrandbits(32))))
            if access & 0xF in (1, 3, 9, 0xB):
                base = rng.choice((_TSS, _TSS, _TSS + 0x100, base))
                limit = rng.choice((0x67, 0x2067, 0x2B, limit))
        if rng.random() < 0.02:
            return rng.randbytes(8)
        low = limit & 0xFFFF | (base & 0xFFFF) << 16
        high = base >> 16 & 0xFF | access << 8 | (limit >> 16) << 16 | flags << 20 | base & 0xFF000000
        return struct.pack("<II", low, high)

    def _gate(self, access: int, offset: int) -> bytes:
        selector = self.rng.choice((8, 8, 8, 0x18, 0x1B, self._selector()))
        count = self.rng.choice((0, 0, 1, 31, self.rng.getrandbits(5)))
        return struct.pack("<HHBBH", offset & 0xFFFF, selector, count, access, offset >> 16)

    def _descriptors(self, count: int) -> bytes:
        fixed = [
            bytes(8),
            bytes.fromhex("ffff0000009bcf00"),  # 08: ring 0 code
            bytes.fromhex("ffff00000093cf00"),  # 10: ring 0 data
            bytes.fromhex("ffff000000fbcf00"),  # 18: ring 3 code
            bytes.fromhex("ffff000000f3cf00"),  # 20: ring 3 data
            struct.pack("<HHBBBB", 0x2067, _TSS & 0xFFFF, _TSS >> 16, 0x89, 0, 0),  # 28: task
            bytes.fromhex("ffff0000009aaf00"),  # 30: 64-bit code
            bytes.fromhex("ffff0000009b0000"),  # 38: 16-bit code
            struct.pack("<HHBBBB", 0xFF, _GDT & 0xFFFF, _GDT >> 16, 0x82, 0, 0),  # 40: the GDT as LDT
            struct.pack("<HHBBBB", 0x67, _TSS + 0x800 & 0xFFFF, _TSS >> 16, 0x89, 0, 0),  # 48: another task
            self._gate(0xEC, _CODE),  # 50: call gate
            self._gate(0xE5, 0)[:2] + b"\x48\x00" + self._gate(0xE5, 0)[4:],  # 58: task gate
        ]
        return b"".join(fixed) + b"".join(self._descriptor() for _ in range(count - len(fixed)))

    def _task(self) -> bytes:
        rng = self.rng
        task = bytearray(0x2200)
        for at, selector in ((4, 0x10), (12, 0x10), (20, 0x10)):
            struct.pack_into(
                "<II",
                task,
                at,
                (_STACK - rng.choice((0, 4, 0x1000, _STACK, rng.getrandbits(31)))) & 0xFFFFFFFF,
                selector,
            )
        struct.pack_into("<H", task, 0, rng.choice((0x28, 0x48, 0, self._selector())))
        struct.pack_into("<HH", task, 100, rng.getrandbits(1), rng.choice((0x68, 0x2000, 0xFFFF)))
        # Another task at +0x800: something that can be switched to.
        other = struct.pack("<II", 0x28, _STACK) + struct.pack("<I", 0x10) + bytes(16)
        other += struct.pack(
            "<III",
            rng.choice((0, 0x1000, rng.getrandbits(32))),
            _CODE + rng.randrange(64),
            rng.choice((2, 2, rng.getrandbits(22))),
        )
        other += struct.pack("<8I", *(rng.choice((_DATA, _STACK, rng.getrandbits(32))) for _ in range(8)))
        other += struct.pack(
            "<7I", *(rng.choice((0x10, 0x10, self._selector())) for _ in range(6)), rng.choice((0, 0x40))
        )
        if rng.random() < 0.7:
            other = other[:0x4C] + struct.pack("<I", rng.choice((8, 8, 0x1B))) + other[0x50:]
        task[0x800 : 0x800 + len(other)] = other
        return bytes(task)

    def _stack(self) -> bytes:
        """What is popped first: numbers that could be frames."""
        rng = self.rng
        words: list[int] = []
        while len(words) < 0x280:
            flags = rng.choice((2, 2, 0x202, 0x3202, 0x4002, 0x102, 0x20002, 0x23202, rng.getrandbits(22)))
            words += [
                _CODE + rng.randrange(256),
                rng.choice((8, 8, 0x1B, self._selector())),
                flags,
                _STACK - 64,
                rng.choice((0x10, 0x23, self._selector())),
            ]
        return struct.pack(f"<{len(words)}I", *(w & 0xFFFFFFFF for w in words))

    def _stubs(self) -> tuple[bytes, list[int]]:
        """Handlers: return behind what faulted, return to it, end the interrupt, or something random."""
        rng = self.rng
        code, targets = bytearray(), list[int]()
        for _ in range(48):
            targets.append(_STUBS + len(code))
            pick = rng.random()
            step = rng.choice((1, 1, 2, 3, 4, 7))
            if pick < 0.55:  # skip some bytes; the error code, if there is one, has to go first
                code += b"\x83\xc4\x04" * rng.randrange(2) + bytes((0x83, 0x04, 0x24, step)) + b"\xcf"
            elif pick < 0.7:
                code += b"\x50\xb0\x20\xe6\x20\x58" + b"\xcf"
            elif pick < 0.75:
                code += b"\xcf"
            elif pick < 0.8:
                code += b"\x0f\x0b"
            elif pick < 0.85:
                code += b"\xfb\xf4\xeb\xfd"
            else:
                code += self._instruction() + bytes((0x83, 0x04, 0x24, step)) + b"\xcf"
        return bytes(code), targets

    def _gates(self, targets: list[int]) -> bytes:
        rng = self.rng
        with_code = {8, 10, 11, 12, 13, 14, 17}
        gates = bytearray()
        for vector in range(256):
            access = rng.choice((0x8E, 0x8E, 0xEE, 0xEF, 0x8F, 0x85 if rng.random() < 0.2 else 0x8E))
            target = rng.choice(targets)
            if vector in with_code and rng.random() < 0.7:
                target = _STUBS + 0x800 + 16 * rng.randrange(4)
            if access & 0xF == 5:
                gates += self._gate(access, 0)[:2] + b"\x48\x00" + self._gate(access, 0)[4:]
            else:
                gates += struct.pack("<HHBBH", target & 0xFFFF, 8, 0, access, target >> 16)
        for _ in range(rng.choice((0, 0, 1, 10))):
            at = rng.randrange(256) * 8
            gates[at : at + 8] = rng.choice((bytes(8), rng.randbytes(8), self._descriptor()))
        return bytes(gates)

    def _page_tables(self) -> list[tuple[int, bytes]]:
        """Twelve pages of entries, most of them sound: the first is the root, small and large pages, self-references and rubbish."""
        rng = self.rng
        wide = self.levels > 2
        size, count = (8, 512) if wide else (4, 1024)
        tables = []
        for page in range(12):
            words = []
            for i in range(count):
                kind = rng.random()
                flags = rng.choice((7, 7, 7, 3, 0x67, 0x87 if page in (1, 2) else 7, 0x83, 1, 0, rng.getrandbits(9)))
                if page == 0 and i < 4 and rng.random() < 0.9:
                    word = _TABLES + 0x1000 | (1 if wide and rng.random() < 0.5 else 7)
                elif page in (1, 2) and kind < 0.8:
                    word = _TABLES + 0x1000 * min(page + 1 + (i & 1), 11) | flags & ~0x80
                elif kind < 0.85:
                    word = (i & 0x1FF) << 12 | flags | (0x63 if rng.random() < 0.8 else 0)
                elif kind < 0.95:
                    word = _TABLES + 0x1000 * rng.randrange(12) | flags
                else:
                    word = rng.getrandbits(8 * size)
                if wide and rng.random() < 0.05:
                    word |= 1 << 63
                words.append(word & (1 << 8 * size) - 1)
            tables.append((_TABLES + 0x1000 * page, struct.pack(f"<{count}{'Q' if wide else 'I'}", *words)))
        # Most of the time the memory that the guest lives in is mapped one to one, or hardly anything would run.
        if rng.random() < 0.85:
            tables += self._identity()
        return tables

    def _identity(self) -> list[tuple[int, bytes]]:
        """The guest's memory one to one; the page table is the last page, and half of the time the root maps itself, too."""
        rng = self.rng
        flags = rng.choice((3, 7, 7, 0x67))
        leaf, directory, pointers, self.root = (_TABLES + page for page in (0xF000, 0xE000, 0xD000, 0xC000))
        own = rng.random() < 0.5
        if self.levels == 2:
            entries = struct.pack("<512I", *(i << 12 | flags for i in range(512)))
            return [(leaf, entries), (self.root, struct.pack("<2I", leaf | 7, self.root | 3 if own else 0x83))]
        entries = struct.pack("<512Q", *(i << 12 | flags for i in range(512)))
        tables = [(leaf, entries), (directory, struct.pack("<2Q", leaf | 7, 0x87))]
        if self.levels == 3:
            return [*tables, (self.root, struct.pack("<2Q", directory | 1, self.root | 1 if own else 0))]
        return [
            *tables,
            (pointers, struct.pack("<2Q", directory | 7, 0x83)),
            (self.root, struct.pack("<2Q", pointers | 7, self.root | 3 if own else 0)),
        ]

    root = _TABLES

    # ------------------------------------------------------------------------------------ set-up by the guest's own code

    def _setup(self) -> bytes:
        rng = self.rng
        code = b"".join(
            (
                _move(0xC00, struct.pack("<HI", rng.choice((0x1FF, 0x1FF, 0x1FF, 0xFFFF, 7)), _GDT)),
                _move(0xC10, struct.pack("<HI", rng.choice((0x7FF, 0x7FF, 0x7FF, 0x7FF, 0x6F, 0)), _IDT)),
                b"\x0f\x01\x15" + struct.pack("<I", 0xC00),
                b"\x0f\x01\x1d" + struct.pack("<I", 0xC10),
                b"\xbc" + struct.pack("<I", _STACK - 0x700),
            )
        )
        if rng.random() < 0.9:
            code += b"\x66\xb8\x10\x00\x8e\xd8\x8e\xc0\x8e\xd0\x8e\xe0\x8e\xe8"
        if rng.random() < 0.8:
            code += b"\x66\xb8\x28\x00\x0f\x00\xd8"  # LTR
        if rng.random() < 0.3:
            code += b"\x66\xb8\x40\x00\x0f\x00\xd0"  # LLDT
        if rng.random() < 0.4:  # the timer, quick
            code += (
                b"\xb0\x11\xe6\x20\xb0\x20\xe6\x21\xb0\x04\xe6\x21\xb0"
                + rng.choice((b"\x01", b"\x03"))
                + b"\xe6\x21\xb0\x00\xe6\x21"
            )
            code += (
                b"\xb0"
                + rng.choice((b"\x34", b"\x36", b"\x30"))
                + b"\xe6\x43\xb0"
                + bytes((rng.choice((1, 2, 30)),))
                + b"\xe6\x40\xb0\x00\xe6\x40"
            )
            if rng.random() < 0.8:
                code += b"\xfb"
        if self.family is Family.PAGING:
            code += self._turn_paging_on()
        elif self.family is Family.RING3:
            flags = rng.choice((0x202, 0x3202, 0x3002, 0x2, 0x23202, 0x20202, 0x23002))
            frame = [0x10, 0x20, 0x20, 0x20] if flags & 0x20000 else []
            stack, code_selector, target = (0x7000, 0x0F00, _CODE & 0xFFFF) if flags & 0x20000 else (0x23, 0x1B, _CODE)
            if flags & 0x20000:
                code_selector, target = 0xFFF0, _CODE - 0xFFF00
            for word in (*frame, stack, 0xF000 if flags & 0x20000 else _STACK - 0x700, flags, code_selector, target):
                code += b"\x68" + struct.pack("<I", word)
            code += b"\xcf"
        elif self.family is Family.REAL:
            code += self._go_to_16_bits()
        return code

    def _turn_paging_on(self) -> bytes:
        rng = self.rng
        code = b"\xb8" + struct.pack("<I", self.root if rng.random() < 0.9 else rng.getrandbits(32)) + b"\x0f\x22\xd8"
        sound = rng.random() < 0.9
        cr4 = (
            rng.choice((0x20, 0x30, 0x20, 0x100020, 0x200020, 0x300030))
            if self.levels > 2
            else rng.choice((0, 0x10, 0x300000))
        )
        if not sound:
            cr4 = rng.choice((0, 0x10, 0x20, 0x30, 0x300020))
        if cr4:
            code += b"\xb8" + struct.pack("<I", cr4) + b"\x0f\x22\xe0"
        if cr4 & 0x20:
            efer = (
                (0x100 if self.levels == 4 else 0) | rng.choice((0, 0x800, 0x801))
                if sound
                else rng.choice((0, 0x100, 0x901))
            )
            code += b"\xb9\x80\x00\x00\xc0\x31\xd2\xb8" + struct.pack("<I", efer) + b"\x0f\x30"
        code += b"\x0f\x20\xc0\x0d" + struct.pack("<I", rng.choice((0x80000000, 0x80010000))) + b"\x0f\x22\xc0"
        if rng.random() < 0.5:
            selector = rng.choice((0x08, 0x30, 0x30))
            code += (
                b"\x6a"
                + bytes((selector,))
                + b"\x68"
                + struct.pack("<I", _CODE)
                + (b"\xcb" if rng.random() < 0.7 else b"\x48\xcb")
            )
        return code

    def _go_to_16_bits(self) -> bytes:
        rng = self.rng
        # A far jump to 16-bit code at ENTRY + 0x380; what stands there leaves protected mode.
        if rng.random() < 0.5:
            return b"\xea" + struct.pack("<IH", _CODE, 0x38)
        tail = b"\x0f\x20\xc0\x24\xfe\x0f\x22\xc0" + b"\xea" + struct.pack("<HH", _CODE - 0xFFF00 & 0xFFFF, 0xFFF0)
        if rng.random() < 0.7:
            tail = b"\x31\xc0\x8e\xd8\x8e\xd0\x8e\xc0" + tail
        return _move(ENTRY + 0x380, tail) + b"\xea" + struct.pack("<IH", ENTRY + 0x380, 0x38)

    # ------------------------------------------------------------------------------------ instructions

    def _selector(self) -> int:
        rng = self.rng
        return rng.choice(
            (
                rng.randrange(0, 64) << 3 | rng.choice((0, 3, 4, 7)),
                8,
                0x10,
                0x1B,
                0x23,
                0x28,
                0x48,
                0x50,
                0x58,
                rng.getrandbits(16),
            )
        )

    def _address(self) -> int:
        rng = self.rng
        return rng.choice(
            (_DATA + rng.randrange(4096), _DATA + rng.randrange(4096), _STACK - rng.randrange(64), _CODE + rng.randrange(1024), 0xA0000, 0xFFFFFFFE,
             0x9FFFE, MEMORY_SIZE - 2, _GDT + rng.randrange(512), _IDT + rng.randrange(2048), _TSS + rng.randrange(0x900),
             _TABLES + rng.randrange(0xF000), rng.getrandbits(32), 0xFFC00000 + rng.randrange(0x40000))
        )  # fmt: skip

    def _code(self, size: int) -> bytes:
        rng = self.rng
        if self.family is Family.TABLES:
            return rng.randbytes(size)
        code = bytearray()
        while len(code) < size:
            if rng.random() < 0.1:  # keep registers at addresses that exist
                code += (
                    bytes((0xB8 + rng.randrange(8),)) + struct.pack("<I", self._address())
                    if rng.random() < 0.9
                    else b"\xbc" + struct.pack("<I", _STACK - 0x700)
                )
            code += self._instruction()
        if rng.random() < 0.5:
            code += b"\xe9" + struct.pack("<i", -rng.randrange(len(code)))
        return bytes(code)

    def _instruction(self) -> bytes:
        rng = self.rng
        system = self.family not in (Family.TABLES, Family.SOUP) and rng.random() < 0.35
        prefix = b""
        while rng.random() < 0.12:
            prefix += rng.choice(_PREFIXES)
        return prefix + (self._system() if system else self._ordinary())

    def _modrm(self, reg: int | None = None, *, memory: bool | None = None) -> bytes:
        """ModRM, SIB and displacement, 32-bit addressing."""
        rng = self.rng
        reg = rng.randrange(8) if reg is None else reg
        if memory is None:
            memory = rng.random() < 0.5
        if not memory:
            return bytes((0xC0 | reg << 3 | rng.randrange(8),))
        if rng.random() < 0.5:
            return bytes((reg << 3 | 5,)) + struct.pack("<I", self._address())
        mod, rm = rng.randrange(3), rng.randrange(8)
        out = bytes((mod << 6 | reg << 3 | rm,))
        if rm == 4:
            sib = rng.getrandbits(8)
            out += bytes((sib,))
            if mod == 0 and sib & 7 == 5:
                out += struct.pack("<I", self._address())
        if mod == 0 and rm == 5:
            out += struct.pack("<I", self._address())
        return out + rng.randbytes((0, 1, 4)[mod] if mod < 3 else 0)

    def _ordinary(self) -> bytes:
        rng = self.rng
        kind = rng.random()
        if kind < 0.3:
            opcode = rng.choice(
                (
                    0,
                    1,
                    2,
                    3,
                    8,
                    9,
                    0x11,
                    0x1B,
                    0x21,
                    0x23,
                    0x29,
                    0x2B,
                    0x31,
                    0x33,
                    0x39,
                    0x3B,
                    0x84,
                    0x85,
                    0x86,
                    0x87,
                    0x88,
                    0x89,
                    0x8A,
                    0x8B,
                    0x8D,
                    0x62,
                    0x63,
                )
            )
            return bytes((opcode,)) + self._modrm()
        if kind < 0.45:
            opcode = rng.choice((0x40, 0x48, 0x50, 0x58, 0x90))
            return bytes((opcode + rng.choice((0, 1, 2, 3, 5, 6, 7)),))
        if kind < 0.5:
            return bytes(
                (
                    rng.choice((0x70, 0x71, 0x74, 0x75, 0x7C, 0xEB, 0xE0, 0xE1, 0xE2, 0xE3)),
                    rng.choice((2, 4, 0x10, 0xF0, 0xFE, rng.getrandbits(8))),
                )
            )
        if kind < 0.56:
            return bytes((rng.choice((0x80, 0x83, 0xC0, 0xC1, 0x6B)),)) + self._modrm() + rng.randbytes(1)
        if kind < 0.6:
            return rng.choice((b"", b"\xf3", b"\xf2")) + bytes(
                (rng.choice((0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF)),)
            )
        if kind < 0.68:
            return (
                b"\x0f"
                + bytes(
                    (
                        rng.choice(
                            (
                                0xA3,
                                0xAB,
                                0xB3,
                                0xBB,
                                0xB0,
                                0xB1,
                                0xC0,
                                0xC1,
                                0xC7,
                                0xAF,
                                0x40,
                                0x4F,
                                0x90,
                                0xB6,
                                0xBE,
                                0xBC,
                                0xBD,
                            )
                        ),
                    )
                )
                + self._modrm()
            )
        if kind < 0.76:
            return bytes((rng.randrange(0xD8, 0xE0),)) + self._modrm()
        if kind < 0.84:
            return (
                rng.choice((b"", b"\x66", b"\xf3", b"\xf2"))
                + b"\x0f"
                + bytes(
                    (
                        rng.choice(
                            (*range(0x10, 0x18), *range(0x50, 0x80), *range(0xD0, 0x100), 0x2A, 0x2C, 0x2E, 0xC2, 0xC6)
                        ),
                    )
                )
                + self._modrm()
                + rng.randbytes(1)
            )
        if kind < 0.86:
            return (
                rng.choice((b"\xc5", b"\xc4", b"\x62", b"\x8f"))
                + rng.randbytes(2)
                + bytes((rng.getrandbits(8),))
                + self._modrm()
            )
        if kind < 0.9:
            return (
                bytes((rng.choice((0xF6, 0xF7, 0xFE, 0xFF)),))
                + self._modrm()
                + (rng.randbytes(4) if rng.random() < 0.3 else b"")
            )
        if kind < 0.93:
            return b"\x0f" + rng.choice((b"\x38", b"\x3a")) + rng.randbytes(1) + self._modrm() + rng.randbytes(1)
        if kind < 0.95:
            return b"\xc8" + rng.choice((b"\x10\x00", b"\xff\xff", rng.randbytes(2))) + bytes((rng.randrange(32),))
        if kind < 0.97:
            return b"\x0f" + rng.randbytes(1) + self._modrm()
        return rng.randbytes(rng.randrange(1, 15))

    def _system(self) -> bytes:
        rng = self.rng
        eax = b"\xb8" + struct.pack(
            "<I",
            rng.choice((self._address(), rng.getrandbits(32), 1 << rng.randrange(32), 0x11, 0x80000011, 0x60000010, 0)),
        )
        kind = rng.randrange(24)
        if kind == 0:
            return b"\x0f\x20" + bytes((0xC0 | rng.randrange(64),))
        if kind == 1:
            return (
                (eax if rng.random() < 0.5 else b"\x0f\x20\xc0\x0f\xba" + bytes((0xF8, rng.randrange(32))))
                + b"\x0f\x22"
                + bytes((0xC0 | rng.choice((0, 0, 2, 3, 4, 4, 8, rng.randrange(8))) << 3 & 0x38,))
            )
        if kind == 2:
            return eax + b"\x0f" + rng.choice((b"\x21", b"\x23")) + bytes((0xC0 | rng.randrange(8) << 3,))
        if kind == 3:
            return b"\x0f\x01" + self._modrm(rng.randrange(8))
        if kind == 4:
            return b"\x0f\x00" + self._modrm(rng.randrange(8))
        if kind == 5:
            return (
                b"\x66\xb8" + struct.pack("<H", self._selector()) + b"\x0f\x00" + bytes((0xC0 | rng.randrange(8) << 3,))
            )
        if kind == 6:
            return b"\x66\xb8" + struct.pack("<H", self._selector()) + b"\x8e" + bytes((0xC0 | rng.randrange(8) << 3,))
        if kind == 7:
            return rng.choice((b"\x9a", b"\xea")) + struct.pack(
                "<IH", rng.choice((_CODE, _STUBS, self._address())), self._selector()
            )
        if kind == 8:
            return bytes((0xFF,)) + self._modrm(rng.choice((3, 5)), memory=True)
        if kind == 9:
            return b"".join(
                b"\x68" + struct.pack("<I", w & 0xFFFFFFFF)
                for w in (
                    self._selector(),
                    self._address(),
                    rng.choice((2, 0x202, 0x4002, 0x20002, 0x23202, 0x102, rng.getrandbits(32))),
                    self._selector(),
                    _CODE + rng.randrange(64),
                )
            ) + rng.choice((b"\xcf", b"\xcf", b"\xcb", b"\x48\xcf"))
        if kind == 10:
            return rng.choice((b"\xcd" + rng.randbytes(1), b"\xcc", b"\xce", b"\xf1", b"\xcd\x80", b"\x0f\x0b"))
        if kind == 11:
            number = rng.choice(
                (
                    0xC0000080,
                    0xC0000081,
                    0xC0000082,
                    0xC0000100,
                    0xC0000101,
                    0x174,
                    0x175,
                    0x176,
                    0x10,
                    0x1B,
                    0x277,
                    0xC0010114,
                    0xC0010117,
                    rng.getrandbits(32),
                )
            )
            return (
                b"\xb9"
                + struct.pack("<I", number)
                + eax
                + (b"\x31\xd2" if rng.random() < 0.7 else b"")
                + rng.choice((b"\x0f\x30", b"\x0f\x30", b"\x0f\x32"))
            )
        if kind == 12:
            port = rng.choice(
                (
                    0x20,
                    0x21,
                    0xA0,
                    0xA1,
                    0x40,
                    0x41,
                    0x42,
                    0x43,
                    0x61,
                    0x3F8,
                    0x3F9,
                    0x3FA,
                    0x3FB,
                    0x3FC,
                    0x3FD,
                    0x92,
                    0xCF8,
                    0xCFC,
                    0x64,
                    rng.getrandbits(16),
                )
            )
            return (
                b"\x66\xba"
                + struct.pack("<H", port)
                + rng.choice((eax, b"\xb0" + rng.randbytes(1)))
                + rng.choice((b"\xec", b"\xed", b"\xee", b"\xef", b"\x66\xed", b"\x66\xef"))
            )
        if kind == 13:
            return (
                rng.choice((b"\xb9" + struct.pack("<I", rng.choice((0, 1, 5, 0xFFFFFFFF))), b""))
                + rng.choice((b"", b"\xf3", b"\xf2"))
                + rng.choice((b"\x6c", b"\x6d", b"\x6e", b"\x6f"))
            )
        if kind == 14:
            return rng.choice((b"\xe4", b"\xe5", b"\xe6", b"\xe7")) + rng.choice(
                (b"\x20", b"\x21", b"\x40", b"\x43", b"\x61", rng.randbytes(1))
            )
        if kind == 15:
            return rng.choice(
                (b"\x0f\x05", b"\x0f\x34", b"\x0f\x35", b"\x0f\x07", b"\x48\x0f\x07", b"\x0f\xaa", b"\x0f\x37")
            )
        if kind == 16:
            return rng.choice(
                (
                    b"\xfa",
                    b"\xfb",
                    b"\xf4",
                    b"\x9c",
                    b"\x9d",
                    b"\x0f\x06",
                    b"\x0f\x08",
                    b"\x0f\x09",
                    b"\x0f\x31",
                    b"\x0f\x33",
                    b"\x0f\xa2",
                    b"\xf3\x90",
                    b"\x0f\x01\xf9",
                    b"\x0f\x01\xd8",
                    b"\x0f\x01\xd1",
                    b"\x0f\x01\xca",
                    b"\x0f\x01\xcb",
                    b"\x0f\x01\xc1",
                )
            )
        if kind == 17:
            return (
                b"\x68"
                + struct.pack("<I", rng.choice((0x102, 0x4002, 0x20002, 0x3202, 0x40002, 0x10002, rng.getrandbits(32))))
                + b"\x9d"
            )
        if kind == 18:
            return (
                b"\x66\xb8" + struct.pack("<H", self._selector()) + b"\x0f" + rng.choice((b"\x02", b"\x03")) + b"\xc8"
            )
        if kind == 19:
            return b"\x0f" + rng.choice((b"\xb2", b"\xb4", b"\xb5")) + self._modrm(memory=True)
        if kind == 20:
            return rng.choice((b"\xc4", b"\xc5")) + self._modrm(memory=True)
        if kind == 21:
            return rng.choice(
                (
                    b"\x06",
                    b"\x07",
                    b"\x0e",
                    b"\x16",
                    b"\x17",
                    b"\x1e",
                    b"\x1f",
                    b"\x0f\xa0",
                    b"\x0f\xa1",
                    b"\x0f\xa8",
                    b"\x0f\xa9",
                )
            )
        if kind == 22:
            return b"\x0f\xae" + self._modrm()
        return b"\x0f\xc7" + self._modrm()


def _move(at: int, data: bytes) -> bytes:
    """Instructions that write `data` at `at`, a doubleword at a time."""
    padded = data.ljust(-(-len(data) // 4) * 4, b"\x90")
    return b"".join(
        b"\xc7\x05" + struct.pack("<II", at + i, *struct.unpack_from("<I", padded, i)) for i in range(0, len(padded), 4)
    )


_PREFIXES: Final = (
    b"\x66",
    b"\x67",
    b"\xf0",
    b"\xf2",
    b"\xf3",
    b"\x2e",
    b"\x36",
    b"\x3e",
    b"\x26",
    b"\x64",
    b"\x65",
    b"\x48",
    b"\x41",
)
