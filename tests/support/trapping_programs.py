"""Random guests made of what traps when a kernel is de-privileged, and of innocuous instructions: no leak among them.

They are for `tests.support.twins`, whose tables and selectors they use. Each piece stands between a prologue that
brings segments, tables and stack back to where they were and the address at which the next one goes on. Every handler
goes on there too, in ring 0, so a program gets to its end whatever its pieces do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.support import tables as t
from tests.support import twins as w
from tests.support.assembler import Assembler, d16, d32

RESUME: Final = w.DATA + 0x8000
"""Where the next piece begins."""
TABLE_POINTERS: Final = w.DATA + 0x8010
"""Operands of LGDT and LIDT that the prologue uses."""
SCRATCH: Final = w.DATA + 0x8100
END: Final = w.CODE + 0xF000
STEPS: Final = 600

_GO_ON: Final = b"\xcd\x81"
"""INT 81H, in code of 16 and 32 bits alike. It stands where transfers to offset 0 lead."""
_COMPRESSED: Final = {w.CS1, w.DS1}
_TASKS: Final = {w.TSS_FREE, w.TASK_GATE, w.TSS_USER, w.TSS_OLD}
KERNEL_CODE: Final = (w.CS0, w.CS0_CONFORMING, w.L_CODE)
SELECTORS: Final = tuple(sorted((set(w.DESCRIPTORS) | set(w.LOCAL_DESCRIPTORS)) - _COMPRESSED))
TARGETS: Final = tuple(s for s in SELECTORS if s not in _TASKS and s != w.GATE_CONFORMING)
"""Selectors for JMP and CALL: no task switch, and not the gate that the bare PC follows otherwise than the manual says
(docs/deviations.md)."""
RPLS: Final = (0, 0, 0, 2, 3, 3)
"""Not 1: the processor cannot tell it from the real ring of the kernel."""
PALETTE: Final = tuple(
    t.segment(access, flags, base, 0xFFFFF if flags & 8 else 0xFFFF)
    for access in (0x92, 0x93, 0x90, 0x96, 0xF2, 0xF3, 0xF0, 0x9A, 0x9B, 0xFA, 0xFB, 0x9E, 0x12, 0x72, 0x00)
    for flags, base in ((t.FLAT_32, 0), (t.BYTES_32, 0x2_0000), (t.BYTES_16, 0x1_0000))
)
_VICTIMS: Final = (w.EXECUTE_ONLY, w.READ_ONLY, w.EXPAND_DOWN, w.ABSENT_DATA, w.SHORT_CODE, w.CS3_16, w.DS3_16)
"""Entries of the GDT that pieces rewrite; no handler and no prologue needs them."""


@dataclass(frozen=True, slots=True)
class Trapping:
    """A program: bytes by address, and where it begins (`twins.CODE`)."""

    name: str
    parts: dict[int, bytes]


class _Writer:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.a = Assembler(w.CODE)

    def selector(self, among: tuple[int, ...] = SELECTORS) -> int:
        return self.rng.choice(among) & ~3 | self.rng.choice(RPLS)

    def data(self) -> int:
        return self.rng.choice(
            (w.DATA + self.rng.randrange(0x4000), w.DATA + 0xFFE, w.MEMORY - 3, w.HOLE, w.HOLE + 0xFFE)
        )

    def load(self, register: int, value: int) -> None:
        self.a.emit(bytes([0xB8 + register]), d32(value))

    def push(self, *values: int) -> None:
        for value in values:
            self.a.emit("68", d32(value))

    def store(self, address: int, value: int) -> None:
        self.a.emit("c705", d32(address), d32(value))

    def pointer(self, selector: int, offset: int, size: int = 4) -> int:
        """A far pointer in memory."""
        raw = (offset.to_bytes(4, "little")[:size] + d16(selector)).ljust(8, b"\0")
        for i in range(0, 8, 4):
            self.store(SCRATCH + i, int.from_bytes(raw[i : i + 4], "little"))
        return SCRATCH


Piece = Callable[[_Writer], None]


def _load_register(x: _Writer) -> None:
    """MOV to DS, ES, FS, GS or SS, from a register or memory; a second load of the same."""
    selector = x.selector()
    register = x.rng.choice((0, 2, 3, 4, 5))
    x.load(0, selector)
    if x.rng.random() < 0.3:
        x.store(SCRATCH, selector)
        x.a.emit("8e", bytes([register << 3 | 5]), d32(SCRATCH))
    else:
        x.a.emit("8e", bytes([0xC0 | register << 3]))
    if x.rng.random() < 0.5:
        x.a.emit("8e", bytes([0xC0 | x.rng.choice((0, 3, 4, 5)) << 3]))
    x.a.emit("40")


def _pop_register(x: _Writer) -> None:
    prefix = x.rng.choice((b"", b"", b"\x66"))
    x.push(x.selector())
    x.a.emit(prefix, bytes.fromhex(x.rng.choice(("1f", "07", "17", "0fa1", "0fa9")))).emit("41")


def _load_pointer(x: _Writer) -> None:
    small = x.rng.random() < 0.3
    at = x.pointer(x.selector(), x.rng.getrandbits(32), 2 if small else 4)
    opcode, register = x.rng.choice((("c5", 3), ("c4", 3), ("0fb4", 6), ("0fb5", 7), ("0fb2", 4)))
    x.a.emit("66" if small else "", bytes.fromhex(opcode), bytes([register << 3 | 5]), d32(at)).emit("42")


def _far_branch(x: _Writer) -> None:
    """JMP far, and CALL far where it does not run silently and push the real CS."""
    selector = x.selector(TARGETS)
    is_call = selector & ~3 not in KERNEL_CODE and x.rng.random() < 0.6
    target = x.a.fresh()
    offset = x.rng.choice((0, 0, 0, 0x2000))
    if x.rng.random() < 0.5:
        x.a.address("9a" if is_call else "ea", target, d16(selector), addend=offset)
    else:
        x.a.address("c705" + d32(SCRATCH).hex(), target, addend=offset)
        x.store(SCRATCH + 4, selector)
        x.a.emit("ff", bytes([(3 if is_call else 5) << 3 | 5]), d32(SCRATCH))
    x.a.emit("9090")
    x.a.label(target)
    x.a.emit("404a")


def _flags_image(x: _Writer) -> int:
    return (
        2
        | x.rng.choice((0, 0x200))
        | x.rng.choice((0, 0, 0x3000, 0x1000))
        | x.rng.choice((0, 0x8D5))
        | x.rng.choice((0, 0, 0, 0x100))
    )


def _return(x: _Writer) -> None:
    """IRET or RET far, to where a random selector leads."""
    target = x.a.fresh()
    small = x.rng.random() < 0.2
    size = "66" if small else ""
    code = x.selector((w.CS0, w.CS3, w.CS3, w.CS3_CONFORMING, w.CS0_CONFORMING, *SELECTORS))
    stack = x.selector((w.DS3, w.DS3, *SELECTORS))
    is_iret = x.rng.random() < 0.6
    for value in (stack, w.USER_STACK, _flags_image(x) if is_iret else None, code):
        if value is not None:
            x.a.emit(size, b"\x68", (d16 if small else d32)(value))
    if small:
        x.a.emit("6668 0000")
    else:
        x.a.address("68", target)
    x.a.emit(size, bytes.fromhex(x.rng.choice(("cf",) if is_iret else ("cb", "cb", "ca0400"))))
    x.a.label(target)
    for _ in range(x.rng.randint(1, 3)):
        _innocuous(x)
    if x.rng.random() < 0.6:
        x.rng.choice(_USER)(x)
    x.a.emit("cd81")


def _to_user(x: _Writer) -> None:
    """IRET to ring 3, a piece there, and back."""
    target = x.a.fresh()
    x.push(w.DS3, w.USER_STACK - 0x40, _flags_image(x), w.CS3)
    x.a.address("68", target)
    x.a.emit("cf")
    x.a.label(target)
    for _ in range(x.rng.randint(1, 3)):
        x.rng.choice(_USER)(x)
    x.a.emit("cd81")


def _interrupt_flag(x: _Writer) -> None:
    x.a.emit(x.rng.choice(("fa", "fb", "fb40", "fafb", "fbfb40", "fb17", "6a1017fb40", "fbfa")))


def _table_register(x: _Writer) -> None:
    """LGDT, LIDT, LLDT, LTR."""
    kind = x.rng.randrange(4)
    if kind < 2:
        base = x.rng.choice(
            (w.GDT, w.GDT, w.GDT + 4, w.HOLE, w.MEMORY - 0x22, w.DATA + 1) if kind == 0 else (w.IDT, w.IDT - 8)
        )
        limits = (0xFF, 0x17, 0x26, 0x2C, 0x3FF, 0xFFFF) if kind == 0 else (0x7FF, 0x7FF, 0x410, 0xFFFF, 0x6E)
        x.store(SCRATCH, x.rng.choice(limits) | (base & 0xFFFF) << 16)
        x.store(SCRATCH + 4, base >> 16)
        x.a.emit("0f01", bytes([(0x15, 0x1D)[kind]]), d32(SCRATCH)).emit("40")
        x.load(0, x.selector())
        x.a.emit("8ed8")
    else:
        x.load(0, x.selector((w.LDT_, w.LDT_ABSENT, 0, w.TSS_FREE, w.TSS_USER, w.TASK, w.TSS_ABSENT, *SELECTORS)))
        x.a.emit("0f00", b"\xd0" if kind == 2 else b"\xd8").emit("40")
        if kind == 2:
            x.load(0, x.selector((w.L_DATA, w.L_USER_DATA, w.L_CODE)))
            x.a.emit("8ee0")


def _rewrite_descriptor(x: _Writer) -> None:
    """Another descriptor in the GDT, by one store, two, or a string instruction; loaded before and after."""
    selector, raw = x.rng.choice(_VICTIMS), x.rng.choice(PALETTE)
    x.load(0, selector & ~3 | x.rng.choice((0, 3)))
    x.a.emit("8ec0")
    if x.rng.random() < 0.3:
        for i in range(0, 8, 4):
            x.store(SCRATCH + i, int.from_bytes(raw[i : i + 4], "little"))
        x.load(0, w.DS0)
        x.a.emit("8ec0")
        x.load(6, SCRATCH)
        x.load(7, w.GDT + (selector & ~7))
        x.load(1, x.rng.choice((1, 2)))
        x.a.emit("f3a5")
    else:
        for i in x.rng.choice(((0, 4), (4,), (4, 0))):
            x.store(w.GDT + (selector & ~7) + i, int.from_bytes(raw[i : i + 4], "little"))
    x.load(0, selector & ~3 | x.rng.choice((0, 3)))
    x.a.emit("8ec0 8ee0").emit("40")


def _control_register(x: _Writer) -> None:
    kind = x.rng.randrange(7)
    if kind == 0:
        x.load(0, 0x11 | x.rng.choice((0, 8, 2, 4, 0x20, 0x10000, 0x60000000, 0x40000000, 0x20000000)))
        x.a.emit("0f22c0 0f20c3 d9e8 9b")
    elif kind == 1:
        x.load(0, x.rng.choice((0, 4, 8, 0x10, 0x20, 0x80, 0x200, 0x600, 0x100000, 0x200000, 1, 0x2000, 0x800000)))
        x.a.emit("0f22e0 0f20e3 0f31 0f57c0")
    elif kind == 2:
        x.load(0, x.rng.getrandbits(32))
        x.a.emit(x.rng.choice(("0f22d0 0f20d3", "0f22d8 0f20db", "0f20d1", "0f20c2")))
    elif kind == 3:
        x.a.emit(x.rng.choice(("0f06 0f20c0", "66b81b00 0f01f0 0f20c1", "66b81300 0f01f0 0f06", "0f20c8", "0f22f8")))
    elif kind == 4:
        x.load(0, x.rng.choice((0x401, 0x400, 0, 0xFFFF0FF0)))
        x.a.emit(x.rng.choice(("0f23c0", "0f23d8", "0f23f0", "0f21f9", "0f21ca", "0f23e0", "0f21e1")))
    elif kind == 5:
        x.load(1, x.rng.choice((0x174, 0x175, 0x176, 0x10, 0xC0000080, 0x277, 0x12345)))
        x.load(0, x.rng.choice((8, 0, w.STACK, 0x1000)))
        x.load(2, 0)
        x.a.emit(x.rng.choice(("0f32", "0f30", "0f30 0f32")))
    else:
        x.a.emit(
            x.rng.choice(
                ("0f08", "0f09", "0f013d00000200", "0f01d1", "0f01cb", "0f01ca", "0f33", "0faa", "0f01c8", "0f37")
            )
        )


def _system_call(x: _Writer) -> None:
    """SYSENTER from ring 0 or 3 into the next piece; SYSEXIT."""
    back = x.a.fresh()
    for number, value in ((0x174, x.rng.choice((w.CS0, w.CS0, 0))), (0x175, w.STACK - 0x80)):
        x.load(1, number)
        x.load(0, value)
        x.a.emit("31d2 0f30")
    x.load(1, 0x176)
    x.a.address("b8", back)
    x.a.emit("31d2 0f30")
    if x.rng.random() < 0.6:
        x.load(1, w.USER_STACK)
        user = x.a.fresh()
        x.a.address("ba", user)
        x.a.emit("0f35")
        x.a.label(user)
        x.rng.choice(_USER)(x)
    x.a.emit("0f34")
    x.a.label(back)
    x.a.emit("40")


def _port(x: _Writer) -> None:
    x.load(2, x.rng.choice((0x40, 0x60, 0x61, 0x80, 0x3F, 0x7F, 0x3F9)))
    x.load(7, w.DATA + x.rng.choice((0x40, 0xFFE)))
    x.load(6, x.rng.choice((w.DATA + 0x80, w.HOLE, w.MEMORY - 2)))
    x.load(1, x.rng.choice((0, 1, 2)))
    x.a.emit(
        x.rng.choice(
            ("ec", "ed", "66ed", "e440", "e580", "b000e680", "6c", "f36c", "666d", "f36d", "f36e", "6e", "666f")
        )
    )


def _memory(x: _Writer) -> None:
    """Stores and string instructions at the end of memory, in holes, over the tables' pages."""
    at = x.rng.choice((x.data(), w.GDT + 0x400, w.GDT + 0xFFE, w.LDT + 0x800, w.IDT - 2, 0xFFC3_0000))
    x.load(6, x.data())
    x.load(7, at)
    x.load(1, x.rng.choice((1, 2, 5)))
    modrm_at = d32(at)
    x.a.emit(
        x.rng.choice(
            ("a5", "f3a4", "f3a5", "ab", "ff37", "8f07", "870f", "0fc70f", "f00fc10f", "dd07d9c0", "60", "c8080003")
        )
    )
    if x.rng.random() < 0.5:
        x.a.emit("8905", modrm_at).emit("0305", modrm_at)


def _software_interrupt(x: _Writer) -> None:
    x.a.emit(
        x.rng.choice(
            ("cd80", "cc", "b87fffffff40ce", "cd20", "0f0b", "31c9f7f1", "f1", "cdff", "d400", "0fb9", "620500000200")
        )
    )


def _innocuous(x: _Writer) -> None:
    r = x.rng.choice((0, 1, 2, 3))
    x.a.emit(
        x.rng.choice(
            (
                bytes([0x40 + r]),
                bytes([0x48 + r]),
                bytes([0x01, 0xC0 | r]),
                bytes([0x50 + r, 0x58 + r]),
                b"\x98",
                b"\xf9",
            )
        )
    )


def _user_privileged(x: _Writer) -> None:
    x.a.emit(
        x.rng.choice(
            (
                "fa",
                "fb",
                "f4",
                "0f20c0",
                "0f22c0",
                "0f0115",
                "0f06",
                "0f30",
                "0f35",
                "0f23c0",
                "e440",
                "e480",
                "e650",
                "b040ee",
                "0f09",
                "0f00d0",
            )
        )
    ).emit("40")


_EVERYWHERE: Final[tuple[Piece, ...]] = (
    _innocuous, _load_register, _pop_register, _load_pointer, _far_branch, _port, _memory, _software_interrupt,
    _interrupt_flag,
)  # fmt: skip
_USER: Final[tuple[Piece, ...]] = (*_EVERYWHERE, *2 * (_user_privileged,))
_KERNEL: Final[tuple[Piece, ...]] = (
    *_EVERYWHERE, _load_register, _far_branch, _memory, _system_call,
    *2 * (_return, _to_user, _table_register, _rewrite_descriptor, _control_register),
)  # fmt: skip


def _prologue(x: _Writer, number: int) -> None:
    """Everything that the next piece relies on, and where to go on if it faults."""
    a = x.a
    a.label(f"piece_{number}")
    a.emit("0f0115", d32(TABLE_POINTERS)).emit("0f011d", d32(TABLE_POINTERS + 8))
    x.load(0, w.DS0)
    a.emit("8ed8 8ec0 8ed0").emit("bc", d32(w.STACK))
    x.load(0, 0x11)
    a.emit("0f22c0")
    a.address("c705" + d32(RESUME).hex(), f"piece_{number + 1}")


def generate(seed: int, pieces: int = 12) -> Trapping:
    """The program of a seed.

    >>> generate(3) == generate(3), generate(3) == generate(4)
    (True, False)
    """
    x = _Writer(random.Random(f"trapping {seed} {pieces}"))
    x.a.emit(_GO_ON)
    for number in range(pieces):
        _prologue(x, number)
        x.rng.choice(_KERNEL)(x)
    x.a.label(f"piece_{pieces}")
    x.a.emit("f4")
    handler = b"\xbc" + d32(w.STACK) + b"\x2e\xff\x25" + d32(RESUME)  # mov esp, STACK; jmp cs:[RESUME]
    pointers = d16(8 * w.GDT_ENTRIES - 1) + d32(w.GDT) + b"\0\0" + d16(0x7FF) + d32(w.IDT)
    return Trapping(
        f"trapping-{seed}",
        {
            0: _GO_ON,
            w.CODE: x.a.finish(),
            w.BASE_16 + w.ENTRY_16: _GO_ON,
            w.HANDLERS: handler.ljust(16, b"\x90") * 256,
            RESUME: d32(x.a["piece_0"]),
            TABLE_POINTERS: pointers,
        },
    )
