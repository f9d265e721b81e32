"""Pieces of random programs that overwrite code, and that play with paging."""

from __future__ import annotations

from tests.support import program_frame as frame
from tests.support.assembler import d32
from tests.support.program_pieces import Body, Feature, piece, plain

ROUTINE_SIZE = 16
ROUTINE_OFFSETS = (0x000, 0x040, 0x7F8, 0xFF8)
"""Where each page of routines has one; the last crosses into the next page."""
_IMMEDIATE = 1
_BYTE_INSTRUCTIONS = bytes((0x40, 0x41, 0x42, 0x43, 0x46, 0x47, 0x48, 0x49, 0x4A, 0x4B, 0x90, 0xF8, 0xF9, 0xF5))


def routine(value: int) -> bytes:
    """ADD EAX, imm32; INC EDX; ADD EBX, EAX; RET. The immediate's bytes are instructions themselves, so any prefix may
    be overwritten.
    """
    immediate = bytes(
        _BYTE_INSTRUCTIONS[value >> 4 * i & 0xF if value >> 4 * i & 0xF < len(_BYTE_INSTRUCTIONS) else 0]
        for i in range(4)
    )
    return (b"\x05" + immediate + b"\x42\x01\xc3\xc3").ljust(ROUTINE_SIZE, b"\x90")


def _byte_instruction(b: Body) -> int:
    return b.rng.choice(_BYTE_INSTRUCTIONS)


def _four(b: Body) -> int:
    return int.from_bytes(bytes(_byte_instruction(b) for _ in range(4)), "little")


def _some_routine(b: Body) -> int:
    return frame.ROUTINES + 0x1000 * b.rng.randrange(frame.ROUTINE_PAGES - 1) + b.rng.choice(ROUTINE_OFFSETS)


def _alias(b: Body, address: int) -> int:
    """The same place under either of its linear addresses."""
    if b.features & Feature.PAGING and b.rng.random() < 0.5:
        return address - frame.ROUTINES + frame.WINDOW
    return address


def _call(b: Body, address: int) -> None:
    """CALL a fixed address through a register."""
    b.load(3, address)
    b.a.emit("ffd3")


@piece(4, Feature.SELF_MODIFYING)
def patch_routine(b: Body) -> None:
    """Write into a routine, through either alias, and run it, through either alias, before and after."""
    a, rng = b.a, b.rng
    target = _some_routine(b)
    if rng.random() < 0.6:
        _call(b, _alias(b, target))
    written = _alias(b, target)
    kind = rng.randrange(6)
    if kind == 0:
        b.store(written + _IMMEDIATE, _four(b))
    elif kind == 1:
        a.emit("c605", d32(written + _IMMEDIATE + rng.randrange(4)), bytes([_byte_instruction(b)]))
    elif kind == 2:  # five instructions in place of one
        a.emit("c605", d32(written), bytes([_byte_instruction(b)]))
    elif kind == 3:  # and one again
        b.store(written + _IMMEDIATE, _four(b))
        a.emit("c605", d32(written), b"\x05")
    elif kind == 4:
        b.load(6, _alias(b, _some_routine(b)))
        b.load(7, written)
        b.load(1, ROUTINE_SIZE // 4)
        a.emit("f3a5")
    else:
        b.load(7, written)
        b.load(0, _byte_instruction(b))
        b.load(1, rng.randint(1, 5))
        a.emit("f3aa")
    if rng.random() < 0.5:
        plain(b)
    _call(b, _alias(b, target))


@piece(2, Feature.SELF_MODIFYING)
def patch_in_a_loop(b: Body) -> None:
    """A loop that rewrites the routine that it calls."""
    target = _some_routine(b)

    def inside() -> None:
        b.a.emit("8005", d32(_alias(b, target) + _IMMEDIATE), bytes([1]))
        _call(b, _alias(b, target))
        b.a.emit("c605", d32(_alias(b, target) + _IMMEDIATE), bytes([_byte_instruction(b)]))

    b.looped(b.rng.randint(2, 5), inside)


@piece(4, Feature.SELF_MODIFYING)
def patch_ahead(b: Body) -> None:
    """Overwrite instructions that follow at once, in the block that runs or in the next."""
    a, rng = b.a, b.rng
    ahead = a.fresh("ahead")
    kind = rng.randrange(4)
    if kind == 0:
        a.address("c605", ahead, bytes([rng.randrange(256)]), addend=1)
    elif kind == 1:
        a.address("c705", ahead, d32(_four(b)))
    elif kind == 2:
        a.address("bf", ahead)
        b.load(0, _byte_instruction(b))
        b.load(1, rng.randint(1, 4))
        a.emit("f3aa")
    else:
        a.address("8005", ahead, bytes([rng.randrange(1, 256)]), addend=1)
    for _ in range(rng.randint(0, 2)):
        plain(b)
    if rng.random() < 0.3:
        a.emit("eb00")
    a.label(ahead)
    if kind in (0, 3):
        a.emit("be", d32(rng.getrandbits(32)))
    else:
        a.emit(bytes(_byte_instruction(b) for _ in range(4)))
    plain(b)


@piece(1, Feature.SELF_MODIFYING)
def patch_itself(b: Body) -> None:
    """An instruction that overwrites its own immediate, in a loop."""
    a = b.a
    here = a.fresh("itself")

    def inside() -> None:
        a.label(here)
        a.address("8105", here, d32(b.rng.getrandbits(32)), addend=6)  # ADD dword [its own immediate], immediate

    b.looped(b.rng.randint(2, 4), inside)


# -------------------------------------------------------------------------------------------------------------- paging


@piece(4, Feature.PAGING, user=False)
def switch_address_space(b: Body) -> None:
    """Change CR3 and call the page that is different there; read it first now and then, so that it is mapped before it
    is fetched.
    """
    a, rng = b.a, b.rng

    def inside() -> None:
        a.emit("0f20d8 35", d32(frame.DIRECTORIES[0] ^ frame.DIRECTORIES[1])).emit("0f22d8")
        offset = rng.choice((0, 0x100))
        if rng.random() < 0.5:
            a.emit("a1", d32(frame.WINDOW_SWITCHED + offset))
        _call(b, frame.WINDOW_SWITCHED + offset)

    b.looped(rng.randint(1, 5), inside)


@piece(2, Feature.PAGING)
def call_switched(b: Body) -> None:
    _call(b, frame.WINDOW_SWITCHED + b.rng.choice((0, 0x100)))


@piece(3, Feature.PAGING)
def lazy_page(b: Body) -> None:
    """Touch pages that a page fault maps."""
    a, rng = b.a, b.rng
    address = frame.WINDOW_LAZY + 0x1000 * rng.randrange(frame.LAZY_PAGES - 1) + rng.choice((0, 0x10, 0xFFD))
    b.some()
    kind = rng.randrange(4)
    if kind == 0:
        a.emit("8b15", d32(address))
    elif kind == 1:
        a.emit("0115", d32(address))
    elif kind == 2:
        b.load(7, address)
        b.load(1, rng.choice((1, 3, 9)))
        a.emit("f3ab")
    else:
        b.load(6, address)
        b.load(7, frame.WINDOW_LAZY + 0xFF8)
        b.load(1, 5)
        a.emit("f3a5")
    b.some()


def _unmap(b: Body, index: int) -> None:
    address = frame.WINDOW + 0x1000 * index
    for directory in frame.DIRECTORIES:
        b.a.emit("8025", d32(directory + 0x2000 + 4 * index), b"\xfe")
    b.a.emit("0f013d", d32(address))


@piece(2, Feature.PAGING, user=False)
def unmap(b: Body) -> None:
    _unmap(b, 16 + b.rng.randrange(frame.LAZY_PAGES))


@piece(3, Feature.PAGING)
def straddle(b: Body) -> None:
    """Run code that goes on, or lies, in a page that may have to be mapped first."""
    if not b.in_user and b.rng.random() < 0.7:
        _unmap(b, 25)
    if (
        b.features & Feature.FAULTS and b.rng.random() < 0.3
    ):  # a block that reaches over the boundary, and faults before
        after = b.a.fresh()
        b.resume_at(after)
        b.load(3, frame.WINDOW_STRADDLE + _FAULTING)
        b.a.emit("ffe3")
        b.a.label(after)
    else:
        _call(b, frame.WINDOW_STRADDLE + b.rng.choice((0xFC0, 0xFD0, 0xFE0)))


_FAULTING = 0xFB0


def straddling_code(*, cpuid: bool) -> dict[int, bytes]:
    """Code up to the boundary and over it; `cpuid` puts a CPUID into it."""
    up_to = bytearray(b"\x90" * 0x40)
    up_to[0x00:0x10] = b"\x31\xc9\x42\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x42"
    up_to[0x10:0x20] = b"\xe8\x0b\x00\x00\x00\x42\x05\x01\x02\x03\x04\xeb\x01\xc3\xc3\xc3"
    up_to[0x20:0x40] = b"\x43\x0f\xa2\x90\x43\x43\x43\x43" + b"\x43" * 21 + b"\x05\x11\x22"
    if not cpuid:
        up_to[0x21:0x23] = b"\x90\x90"
    return {
        frame.STRADDLE + _FAULTING: b"\x31\xc9\x42\xf7\xf1".ljust(0xFC0 - _FAULTING, b"\x42"),
        frame.STRADDLE + 0xFC0: bytes(up_to),
        frame.STRADDLE + 0x1000: b"\x33\x44\x42\xcd\x80\x42\xc3",
    }


@piece(2, Feature.PAGING | Feature.FAULTS)
def refused_page(b: Body) -> None:
    """A supervisor page for ring 3, a read-only page, a page that is not there: in the middle of a block."""
    after = b.a.fresh()
    b.resume_at(after)
    b.some()
    codes = ["892d" + d32(frame.WINDOW_READ_ONLY + 8).hex(), "8b15" + d32(0x7FF000).hex(), "ff05" + d32(0x500000).hex()]
    if b.in_user:
        codes += ["a1" + d32(frame.DIRECTORIES[0]).hex(), "c605" + d32(frame.DIRECTORIES[1]).hex() + "00"]
    b.a.emit(b.rng.choice(codes))
    b.some()
    b.a.label(after)


@piece(2, Feature.PAGING, user=False)
def accessed_and_dirty(b: Body) -> None:
    """Clear the flags of an entry as SDM Vol. 3A §4.8 asks for, use the page, look at them."""
    a, rng = b.a, b.rng
    index = rng.randrange(frame.ROUTINE_PAGES)
    entry = d32(frame.DIRECTORIES[0] + 0x2000 + 4 * index)
    address = d32(frame.WINDOW + 0x1000 * index + 0x300)
    a.emit("8325", entry, b"\x9f").emit("0f013d", address)
    if rng.random() < 0.7:
        a.emit(rng.choice(("a1", "0305", "0105")), address)
    a.emit("8b0d", entry)


def switched_code() -> dict[int, bytes]:
    """The page that the two address spaces have different: blocks of equal size, other instructions, other counts."""
    first = b"\xeb\x00" + b"\x42\x42\x42\x42\x42" + b"\xeb\x00" + b"\xb8\x42\x42\x42\x42" + b"\xc3"
    second = b"\xeb\x00" + b"\xb8\x42\x42\x42\x42" + b"\xeb\x00" + b"\x42\x42\x42\x42\x42" + b"\xc3"
    return {
        frame.SWITCHED[0]: first.ljust(0x100, b"\x90") + first,
        frame.SWITCHED[1]: second.ljust(0x100, b"\x90") + second,
    }
