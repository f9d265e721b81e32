"""Random programs that edit their own page tables, for bare metal and trap-and-emulate side by side.

The first 4 MiB (32-bit paging) or 2 MiB (PAE) map themselves, so that code, stack and tables stay where they are; in
the linear addresses behind them anything may happen. Every access stands in a slot of 16 bytes, and the handler of #PF
goes on with the next slot. After an edit the program reloads CR3, since what a processor does before that is its own
affair; for the same reason a program whose accesses reach its own tables makes none that would change where they are.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from tests.support.assembler import d32
from tests.support.twins import CODE, CS3, DS0, DS3, HANDLERS, HOLE, STACK, USER_STACK, Twins

DIRECTORIES: Final = (0x5_0000, 0x5_4000, 0x5_8000)
"""Three address spaces; of PAE the PDPT stands here, its directory in the next page."""
TABLES: Final = (0x6_0000, 0x6_1000, 0x6_2000, 0x6_3000)
IDENTITY: Final = 0x6_8000
PF_HANDLER: Final = HANDLERS + 0x2000
"""add esp, 4; and dword [esp], -16; add dword [esp], 16; iretd"""
_SKIP: Final = bytes.fromhex("83c404 832424f0 83042410 cf")
SLOT: Final = 16
_P, _W, _U, _A, _D, _PS, _G = 1, 2, 4, 0x20, 0x40, 0x80, 0x100
_CR0: Final = 0x8000_0011
_WP: Final = 0x1_0000


@dataclass
class Format:
    """Where the entries of one paging mode are."""

    pae: bool

    @property
    def size(self) -> int:
        return 8 if self.pae else 4

    @property
    def span(self) -> int:
        """Linear bytes of one directory entry."""
        return 2 << 20 if self.pae else 4 << 20

    def directory(self, base: int) -> int:
        return base + 0x1000 if self.pae else base


class PagingProgram:
    """One program and the tables that it starts with."""

    def __init__(self, seed: int, *, pae: bool, length: int = 40) -> None:
        self.rng = random.Random(seed)
        self.form = Format(pae)
        self.reaches_tables = self.rng.random() < 0.5
        self.memory: dict[int, bytes] = {PF_HANDLER: _SKIP}
        self._make_tables()
        self.user = False
        self.code = self._prologue()
        for _ in range(length):
            self._piece()
        self.code += b"\xf4" * SLOT

    # ------------------------------------------------------------------------------------------- tables

    def _entry(self, value: int) -> bytes:
        return value.to_bytes(self.form.size, "little")

    def _make_tables(self) -> None:
        form = self.form
        per_table = 4096 // form.size
        self.memory[IDENTITY] = b"".join(self._entry(i << 12 | 7) for i in range(per_table))
        for base in DIRECTORIES:
            if form.pae:
                self.memory[base] = b"".join(
                    (form.directory(base) | 1 if i == 0 else 0).to_bytes(8, "little") for i in range(4)
                )
            directory = [IDENTITY | 7, *(self._directory_entry() for _ in range(7))]
            self.memory[form.directory(base)] = b"".join(map(self._entry, directory)).ljust(4096, b"\0")
        for base in TABLES:
            entries = [self._page_entry() for _ in range(16)]
            self.memory[base] = b"".join(map(self._entry, entries)).ljust(4096, b"\0")

    def _bits(self) -> int:
        rng = self.rng
        bits = _P if rng.random() < 0.85 else 0
        bits |= _W if rng.random() < 0.7 else 0
        bits |= _U if rng.random() < 0.7 else 0
        bits |= rng.choice((0, 0, _A, _D, _A | _D)) | (_G if rng.random() < 0.2 else 0)
        if self.form.pae and rng.random() < 0.15:
            bits |= 1 << 63
        return bits

    def _page_entry(self) -> int:
        rng = self.rng
        frames = [*(rng.randrange(0x20, 0x30) for _ in range(3)), HOLE >> 12, 0x7F, 0x80, 1, 0xF_FFFF]
        if self.reaches_tables:
            frames += [rng.choice(TABLES) >> 12, self.form.directory(rng.choice(DIRECTORIES)) >> 12]
        return rng.choice(frames) << 12 | self._bits()

    def _directory_entry(self) -> int:
        rng = self.rng
        if rng.random() < 0.2:
            large = rng.choice((0, 0, 1)) * self.form.span
            return large | self._bits() & ~_G | _PS
        tables = [*TABLES, *TABLES, HOLE, IDENTITY]
        if self.reaches_tables:
            tables += [self.form.directory(base) for base in DIRECTORIES]
        return rng.choice(tables) | self._bits() & ~_G

    # ------------------------------------------------------------------------------------------- code

    def _slot(self, code: bytes) -> None:
        if len(code) > SLOT:
            raise AssertionError("an access and its operands fit into a slot")
        self.code += code.ljust(SLOT, b"\x90")

    def _prologue(self) -> bytes:
        parts = [self._load_cr3(DIRECTORIES[0])]
        if self.form.pae:
            parts.append(b"\xb8" + d32(0x20) + b"\x0f\x22\xe0")  # CR4.PAE
            parts.append(b"\xb9" + d32(0xC0000080) + b"\x31\xd2\xb8" + d32(0x800))  # EFER.NXE
            parts.append(b"\x0f\x30")
        parts.append(b"\xb8" + d32(_CR0 | self.rng.choice((0, _WP))) + b"\x0f\x22\xc0")
        return b"".join(part.ljust(SLOT, b"\x90") for part in parts)

    @staticmethod
    def _load_cr3(base: int) -> bytes:
        return b"\xb8" + d32(base) + b"\x0f\x22\xd8"

    def _linear(self) -> int:
        rng, span = self.rng, self.form.span
        offsets = (0x20, 0x24, 0x123, 0xFFC) if self.reaches_tables else (0, 0x123, 0xFFC, 0xFFE, 0xFFF)
        return span * rng.randrange(1, 8) + rng.randrange(16) * 0x1000 + rng.choice(offsets)

    def _piece(self) -> None:
        rng = self.rng
        if self.user:
            if rng.random() < 0.25:
                self.user = False
                # INT 0x80 comes to the next slot in ring 0: its handler pops the frame and jumps there.
                self._slot(b"\xcd\x80")
            else:
                self._access()
            return
        what = rng.random()
        if what < 0.5:
            self._access()
        elif what < 0.7:
            self._edit()
        elif what < 0.8:
            self._slot(self._load_cr3(rng.choice(DIRECTORIES)))
        elif what < 0.86:
            self._slot(b"\xb8" + d32(_CR0 | rng.choice((0, _WP))) + b"\x0f\x22\xc0")
        elif what < 0.9:
            bits = rng.choice((0, 0x10, 0x80, 0x90)) | (0x20 if self.form.pae else 0)
            self._slot(b"\xb8" + d32(bits) + b"\x0f\x22\xe0")
        elif what < 0.93:
            self._slot(b"\x0f\x01\x3d" + d32(self._linear()))  # INVLPG
        else:
            self._to_user()

    def _to_user(self) -> None:
        self.user = True
        target = CODE + len(self.code) + 2 * SLOT
        self._slot(b"\x6a" + bytes([DS3]) + b"\x68" + d32(USER_STACK) + b"\x6a\x02")
        self._slot(b"\x6a" + bytes([CS3]) + b"\x68" + d32(target) + b"\xcf")

    def _access(self) -> None:
        rng, at = self.rng, d32(self._linear())
        accesses = [
            b"\xa1" + at,  # mov eax, [at]
            b"\xa3" + at,  # mov [at], eax
            b"\xa2" + at,  # mov [at], al
            b"\xff\x35" + at + b"\x83\xc4\x04",  # push dword [at]; add esp, 4
            b"\xbf" + at + b"\xaa",  # mov edi, at; stosb
            self._copy(at),
            b"\xbe" + at + b"\xad",  # mov esi, at; lodsd
        ]
        if not self.reaches_tables:  # what is read of an entry that maps itself, before or after its flags are set?
            accesses += [
                b"\xff\x05" + at,  # inc dword [at]
                b"\xf0\x01\x1d" + at,  # lock add [at], ebx
            ]
        self._slot(rng.choice(accesses))

    def _copy(self, at: bytes) -> bytes:
        """REP MOVSB of three bytes, from wherever ESI is; not from an entry that the write sets flags in."""
        if self.reaches_tables:
            return b"\xbf" + at + b"\xbe" + d32(CODE) + b"\x6a\x03\x59\xf3\xa4"  # mov edi; mov esi; push 3; pop ecx
        return b"\xb8" + at + b"\xb9\x03\0\0\0\x89\xc7\xf3\xa4"  # mov eax; mov ecx, 3; mov edi, eax

    def _edit(self) -> None:
        rng, form = self.rng, self.form
        if rng.random() < 0.6:
            at, value = rng.choice(TABLES) + form.size * rng.randrange(16), self._page_entry()
        else:
            at, value = (
                form.directory(rng.choice(DIRECTORIES)) + form.size * rng.randrange(1, 8),
                self._directory_entry(),
            )
        if form.pae:
            self._slot(b"\xc7\x05" + d32(at + 4) + d32(value >> 32))
        self._slot(b"\xc7\x05" + d32(at) + d32(value & 0xFFFFFFFF))
        self._slot(b"\x0f\x20\xd8\x0f\x22\xd8")  # mov eax, cr3; mov cr3, eax


FROM_USER: Final = HANDLERS + 0x2020
"""The handler of INT 80H: pop eax; mov esp, STACK; jmp eax, after the data segments are the kernel's again."""
FROM_USER_CODE: Final = (
    b"\x58\xbc" + d32(STACK) + b"\x66\xbb" + bytes([DS0, 0]) + b"\x8e\xdb\x8e\xc3\x83\xc0\x0f\x83\xe0\xf0\xff\xe0"
)


def install(twins: Twins, program: PagingProgram) -> None:
    """Write the program's tables and handlers into both memories."""
    from tests.support import tables as t
    from tests.support.twins import CS0, IDT

    twins.renew()
    for address, data in program.memory.items():
        twins.write(address, data)
    twins.write(IDT + 8 * 14, t.gate(t.INT_GATE, CS0, PF_HANDLER))
    twins.write(IDT + 8 * 0x80, t.gate(t.INT_GATE, CS0, FROM_USER, 3))
    twins.write(FROM_USER, FROM_USER_CODE)
