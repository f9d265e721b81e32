"""Who may touch which port: IOPL and the I/O permission bitmap (SDM Vol. 1 §19.5)."""

from __future__ import annotations

import pytest

from simvirt.machine.events import PortAccess
from simvirt.machine.state import Segment
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.paging import PRESENT, USER, paged_pc, protect
from tests.support.pc import CODE, CS, DS0, EAX, EDX, INNER_STACK, SS, TR, TSS, Pc, flat_pc, long_pc

PORT = 0x60


def user_pc(io_map: bytes = b"", *, iopl: int = 0, limit: int | None = None, io_map_base: int = 0x68) -> Pc:
    pc = flat_pc()
    tss = tables.tss_32(INNER_STACK, DS0, io_map_base=io_map_base, io_map=io_map)
    pc.write(TSS, tss)
    pc.state.tr = Segment(TR, TSS, len(tss) - 1 if limit is None else limit, 0x8900)
    pc.user()
    pc.state.eflags = 2 | iopl << 12
    return pc


def allowed(pc: Pc, port: int, size: int, *, out: bool = True) -> bool:
    """Run OUT DX or IN DX at `port`; did it reach the bus? Otherwise it is #GP(0) on the instruction."""
    pc.state[EDX], pc.state[EAX] = port, 0xAABBCCDD
    opcode = {1: "ee", 2: "66 ef", 4: "ef"}[size] if out else {1: "ec", 2: "66 ed", 4: "ed"}[size]
    pc.load(f"{opcode} ; {'out' if out else 'in'} dx")
    event = pc.event()
    assert isinstance(event, PortAccess)
    pc.complete(event)
    if pc.bus.log:
        assert pc.bus.log == [("out" if out else "in", port, size, pc.bus.log[0][3])]
        assert pc.state.rip > CODE
        return True
    assert pc.vector == Vector.GP
    assert pc.stack(2) == [0, CODE]
    assert pc.state[EAX] == 0xAABBCCDD
    return False


@pytest.mark.parametrize("out", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_iopl(out: bool, size: int) -> None:
    """CPL at most IOPL: no bitmap is asked."""
    for iopl in range(4):
        pc = user_pc(iopl=iopl)
        assert allowed(pc, PORT, size, out=out) is (iopl == 3)


def test_ring_1_with_iopl_1() -> None:
    for iopl in (0, 1):
        pc = user_pc(iopl=iopl)
        pc.ring(1, 0x51, 0x59, 0x2_0000)
        assert allowed(pc, PORT, 1) is (iopl == 1)


def test_ring_0_and_real_mode_are_free() -> None:
    pc = user_pc()
    pc.ring(0, 0x08, 0x10, 0x2_0000)
    assert allowed(pc, PORT, 4)


def bitmap(*denied: int, size: int = 0x2001) -> bytes:
    bits = bytearray(size)
    for port in denied:
        bits[port // 8] |= 1 << port % 8
    return bytes(bits)


@pytest.mark.parametrize("port", [0, 7, 8, 0x60, 0x3F8, 0xFFFF])
def test_one_bit_for_each_port(port: int) -> None:
    io_map = bitmap(port)
    for near in (port - 1, port, port + 1):
        if 0 <= near <= 0xFFFF:
            assert allowed(user_pc(io_map), near, 1) is (near != port)


@pytest.mark.parametrize("size", [2, 4])
def test_wide_accesses_need_all_their_bits(size: int) -> None:
    for denied in range(0x6C, 0x74):
        for port in range(0x6C, 0x72):  # across the boundary of two bytes of the bitmap
            expected = not port <= denied < port + size
            assert allowed(user_pc(bitmap(denied)), port, size) is expected, f"port {port:#x}, {denied:#x} denied"


def test_two_bytes_are_read_and_both_must_lie_in_the_tss() -> None:
    """§19.5.2: the processor reads two bytes, so the map ends with a byte of ones inside the limit."""
    io_map = b"\0\0"  # ports 0 to 15
    end = 0x68 + 2 - 1
    assert allowed(user_pc(io_map, limit=end), 7, 1)
    assert not allowed(user_pc(io_map, limit=end), 8, 1), "its second byte lies behind the limit"
    assert allowed(user_pc(io_map + b"\xff", limit=end + 1), 8, 1)


def test_map_base_beyond_the_limit_denies_all() -> None:
    assert not allowed(user_pc(io_map_base=0x68), PORT, 1)
    assert not allowed(user_pc(b"", io_map_base=0xFFFF), PORT, 1)


def test_map_may_lie_anywhere_in_the_segment() -> None:
    assert allowed(user_pc(bitmap(), io_map_base=0x188), PORT, 1)
    assert not allowed(user_pc(bitmap(PORT), io_map_base=0x188), PORT, 1)


def test_short_tss_has_no_map() -> None:
    assert not allowed(user_pc(bitmap(), limit=0x66), PORT, 1)


def test_16_bit_tss_has_no_map() -> None:
    pc = user_pc(bitmap())
    pc.write(TSS, tables.tss_16(0x9000, DS0))
    pc.state.tr = Segment(TR, TSS, 0xFFF, 0x8100)
    assert not allowed(pc, PORT, 1)


@pytest.mark.parametrize("iopl", [0, 3])
def test_virtual_8086_mode_always_asks_the_map(iopl: int) -> None:
    """§19.5.2: there IOPL does not matter."""
    for io_map, expected in ((bitmap(), True), (bitmap(PORT), False)):
        pc = user_pc(io_map)
        pc.state.set_segment(CS, Segment(CODE >> 4, CODE, 0xFFFF, 0xFB00))
        pc.state.set_segment(SS, Segment(0x3000, 0x3_0000, 0xFFFF, 0xF300))
        pc.state.rip, pc.state.rsp = 0, 0x100
        pc.state.eflags = 2 | 1 << 17 | iopl << 12
        pc.state.refresh()
        pc.state[EDX] = PORT
        pc.load("ee ; out dx, al")
        pc.step() if expected else pc.complete(pc.event())
        assert bool(pc.bus.log) is expected
        if not expected:
            assert pc.vector == Vector.GP


def test_map_on_a_supervisor_page_is_read_by_the_processor() -> None:
    pc = paged_pc()
    pc.write(TSS, tables.tss_32(INNER_STACK, DS0, io_map=bitmap()))
    pc.state.tr = Segment(TR, TSS, 0x68 + 0x2000, 0x8900)
    pc.user()
    protect(pc, TSS, clear=USER)
    assert allowed(pc, PORT, 1)


def test_map_on_an_absent_page_is_a_page_fault() -> None:
    pc = paged_pc()
    pc.write(TSS, tables.tss_32(INNER_STACK, DS0, io_map=bitmap()))
    pc.state.tr = Segment(TR, TSS, 0x68 + 0x2000, 0x8900)
    pc.user()
    protect(pc, TSS + 0x1000, clear=PRESENT)
    pc.state[EDX] = 8 * 0xFA0
    pc.load("ee ; out dx, al")
    pc.complete(pc.event())
    assert (pc.vector, pc.state.cr2, pc.stack(2)) == (Vector.PF, TSS + 0x68 + 0xFA0, [0, CODE])


def test_64_bit_tss_has_its_map_at_the_same_offset() -> None:
    for io_map, expected in ((bitmap(), True), (bitmap(PORT), False)):
        pc = long_pc()
        pc.write(TSS, tables.tss_64(INNER_STACK) + io_map)
        pc.state.tr = Segment(TR, TSS, 0x68 + len(io_map) - 1, 0x8900)
        pc.ring(3, 0x2B, 0x33, 0x3_0000)
        pc.state[EDX] = PORT
        pc.load("ee ; out dx, al")
        pc.complete(pc.event())
        assert bool(pc.bus.log) is expected


def test_string_input_without_permission() -> None:
    pc = user_pc()
    pc.state[EDX], pc.state[7] = PORT, 0x4_0000
    pc.load("6c ; insb")
    pc.complete(pc.event())
    assert pc.vector == Vector.GP
    assert pc.bus.log == []
    assert pc.state[7] == 0x4_0000


def test_string_input_without_permission_leaves_memory_as_it_was() -> None:
    """The engine stores before it asks for the port; the completed CPU checks permission first."""
    pc = user_pc()
    pc.write(0x4_0000, b"\xaa")
    pc.state[EDX], pc.state[7] = PORT, 0x4_0000
    pc.load("6c ; insb")
    pc.complete(pc.event())
    assert pc.vector == Vector.GP
    assert pc.read(0x4_0000, 1) == 0xAA
