"""IN, OUT, INS and OUTS (SDM Vol. 2A and 2B; Vol. 1 §19)."""

from __future__ import annotations

import pytest

from simvirt.machine.events import PortAccess
from simvirt.x86.exceptions import Vector
from tests.support.paging import PRESENT, paged_pc, protect
from tests.support.pc import CODE, DATA, EAX, ECX, EDI, EDX, ES, ESI, FS, GS, Pc, flat_pc, long_pc, real_pc

PORT = 0x1F0


def pc_at(port: int = PORT) -> Pc:
    pc = flat_pc()
    pc.state[EDX] = port
    return pc


@pytest.mark.parametrize(
    ("listing", "port", "size", "eax"),
    [
        ("e4 60 ; in al, 0x60", 0x60, 1, 0xFFFF_FF44),
        ("66 e5 60 ; in ax, 0x60", 0x60, 2, 0xFFFF_3344),
        ("e5 60 ; in eax, 0x60", 0x60, 4, 0x1122_3344),
        ("ec ; in al, dx", PORT, 1, 0xFFFF_FF44),
        ("66 ed ; in ax, dx", PORT, 2, 0xFFFF_3344),
        ("ed ; in eax, dx", PORT, 4, 0x1122_3344),
    ],
)
def test_in(listing: str, port: int, size: int, eax: int) -> None:
    pc = pc_at()
    pc.state[EAX] = 0xFFFF_FFFF
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    assert [entry[:3] for entry in pc.bus.log] == [("in", port, size)]
    assert pc.state[EAX] == eax
    assert pc.cpu.count == 1


@pytest.mark.parametrize(
    ("listing", "port", "size", "value"),
    [
        ("e6 60 ; out 0x60, al", 0x60, 1, 0xDD),
        ("66 e7 60 ; out 0x60, ax", 0x60, 2, 0xCCDD),
        ("e7 60 ; out 0x60, eax", 0x60, 4, 0xAABB_CCDD),
        ("ee ; out dx, al", PORT, 1, 0xDD),
        ("66 ef ; out dx, ax", PORT, 2, 0xCCDD),
        ("ef ; out dx, eax", PORT, 4, 0xAABB_CCDD),
    ],
)
def test_out(listing: str, port: int, size: int, value: int) -> None:
    pc = pc_at()
    pc.state[EAX] = 0xAABB_CCDD
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("out", port, size, value)]
    assert pc.cpu.count == 1


def test_flags_and_other_registers_are_untouched() -> None:
    pc = pc_at()
    for register in range(8):
        if register != EDX:
            pc.state[register] = 0x0101_0101 * register
    pc.state[EDX] = PORT
    pc.state.eflags = 0xAD7 & ~0x200
    before = [pc.state[register] for register in range(1, 8)]
    pc.load("ec ; in al, dx\nf4 ; hlt")
    pc.run()
    assert [pc.state[register] for register in range(1, 8)] == before
    assert pc.state.eflags == 0xAD7 & ~0x200


def test_ports_in_a_row_in_one_block() -> None:
    pc = pc_at()
    pc.bus.port_values = {0x10: 1, 0x20: 2}
    pc.load("""
        e4 10       ; in al, 0x10
        88 c4       ; mov ah, al
        e4 20       ; in al, 0x20
        e6 30       ; out 0x30, al
        86 c4       ; xchg ah, al
        e6 30       ; out 0x30, al
        f4          ; hlt
    """)
    pc.run()
    assert pc.bus.log == [("in", 0x10, 1, 1), ("in", 0x20, 1, 2), ("out", 0x30, 1, 2), ("out", 0x30, 1, 1)]
    assert pc.cpu.count == 6


# ------------------------------------------------------------------------------------------------ strings


@pytest.mark.parametrize(("listing", "size"), [("6c ; insb", 1), ("66 6d ; insw", 2), ("6d ; insd", 4)])
@pytest.mark.parametrize("down", [False, True])
def test_ins(listing: str, size: int, down: bool) -> None:
    pc = pc_at()
    pc.state[EDI] = DATA + 16
    pc.write(DATA, b"\xcc" * 32)
    pc.state.eflags = 2 | down << 10
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    assert pc.state[EDI] == DATA + 16 + (-size if down else size)
    assert bytes(pc.memory[DATA + 15 : DATA + 17 + size]) == b"\xcc" + b"\x44\x33\x22\x11"[:size] + b"\xcc"


@pytest.mark.parametrize(("listing", "size"), [("6e ; outsb", 1), ("66 6f ; outsw", 2), ("6f ; outsd", 4)])
@pytest.mark.parametrize("down", [False, True])
def test_outs(listing: str, size: int, down: bool) -> None:
    pc = pc_at()
    pc.state[ESI] = DATA
    pc.write32(DATA, 0x4433_2211)
    pc.state.eflags = 2 | down << 10
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("out", PORT, size, 0x4433_2211 & (1 << 8 * size) - 1)]
    assert pc.state[ESI] == DATA + (-size if down else size)


def test_rep_outs() -> None:
    pc = pc_at()
    pc.write(DATA, b"Hello")
    pc.state[ESI], pc.state[ECX] = DATA, 5
    pc.load("f3 6e ; rep outsb\nf4 ; hlt")
    pc.run()
    assert bytes(value for _, _, _, value in pc.bus.log) == b"Hello"
    assert (pc.state[ECX], pc.state[ESI], pc.state.rip) == (0, DATA + 5, CODE + 2)


def test_rep_ins_backwards_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pc = pc_at()
    pc.state[EDI], pc.state[ECX] = DATA + 4, 3
    pc.state.eflags = 0x402
    values = iter((0x1111, 0x2222, 0x3333))
    monkeypatch.setattr(pc.bus, "read_port", lambda _port, _size: next(values))
    pc.load("f3 66 6d ; rep insw\nf4 ; hlt")
    pc.run()
    assert bytes(pc.memory[DATA : DATA + 6]) == bytes.fromhex("333322221111")
    assert (pc.state[ECX], pc.state[EDI]) == (0, DATA - 2)


@pytest.mark.parametrize("listing", ["f3 6c ; rep insb", "f3 6e ; rep outsb"])
def test_rep_with_a_count_of_zero_does_nothing(listing: str) -> None:
    pc = pc_at()
    pc.state[EDI] = pc.state[ESI] = DATA
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == []
    assert (pc.state[EDI], pc.state[ESI]) == (DATA, DATA)


def test_16_bit_addresses_use_and_wrap_si_cx_and_di() -> None:
    pc = pc_at()
    pc.write(0xFFFF, b"A")
    pc.write(0, b"B")
    pc.state[ESI], pc.state[ECX] = 0xABCD_FFFF, 0x1234_0002
    pc.load("f3 67 6e ; rep outsb\nf4 ; hlt")
    pc.run()
    assert bytes(value for _, _, _, value in pc.bus.log) == b"AB"
    assert (pc.state[ESI], pc.state[ECX]) == (0xABCD_0001, 0x1234_0000)


def test_segment_override_of_outs_and_fixed_es_of_ins() -> None:
    """OUTS takes an override, INS always writes through ES (SDM Vol. 2A "INS")."""
    pc = pc_at()
    for register, base in ((FS, 0x4_1000), (GS, 0x4_2000), (ES, 0x4_3000)):
        segment = pc.state.segment(register)
        pc.state.set_segment(register, type(segment)(segment.selector, base, segment.limit, segment.flags))
    pc.write(0x4_1010, b"F")
    pc.state[ESI] = pc.state[EDI] = 0x10
    pc.load("64 6e ; outsb\n65 6c ; insb\nf4 ; hlt")
    pc.run()
    assert pc.bus.log[0] == ("out", PORT, 1, ord("F"))
    assert pc.memory[0x4_3010] == 0x44
    assert pc.memory[0x4_2010] == 0


def test_ins_to_an_absent_page_faults_before_the_port_is_read() -> None:
    pc = paged_pc()
    protect(pc, DATA, clear=PRESENT)
    pc.state[EDX], pc.state[EDI] = PORT, DATA
    pc.load("6d ; insd")
    pc.run()
    assert (pc.vector, pc.state.cr2, pc.stack(2)) == (Vector.PF, DATA, [2, CODE])
    assert pc.bus.log == []
    assert pc.state[EDI] == DATA


def test_outs_from_an_absent_page_faults_before_the_port_is_written() -> None:
    pc = paged_pc()
    protect(pc, DATA, clear=PRESENT)
    pc.state[EDX], pc.state[ESI], pc.state[ECX] = PORT, DATA - 2, 4
    pc.load("f3 6e ; rep outsb")
    pc.run()
    assert (pc.vector, pc.state.cr2) == (Vector.PF, DATA)
    assert len(pc.bus.log) == 2
    assert (pc.state[ESI], pc.state[ECX]) == (DATA, 2)


def test_ins_over_the_code_that_follows() -> None:
    """What arrives from the port is run, not what stood there."""
    pc = pc_at()
    pc.bus.port_values[PORT] = 0xF4
    pc.state[EDI] = CODE + 1
    pc.load("6c ; insb\n0f 0b ; ud2")
    pc.run()
    assert pc.state.rip == CODE + 1


def test_64_bit_strings() -> None:
    pc = long_pc()
    pc.write(DATA, b"xy")
    pc.state[EDX], pc.state[ESI], pc.state[ECX] = PORT, DATA, 2
    pc.load("f3 6e ; rep outsb\nf4 ; hlt")
    pc.run()
    assert bytes(value for _, _, _, value in pc.bus.log) == b"xy"
    assert (pc.state[ESI], pc.state[ECX]) == (DATA + 2, 0)


def test_64_bit_strings_with_32_bit_addresses_clear_the_upper_halves() -> None:
    pc = long_pc()
    pc.write(DATA, b"xy")
    pc.state[EDX], pc.state[ESI], pc.state[ECX] = PORT, 0xFFFF_FFFF_0000_0000 | DATA, 0xFFFF_FFFF_0000_0002
    pc.load("f3 67 6e ; rep outsb\nf4 ; hlt")
    pc.run()
    assert bytes(value for _, _, _, value in pc.bus.log) == b"xy"
    assert (pc.state[ESI], pc.state[ECX]) == (DATA + 2, 0)


def test_real_mode() -> None:
    pc = real_pc()
    pc.state[EAX] = 0xABCD
    pc.load("e6 80 ; out 0x80, al\ne4 81 ; in al, 0x81\nf4 ; hlt")
    pc.run()
    assert pc.bus.log == [("out", 0x80, 1, 0xCD), ("in", 0x81, 1, 0x44)]
    assert pc.state.register(EAX, 2) == 0xAB44


def test_the_event_before_completion() -> None:
    pc = pc_at()
    pc.state[EAX], pc.state[ECX], pc.state[ESI] = 0x77, 3, DATA
    pc.load("f3 67 6e ; rep outsb")
    event = pc.event()
    assert event == PortAccess(PORT, 1, True, pc.read(DATA, 1), 3, False, True, True, 2)  # type: ignore[arg-type]
    assert (pc.state.rip, pc.state[ECX], pc.state[ESI], pc.cpu.count) == (CODE, 3, DATA, 0)
