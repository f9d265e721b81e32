"""A periodic interrupt that native code takes by a standing order, against the same machine asked at every tick."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from threading import Timer
from typing import TYPE_CHECKING

import pytest

from simvirt.guests.flat import LOAD_ADDRESS, flat_image
from simvirt.machine.board import Board
from simvirt.machine.completion import complete
from simvirt.machine.devices.pic import Irq
from simvirt.machine.devices.pit import pulse_time
from simvirt.machine.events import LimitReached, PortAccess
from simvirt.machine.machine import Outcome, Stop
from simvirt.machine.pc import BareProcessor, BoardBus
from simvirt.x86.addresses import Gpa, Port
from tests.support.code import code, le
from tests.support.exactness import build, digest

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.delivery_log import FaultRecord
    from simvirt.machine.machine import Machine
    from simvirt.machine.standing_order import StandingOrder

MEMORY = 2 << 20
TABLES, IDT, COUNTER, DATA, STACK = (LOAD_ADDRESS + offset for offset in (0x1000, 0x2000, 0x3000, 0x4000, 0x8000))
HANDLERS = {
    0x20: LOAD_ADDRESS + 0x800,
    0x28: LOAD_ADDRESS + 0x900,
    0x80: LOAD_ADDRESS + 0x980,
    0x01: LOAD_ADDRESS + 0x980,
}
GDT = bytes.fromhex("00000000 00000000 ffff0000 009bcf00 ffff0000 0093cf00")

SETUP = code(f"""
    0f 01 15 {le(TABLES + 0x100)}   ; lgdt [gdtr]
    0f 01 1d {le(TABLES + 0x110)}   ; lidt [idtr]
    bc {le(STACK)}                  ; mov esp, stack
""") + b"".join(
    bytes((0xB0, value, 0xE6, port))  # mov al, value; out port, al
    for port, value in (
        (0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0xA0, 0x11), (0xA1, 0x28), (0xA1, 0x02), (0xA1, 0x01)
    )
)  # fmt: skip
"""Both 8259A: IRQ 0 on vector 0x20, IRQ 8 on 0x28."""
UNMASK = bytes.fromhex("b0 fa e6 21 b0 fe e6 a1")
RTC_TICKS = bytes.fromhex("b0 0a e6 70 b0 23 e6 71 b0 0b e6 70 b0 42 e6 71")
"""The MC146818's periodic interrupt, 8,192 a second."""
END_OF_INTERRUPT = {
    "non-specific": bytes.fromhex("b0 20 e6 20"),
    "by DX": bytes.fromhex("52 66 ba 20 00 b0 20 ee 5a"),
    "specific": bytes.fromhex("b0 60 e6 20"),
    "by OUTSB": bytes.fromhex("52 56 66 ba 20 00 be") + (TABLES + 0x120).to_bytes(4, "little")
    + bytes.fromhex("6e 5e 5a"),
    "by REP OUTSB": bytes.fromhex("51 52 56 66 ba 20 00 be") + (TABLES + 0x120).to_bytes(4, "little")
    + bytes.fromhex("b9 02 00 00 00 f3 6e 5e 5a 59"),
}  # fmt: skip


def _wait(iterations: int) -> bytes:
    """mov ecx, iterations; loop $."""
    return b"\xb9" + iterations.to_bytes(4, "little") + bytes.fromhex("e2 fe")


def _pit(mode: int, count: int) -> bytes:
    return bytes((0xB0, 0x30 | mode << 1, 0xE6, 0x43, 0xB0, count & 0xFF, 0xE6, 0x40, 0xB0, count >> 8, 0xE6, 0x40))


def _main(random: Random) -> bytes:
    pieces = [
        b"\x90" * random.randrange(1, 9),
        _wait(random.randrange(1, 6000)),
        b"\xbf" + DATA.to_bytes(4, "little") + b"\xb9" + random.randrange(3000).to_bytes(4, "little") + b"\xf3\xaa",
        b"\xfa" + _wait(random.randrange(1, 4000)) + b"\xfb\x90",  # cli … sti
        b"\xf4",  # hlt
        b"\xcd\x80",
        b"\xe6\x80",  # a port where nothing is
        b"\xe4\x40\xe4\x40",  # the 8254's counter
        b"\xe4\x20",  # IRR
        bytes.fromhex("b0 fb e6 21") + _wait(random.randrange(1, 5000)) + bytes.fromhex("b0 fa e6 21"),
        _pit(random.choice((2, 3)), random.randrange(2, 12)),
        bytes(
            (0xB0, random.randrange(2, 12), 0xE6, 0x40, 0xB0, 0, 0xE6, 0x40)
        ),  # another count, from the next period on
        bytes.fromhex("9c 9d"),  # pushf; popf
        bytes.fromhex("16 17"),  # push ss; pop ss
        bytes.fromhex("fa fb 90"),
        bytes.fromhex("0f 31 31 c3"),  # rdtsc; xor ebx, eax
    ]
    return b"".join(random.choice(pieces) for _ in range(random.randrange(2, 8)))


def _handler(random: Random, end: bytes) -> bytes:
    around = [
        b"",
        b"",
        b"",
        b"\xe6\x80",
        b"\xe4\x40",
        b"\x51" + _wait(random.randrange(1, 3000)) + b"\x59",
        b"\xfb\x90",
    ]
    body = b"\x50\xff\x05" + COUNTER.to_bytes(4, "little")
    return body + random.choice(around) + end + random.choice(around) + b"\x58\xcf"


def _guest(main: bytes, handler: bytes, setup: bytes) -> GuestImage:
    body = SETUP + UNMASK + setup + b"\xfb"
    body += main + b"\xe9" + (-len(main) - 5).to_bytes(4, "little", signed=True)
    rtc = bytes.fromhex("50 b0 0c e6 70 e4 71 b0 20 e6 a0 b0 20 e6 20 58 cf")
    content = bytearray(STACK - LOAD_ADDRESS)
    pieces = {
        LOAD_ADDRESS: body, HANDLERS[0x20]: handler, HANDLERS[0x28]: rtc, HANDLERS[0x80]: b"\xcf", TABLES: GDT,
        TABLES + 0x100: (len(GDT) - 1).to_bytes(2, "little") + TABLES.to_bytes(4, "little"),
        TABLES + 0x110: b"\xff\x07" + IDT.to_bytes(4, "little"), TABLES + 0x120: b"\x20\x20",
    }  # fmt: skip
    for vector, at in HANDLERS.items():
        pieces[IDT + 8 * vector] = bytes((at & 0xFF, at >> 8 & 0xFF, 8, 0, 0, 0x8E, at >> 16 & 0xFF, at >> 24))
    for at, data in pieces.items():
        content[at - LOAD_ADDRESS : at - LOAD_ADDRESS + len(data)] = data
    return flat_image(bytes(content), "ticks")


def _processor(machine: Machine) -> BareProcessor:
    assert isinstance(machine.processor, BareProcessor)
    return machine.processor


def _delivered(machine: Machine) -> tuple[dict[int, int], list[FaultRecord]]:
    deliveries = _processor(machine).cpu.engine.deliveries
    return deliveries.by_vector, list(deliveries.fault_chain)


class Pair:
    """Two machines with one guest: in one, no order is ever given."""

    def __init__(self, image: GuestImage) -> None:
        self.by_order, self.asked = (build(image, "bare-metal", MEMORY).machine for _ in range(2))
        self.taken = 0
        _processor(self.asked).bus.standing_order = lambda: None
        bus = _processor(self.by_order).bus
        carried_out = bus.carried_out

        def counted(order: StandingOrder, taken: int, in_service: bool) -> None:
            self.taken += taken
            carried_out(order, taken, in_service)

        bus.carried_out = counted

    def compare(self, instruction: int) -> Outcome | None:
        """Run both up to there: they are the same to the last bit."""
        outcome = self.by_order.run_to(instruction)
        assert self.asked.run_to(instruction) is outcome
        assert digest(self.by_order) == digest(self.asked), instruction
        assert _delivered(self.by_order) == _delivered(self.asked)
        return outcome


@pytest.mark.parametrize("seed", range(24))
def test_at_any_instruction_the_machine_is_what_it_would_be_had_it_been_asked_at_every_tick(seed: int) -> None:
    random = Random(seed)
    end = random.choice(list(END_OF_INTERRUPT.values()))
    setup = _pit(random.choice((2, 3)), random.randrange(2, 12))
    if random.randrange(3) == 0:
        setup = RTC_TICKS + setup
    pair = Pair(_guest(_main(random), _handler(random, end), setup))
    for stop in sorted(random.randrange(1, 400_000) for _ in range(12)):
        if pair.compare(stop) is not None:
            break


PERIOD = 3352
"""Nanoseconds of four pulses of the 8254, rounded down."""
COUNT = b"\xff\x05" + COUNTER.to_bytes(4, "little")
TICKING = _guest(b"\x90", b"\x50" + COUNT + END_OF_INTERRUPT["non-specific"] + b"\x58\xcf", _pit(2, 4))


def test_the_processor_takes_by_order_all_but_the_first() -> None:
    pair = Pair(TICKING)
    pair.compare(100 * PERIOD)
    assert pair.taken == _processor(pair.by_order).cpu.engine.deliveries.by_vector[0x20] - 1 == 98


class TickingBoard:
    """A board whose 8254 ticks at every tenth pulse, the request of the last tick having been acknowledged."""

    def __init__(self) -> None:
        self.retired = 0
        self.board = Board(retired=lambda: self.retired)
        for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xFA)):
            self.out(port, value)
        for port, value in ((0x43, 0x34), (0x40, 10), (0x40, 0)):
            self.out(port, value)
        self.retired = self.board.run_limit(1 << 40)
        self.board.run_due()
        self.retired = self.board.run_limit(1 << 40)
        self.board.run_due()
        assert self.board.interrupts.standing_order() is None  # the request stands
        assert self.board.acknowledge() == 0x20

    def out(self, port: int, value: int) -> None:
        self.board.write_port(Port(port), 1, value)

    @property
    def order(self) -> StandingOrder | None:
        return self.board.interrupts.standing_order()


def test_the_order_says_what_will_happen() -> None:
    ticking = TickingBoard()
    order = ticking.order
    assert order is not None
    assert (order.vector, order.in_service, order.end_port, order.end_value) == (0x20, True, 0x20, 0x20)
    assert pulse_time(order.rises.pulse) == ticking.board.next_deadline()
    assert (order.rises.period, order.rises.hz, order.rises.until_ns) == (10, 1_193_182, None)
    ticking.out(0x20, 0x20)
    assert ticking.order == replace(order, in_service=False)
    ticking.board.events.schedule("local-apic.timer", 1 << 30)
    assert ticking.order.rises.until_ns == 1 << 30


@pytest.mark.parametrize(
    "writes",
    [
        pytest.param([(0x21, 0xFB)], id="masked"),
        pytest.param([(0x43, 0x30), (0x40, 10), (0x40, 0)], id="one interrupt"),
        pytest.param([(0x20, 0x68)], id="special mask mode"),
        pytest.param([(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x03), (0x21, 0xFA)], id="automatic EOI"),
        pytest.param([(0x20, 0x19), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xFA)], id="level triggered"),
        pytest.param([(0x20, 0x11), (0x21, 0x20), (0x21, 0x05), (0x21, 0x01), (0x21, 0xFA)], id="a slave at IR0"),
        pytest.param([(0x20, 0x11), (0x21, 0x20)], id="initialization"),
        pytest.param([(0xFEE0_00F0, 0)], id="local APIC disabled"),
        pytest.param([(0xFEE0_0350, 0x1_0700)], id="LINT0 masked"),
        pytest.param([(0xFEC0_0000, 0x14), (0xFEC0_0010, 0x30)], id="I/O APIC's input not masked"),
    ],
)
def test_there_is_no_order_where_anything_else_can_come_of_a_tick(writes: list[tuple[int, int]]) -> None:
    ticking = TickingBoard()
    ticking.out(0x20, 0x20)
    assert ticking.order is not None
    for address, value in writes:
        if address > 0xFFFF:
            ticking.board.memory.write(Gpa(address), 4, value)
        else:
            ticking.out(address, value)
    assert ticking.order is None


def test_another_request_ends_the_order() -> None:
    ticking = TickingBoard()
    line = ticking.board.interrupts.line(Irq.COM1)
    line(True)
    assert ticking.order is not None  # masked
    ticking.out(0x21, 0xEA)
    assert ticking.order is None


def test_a_run_ends_before_the_interrupt_that_is_due_at_its_end() -> None:
    pair = Pair(TICKING)
    pair.compare(10 * PERIOD)
    due = pair.by_order.board.run_limit(1 << 40)
    pair.compare(due)
    before = _delivered(pair.by_order)
    pair.compare(due + 1)
    assert _delivered(pair.by_order) != before


def test_nothing_is_taken_by_order_while_somebody_wants_to_see_each_delivery() -> None:
    pair = Pair(TICKING)
    seen: list[int] = []
    _processor(pair.by_order).cpu.on_delivery = lambda what: seen.append(what.vector)
    pair.by_order.run_to(20 * PERIOD)
    assert pair.taken == 0
    pair.asked.run_to(20 * PERIOD)
    assert seen == [0x20] * _processor(pair.asked).cpu.engine.deliveries.by_vector[0x20]


def test_a_breakpoint_on_the_port_is_hit() -> None:
    # mov eax, cr4; or eax, DE; mov cr4, eax; mov eax, 0x20; mov dr0, eax; mov eax, G0 with R/W0 = 2; mov dr7, eax
    arm = bytes.fromhex("0f 20 e0 83 c8 08 0f 22 e0 b8 20 00 00 00 0f 23 c0 b8 02 00 02 00 0f 23 f8")
    pair = Pair(_guest(b"\x90", b"\x50" + COUNT + END_OF_INTERRUPT["non-specific"] + b"\x58\xcf", arm + _pit(2, 4)))
    pair.compare(30 * PERIOD)
    assert pair.by_order.processor.guest_state().debug[4] & 1
    assert _delivered(pair.by_order)[0] == {0x01: 29, 0x20: 29}


class Watching(BareProcessor):
    """Runs as its base class does, and sees every event."""

    def __init__(self, cpu: Cpu, bus: BoardBus) -> None:
        super().__init__(cpu, bus)
        self.ports: list[int] = []

    def run(self, limit: int, *, window: bool) -> Stop:  # type: ignore[override]  # as the how-to page has it
        event = self.cpu.run(limit, window=window)
        if isinstance(event, LimitReached):
            return Stop.LIMIT
        if isinstance(event, PortAccess):
            self.ports.append(event.port)
        complete(self.cpu, self.bus, event)
        return Stop.HANDLED


def test_a_processor_with_a_run_of_its_own_misses_nothing() -> None:
    pair = Pair(TICKING)
    below = _processor(pair.by_order)
    watching = pair.by_order.processor = Watching(below.cpu, below.bus)
    pair.compare(50 * PERIOD)
    assert pair.taken == 0
    assert watching.ports.count(0x20) == 1 + _delivered(pair.by_order)[0][0x20]


def test_a_request_to_stop_is_heard_although_the_guest_never_leaves_native_code() -> None:
    pair = Pair(TICKING)
    timer = Timer(0.2, pair.by_order.request_stop)
    timer.start()
    assert pair.by_order.run() is Outcome.INTERRUPTED
    timer.join()
    pair.by_order.resume()
    pair.compare(pair.by_order.count + 5 * PERIOD)
