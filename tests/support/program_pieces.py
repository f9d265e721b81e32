"""The pieces that random programs are made of.

Each piece is a short stretch of code that ends by itself whatever the registers hold, so a program of any pieces in
any order ends. A piece says which features it needs and whether ring 3 can run it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto

from tests.support import program_frame as frame
from tests.support.assembler import Assembler, d16, d32


class Feature(Flag):
    """What a random program may contain beyond plain arithmetic, jumps and calls."""

    STRINGS = auto()
    FAULTS = auto()
    SELF_MODIFYING = auto()
    USER = auto()
    PORTS = auto()
    TIME = auto()
    """What depends on the instruction count: RDTSC, the timer's counter. Also CPUID."""
    INTERRUPTS = auto()
    """External interrupts and HLT."""
    SHADOWS = auto()
    """STI, MOV SS, POP SS."""
    TRAP_FLAG = auto()
    FAR = auto()
    CALL_GATES = auto()
    PAGING = auto()
    UNDEFINED_FLAGS = auto()
    """Instructions that leave a flag undefined for which emulators differ: SHLD and SHRD by more than one bit."""
    UNPRIVILEGED = STRINGS | FAULTS | SELF_MODIFYING | USER
    EVERYTHING = (
        UNPRIVILEGED | PORTS | TIME | INTERRUPTS | SHADOWS | TRAP_FLAG | FAR | CALL_GATES | PAGING | UNDEFINED_FLAGS
    )


NOTHING = Feature(0)
REGISTERS = (0, 1, 2, 3, 6, 7)
"""General registers that the body uses freely: all but ESP and EBP."""


class Body:
    """The body of a program under construction."""

    def __init__(self, a: Assembler, rng: random.Random, features: Feature) -> None:
        self.a = a
        self.rng = rng
        self.features = features
        self.in_user = False
        self.in_loop = 0
        self._slots = 0

    # ------------------------------------------------------------------------------------------------ helpers

    def register(self) -> int:
        return self.rng.choice(REGISTERS)

    def data(self, room: int = 64) -> bytes:
        """The address of some data, aligned or not, now and then across pages."""
        if self.rng.random() < 0.1:
            return d32(frame.DATA + 0x1000 * self.rng.randint(1, 3) - self.rng.randint(1, 3))
        return d32(frame.DATA + self.rng.randrange(room, frame.DATA_SIZE - room))

    def load(self, register: int, value: int) -> None:
        """MOV register, value."""
        self.a.emit(bytes([0xB8 + register]), d32(value))

    def store(self, address: int, value: int) -> None:
        """MOV dword [address], value."""
        self.a.emit("c705", d32(address), d32(value))

    def resume_at(self, label: str) -> None:
        """Tell the fault handlers where to go on."""
        self.a.address(f"c705{d32(frame.RESUME).hex()}", label)

    def slot(self) -> bytes:
        """The address of a counter of its own."""
        self._slots += 1
        return d32(frame.SLOTS + 4 * self._slots)

    def some(self, most: int = 3) -> None:
        """A few plain instructions."""
        for _ in range(self.rng.randint(0, most)):
            plain(self)

    def some_and_a_piece(self) -> None:
        """What fills a loop."""
        self.some(4)
        choose(self)

    def looped(self, times: int, inside: Callable[[], None]) -> None:
        """Run `inside` `times` times, whatever it does to registers."""
        a, slot, top = self.a, self.slot(), self.a.fresh("loop")
        a.emit("c705", slot, d32(times))
        a.label(top)
        self.in_loop += 1
        inside()
        self.in_loop -= 1
        a.emit("ff0d", slot)
        a.jump("0f85", top)


Piece = Callable[[Body], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A piece with its conditions."""

    piece: Piece
    weight: int
    needs: Feature
    user: bool


PIECES: list[Entry] = []


def piece(weight: int, needs: Feature = NOTHING, *, user: bool = True) -> Callable[[Piece], Piece]:
    """Enter a function into the table."""

    def enter(function: Piece) -> Piece:
        PIECES.append(Entry(function, weight, needs, user))
        return function

    return enter


# -------------------------------------------------------------------------------------------------- plain instructions


def plain(b: Body) -> None:
    """One unprivileged instruction, or two that belong together, which touch registers, flags and the data area."""
    a, rng = b.a, b.rng
    r, s, k = b.register(), b.register(), rng.randrange(8)
    pair = bytes([0xC0 | s << 3 | r])
    direct = bytes([r << 3 | 5])
    double_shift = rng.randrange(32) if b.features & Feature.UNDEFINED_FLAGS else 1
    choices: list[Callable[[], object]] = [
        lambda: a.emit(bytes([8 * k + 1]), pair),
        lambda: a.emit(bytes([0x66, 8 * k + 3]), pair),
        lambda: a.emit(bytes([8 * k, 0xC0 | rng.randrange(64)])),
        lambda: a.emit(bytes([0x83, 0xC0 | k << 3 | r, rng.randrange(256)])),
        lambda: a.emit(bytes([0x81, 0xC0 | k << 3 | r]), d32(rng.getrandbits(32))),
        lambda: a.emit(bytes([8 * k + 3]), direct, b.data()),
        lambda: a.emit(bytes([8 * k + 1]), direct, b.data()),
        lambda: a.emit("f0", bytes([1]), direct, b.data()),
        lambda: b.load(r, rng.choice((0, 1, 0xFFFFFFFF, 0x80000000, rng.getrandbits(32)))),
        lambda: a.emit(bytes([0x8B]), direct, b.data()),
        lambda: a.emit(bytes([0x89]), direct, b.data()),
        lambda: a.emit(bytes([0x87]), rng.choice((pair, direct + b.data()))),
        lambda: a.emit(
            bytes([0x8D, 0x44 | r << 3, s << 3 | rng.choice(REGISTERS) | rng.randrange(4) << 6, rng.randrange(256)])
        ),
        lambda: a.emit("0f", bytes([rng.choice((0xB6, 0xB7, 0xBE, 0xBF))]), pair),
        lambda: a.emit(bytes([0xC1, 0xC0 | rng.choice((0, 1, 2, 3, 4, 5, 7)) << 3 | r, rng.randrange(40)])),
        lambda: a.emit(bytes([0xD3, 0xC0 | rng.choice((0, 1, 2, 3, 4, 5, 7)) << 3 | r])),
        lambda: a.emit("0f", bytes([rng.choice((0xA4, 0xAC))]), pair, bytes([double_shift])),
        lambda: a.emit("0faf", pair),
        lambda: a.emit(bytes([0xF7, 0xC0 | rng.choice((2, 3, 4, 5)) << 3 | r])),
        lambda: a.emit(bytes([rng.choice((0x40, 0x48)) + r])),
        lambda: a.emit("0f", bytes([rng.choice((0xC1, 0xB1))]), rng.choice((pair, direct + b.data()))),
        lambda: a.emit("0f", bytes([0xC8 + r])),
        lambda: a.emit("0f", bytes([0x90 + rng.randrange(16), 0xC0 | k])),
        lambda: a.emit("0f", bytes([0x40 + rng.randrange(16)]), pair),
        lambda: a.emit("0fba", bytes([0xC0 | rng.randint(4, 7) << 3 | r, rng.randrange(32)])),
        lambda: a.emit(
            rng.choice(
                ("98", "99", "9f", "9e", "f8", "f9", "f5", "27", "2f", "37", "3f", "d40a", "d50a", "90", "0f1f00")
            )
        ),
        lambda: a.emit(bytes([0x50 + r, 0x58 + s])),
        lambda: a.emit("60 61"),
        lambda: a.emit("68", d32(rng.getrandbits(32)), bytes([0x58 + r])),
        lambda: a.emit("d9e8 d9eb dec1 d91d", b.data()),
        lambda: a.emit("9c 8134 24".replace(" ", ""), d32(rng.choice((0x8D5, 0x40000, 0x200000, 0x55))), b"\x9d\xfc"),
    ]
    rng.choice(choices)()


@piece(12)
def arithmetic(b: Body) -> None:
    for _ in range(b.rng.randint(1, 8)):
        plain(b)


@piece(5)
def branch(b: Body) -> None:
    over = b.a.fresh()
    plain(b)
    b.a.jump(f"0f{0x80 + b.rng.randrange(16):02x}", over)
    b.some()
    b.a.label(over)


@piece(3)
def loop(b: Body) -> None:
    if b.in_loop < 2:
        b.looped(b.rng.randint(1, 6), b.some_and_a_piece)


@piece(2)
def loop_by_ecx(b: Body) -> None:
    """LOOP, also onto itself, and JECXZ."""
    a, top, out = b.a, b.a.fresh(), b.a.fresh()
    b.load(1, b.rng.choice((1, 2, 5)))
    if b.rng.random() < 0.4:
        a.emit("e2fe")
        return
    a.label(top)
    a.emit(b.rng.choice(("40", "01c3", "31d0 43", "f8")))
    a.jump("e3", out, size=1)
    a.jump(b.rng.choice(("e2", "e0", "e1")), top, size=1)
    a.label(out)


@piece(3)
def call(b: Body) -> None:
    a, routine, over = b.a, b.a.fresh(), b.a.fresh()
    if b.rng.random() < 0.5:
        a.jump("e8", routine)
    else:
        a.address("b8", routine)
        a.emit("ffd0")
    a.jump("e9", over)
    a.label(routine)
    b.some()
    a.emit(b.rng.choice(("c3", "6a07 59 c3", "f3c3")))
    a.label(over)


@piece(1)
def long_block(b: Body) -> None:
    """More instructions than fit into one block of translated code, or nearly."""
    b.a.emit(
        bytes(b.rng.choice((0x40, 0x42, 0x43, 0x46, 0x90, 0xF8)) for _ in range(b.rng.choice((100, 130, 260, 520))))
    )


@piece(1)
def jump_to_page_edge(b: Body) -> None:
    """Put the next instructions across a page boundary."""
    a, edge = b.a, b.a.fresh()
    page = (a.here + 0x20 & ~0xFFF) + 0x1000
    if page + 0x400 < frame.BODY_END and page - a.here < 0xA00:
        a.jump("e9", edge)
        a.pad_to(page - b.rng.randint(1, 9))
        a.label(edge)
        for _ in range(3):
            plain(b)


# ------------------------------------------------------------------------------------------------------------- strings

_STRINGS = {"movs": 0xA4, "cmps": 0xA6, "stos": 0xAA, "lods": 0xAC, "scas": 0xAE}


def string_operation(b: Body) -> bytes:
    """Load the registers; return a repeated string instruction that uses them."""
    rng = b.rng
    operation = rng.choice(tuple(_STRINGS.values()))
    count = rng.choice((0, 0, 1, 1, 1, 2, 3, rng.randint(4, 40)))
    width, size = rng.choice(((b"", 1), (b"", 4), (b"\x66", 2)))
    for register in (6, 7):
        b.load(register, frame.DATA + rng.choice((0x400, 0x1000, 0x1FFE, rng.randrange(0x400, 0x3000))))
    if rng.random() < 0.5:
        b.load(0, rng.choice((0, 0xFFFFFFFF)))
    b.load(1, count)
    return bytes([rng.choice((0xF3, 0xF2, 0xF3))]) + width + bytes([operation + (size != 1)])


@piece(6, Feature.STRINGS)
def string(b: Body) -> None:
    code = string_operation(b)
    backwards = b.rng.random() < 0.3
    if backwards:
        b.a.emit("fd")
    b.a.emit(code)
    if backwards:
        b.a.emit("fc")


@piece(1, Feature.STRINGS)
def long_fill(b: Body) -> None:
    b.load(7, frame.DATA + b.rng.randrange(0x1000))
    b.load(1, b.rng.randint(100, 300))
    b.a.emit("f3ab")


# ---------------------------------------------------------------------------------------------------- faults and gates


@piece(3, Feature.FAULTS)
def divide_error(b: Body) -> None:
    after = b.a.fresh()
    b.resume_at(after)
    b.some()
    b.a.emit("31c9 42").emit(b.rng.choice(("f7f1", "f7f9", "f6f1", "d400")))
    b.some()
    b.a.label(after)


@piece(2, Feature.FAULTS)
def undefined_opcode(b: Body) -> None:
    after = b.a.fresh()
    b.resume_at(after)
    b.some()
    b.a.emit(b.rng.choice(("0f0b", "ffff", "f090", "0fff"))).emit("9090")
    b.a.label(after)


@piece(2, Feature.FAULTS)
def protection_fault(b: Body) -> None:
    after = b.a.fresh()
    b.resume_at(after)
    b.some()
    kernel = ("66b8f8ff 8ec0", "66b80800 8ed0", "cd90", "66b83b00 8ee8", "66b80000 8ed0")
    user = (
        "fa",
        "fb",
        "f4",
        "0f20c0",
        "0f22d8",
        "e421",
        "e620",
        "66bafd03 ec",
        "cd82",
        "0f011d00000400",
        "0f06",
        "66b81000 8ed8",
    )
    b.a.emit(b.rng.choice(user if b.in_user else kernel))
    b.some(1)
    b.a.label(after)


@piece(3)
def software_interrupt(b: Body) -> None:
    b.a.emit(b.rng.choice(("cd80", "cc", "ce", "b87fffffff 83c001 ce", "cd80 cc")))


@piece(3, Feature.USER, user=False)
def user_excursion(b: Body) -> None:
    """IRET to ring 3, run some pieces there, come back by INT."""
    a, user, back = b.a, b.a.fresh("user"), b.a.fresh("back")
    a.emit("8925", d32(frame.SAVED_ESP)).emit("8925", d32(frame.TSS + 4))
    a.address(f"c705{d32(frame.USER_RETURN).hex()}", back)
    iopl = 0x3000 if b.features & Feature.PORTS and b.rng.random() < 0.2 else 0
    flags = iopl | 2 | (0x200 if b.rng.random() < 0.8 else 0)
    a.emit("6a", bytes([frame.USER_DATA])).emit("68", d32(frame.USER_STACK)).emit("68", d32(flags)).emit(
        "6a", bytes([frame.USER_CODE])
    )
    a.address("68", user)
    a.emit("cf")
    a.label(user)
    b.in_user = True
    for _ in range(b.rng.randint(1, 4)):
        choose(b)
    b.in_user = False
    a.emit("cd", bytes([frame.LEAVE_USER]))
    a.label(back)
    if b.rng.random() < 0.7:
        b.a.emit("fb")


@piece(2, Feature.FAR, user=False)
def far_call(b: Body) -> None:
    a, routine, over = b.a, b.a.fresh(), b.a.fresh()
    a.address("9a", routine, d16(frame.KERNEL_CODE))
    a.address("ea", over, d16(frame.KERNEL_CODE))
    a.label(routine)
    b.some(2)
    a.emit("cb")
    a.label(over)


@piece(1, Feature.CALL_GATES)
def call_gate(b: Body) -> None:
    if b.in_user:
        b.a.emit("9a00000000", d16(frame.CALL_GATE))


# ------------------------------------------------------------------------------------------ flags, shadows, interrupts


@piece(2, Feature.SHADOWS, user=False)
def shadow(b: Body) -> None:
    """An interrupt shadow over something: plain code, a string instruction, a fault, CPUID, a port."""
    a, rng = b.a, b.rng
    after = a.fresh()
    b.resume_at(after)
    repeated = string_operation(b) if b.features & Feature.STRINGS and rng.random() < 0.4 else b""
    if rng.random() < 0.4:
        a.emit("fa")
    if not repeated:
        a.emit("66ba1000")
    starts = ["fb", "6a10 17", "fb 6a10 17", "fb fb"]
    if not repeated:
        starts += ["8ed2", "fb 8ed2", "fa 8ed2 fb"]
    a.emit(rng.choice(starts))
    if repeated:
        a.emit(repeated)
    else:
        ends = ["40", "9090", "fa", "fb", "eb00", "cd80", "cc", "9c 58"]
        ends += ["e680", "e480"] if b.features & Feature.PORTS else []
        ends += ["0fa2", "0f31"] if b.features & Feature.TIME else []
        ends += ["0f0b", "d400", "cd90"] if b.features & Feature.FAULTS else []
        a.emit(rng.choice(ends))
    a.label(after)


@piece(2, Feature.SHADOWS, user=False)
def shadow_from_two_sides(b: Body) -> None:
    """The same instruction in a shadow and without one."""
    a = b.a
    top, middle = a.fresh(), a.fresh()
    slot = b.slot()
    a.emit("c705", slot, d32(b.rng.randint(2, 6)))
    a.jump("e9", middle)
    a.label(top)
    if b.rng.random() < 0.3:
        a.emit("fa")
    a.emit(b.rng.choice(("fb", "6a10 17")))
    a.label(middle)
    b.some(2)
    a.emit("42").emit("ff0d", slot)
    a.jump("0f85", top)


@piece(2, Feature.INTERRUPTS, user=False)
def uart_interrupt(b: Body) -> None:
    """Raise IRQ 4: turn the transmitter interrupt on, or send a character."""
    if b.rng.random() < 0.5:
        b.a.emit("66baf903 b000 ee b002 ee")
    else:
        b.a.emit("66baf803 b0", bytes([b.rng.randint(32, 126)]), b"\xee")
    b.some()


@piece(2, Feature.INTERRUPTS, user=False)
def interrupt_flag(b: Body) -> None:
    b.a.emit(b.rng.choice(("fa", "fb", "fb", "9c fb 9d", "9c fa 40 9d", "6802020000 9d")))


@piece(1, Feature.INTERRUPTS, user=False)
def halt(b: Body) -> None:
    if not b.in_loop:
        b.a.emit("fb f4")


@piece(3, Feature.TRAP_FLAG)
def single_step(b: Body) -> None:
    """A stretch with TF set."""
    a, rng = b.a, b.rng
    repeated = string_operation(b) if b.features & Feature.STRINGS and rng.random() < 0.5 else b""
    a.emit("9c 810c24 00010000 9d".replace(" ", ""))
    a.emit(repeated)
    inside = [plain, plain, branch, loop_by_ecx, call, software_interrupt]
    if not b.in_user:
        more = {
            port: Feature.PORTS,
            string_port: Feature.PORTS | Feature.STRINGS,
            time: Feature.TIME,
            far_call: Feature.FAR,
        }
        more |= {divide_error: Feature.FAULTS, undefined_opcode: Feature.FAULTS, protection_fault: Feature.FAULTS}
        inside += [p for p, needs in more.items() if needs in b.features]
    for _ in range(rng.randint(1, 4)):
        rng.choice(inside)(b)
    a.emit("9c 812424 fffeffff 9d".replace(" ", ""))


# ------------------------------------------------------------------------------------------------------ ports and time


@piece(3, Feature.PORTS, user=False)
def port(b: Body) -> None:
    b.a.emit(
        b.rng.choice(("e480", "e580", "e421", "b041 e6f0", "e780", "66ba8000 ed", "66baff03 b055 ee ec", "66e580"))
    )


@piece(1, Feature.PORTS)
def open_port(b: Body) -> None:
    """A port that the I/O bitmap gives to ring 3."""
    b.a.emit(b.rng.choice(("e480", "e680")))


@piece(2, Feature.PORTS, user=False)
def string_port(b: Body) -> None:
    rng = b.rng
    b.load(7, frame.DATA + rng.choice((0x800, 0xFFF)))
    b.load(6, frame.DATA + rng.choice((0x800, 0x1FFE)))
    b.load(1, rng.choice((0, 1, 2, 3)))
    b.load(2, 0x80)
    b.a.emit(rng.choice(("", "f3", "f3"))).emit(rng.choice(("6c", "6d", "6e", "6f", "666d", "666f")))


@piece(2, Feature.TIME)
def time(b: Body) -> None:
    codes = ["0f31", "31c0 0fa2", "b801000000 0fa2", "0f31 31c8 0f31"]
    b.a.emit(b.rng.choice(codes if b.in_user else [*codes, "b000 e643 e440 e440"]))


# ---------------------------------------------------------------------------------------------------------- the choice


def choose(b: Body) -> None:
    """Emit one random piece that fits here."""
    fitting = [e for e in PIECES if e.needs in b.features and (e.user or not b.in_user)]
    b.rng.choices(fitting, [e.weight for e in fitting])[0].piece(b)
