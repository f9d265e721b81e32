"""The board: devices wired together, as a processor sees them; and the how-to page, followed to the letter."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvirt.errors import MonitorError, SnapshotError
from simvirt.machine.board import Board, BoardState
from simvirt.machine.bus import AccessSize
from simvirt.machine.devices.pit import pulse_time
from simvirt.machine.devices.port_b import PortB
from simvirt.machine.hardware import DEVICES, DeviceRow, Hardware, Wiring
from simvirt.x86.addresses import Port

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-device.md"
COM1: Final = 0x3F8


class Guest:
    """A board, and a processor that retires as many instructions as it is told to."""

    def __init__(self) -> None:
        self.retired = 0
        self.board = Board(retired=lambda: self.retired)

    def out(self, port: int, *values: int, size: AccessSize = 1) -> None:
        for value in values:
            self.board.write_port(Port(port), size, value)

    def inp(self, port: int, size: AccessSize = 1) -> int:
        return self.board.read_port(Port(port), size)

    def initialize_pics(self, mask: int = 0) -> None:
        for base, vectors, icw3 in ((0x20, 0x20, 4), (0xA0, 0x28, 2)):
            self.out(base, 0x11)
            self.out(base + 1, vectors, icw3, 0x01)
        self.out(0x21, mask)

    def start_timer(self, count: int, mode: int = 2) -> None:
        self.out(0x43, 0x30 | mode << 1)
        self.out(0x40, count & 0xFF, count >> 8)

    def execute(self, instructions: int) -> None:
        """Retire that many, stopping at every deadline as a processor must."""
        end = self.retired + instructions
        while True:
            self.board.run_due()
            deadline = self.board.next_deadline()
            stop = end if deadline is None else min(end, self.board.clock.instruction_at(deadline))
            self.retired = stop
            if stop == end:
                self.board.run_due()
                return


def test_the_timer_interrupts_at_its_exact_instruction() -> None:
    guest = Guest()
    guest.initialize_pics()
    guest.start_timer(1193)
    guest.execute(pulse_time(1194) - 1)
    assert not guest.board.interrupt_pending()
    guest.execute(1)
    assert guest.board.interrupt_pending()
    assert guest.board.acknowledge() == 0x20


def test_a_request_that_is_not_acknowledged_is_withdrawn_where_the_output_falls() -> None:
    guest = Guest()
    guest.initialize_pics()
    guest.start_timer(1193)
    guest.execute(pulse_time(2 * 1193) - 1)
    assert guest.board.interrupt_pending()
    guest.execute(1)
    assert not guest.board.interrupt_pending()


@pytest.mark.parametrize(("mode", "count"), [(2, 1193), (2, 2), (3, 1193), (3, 1000)])
def test_behind_an_acknowledged_request_the_next_deadline_is_the_next_one(mode: int, count: int) -> None:
    guest = Guest()
    guest.initialize_pics()
    guest.start_timer(count, mode)
    for tick in range(1, 5):
        guest.execute(pulse_time(1 + tick * count) - guest.retired)
        assert guest.board.acknowledge() == 0x20
        guest.out(0x20, 0x20)
        assert guest.board.next_deadline() == pulse_time(1 + (tick + 1) * count)


def test_a_level_triggered_controller_sees_the_output_fall() -> None:
    guest = Guest()
    guest.initialize_pics()
    guest.start_timer(1193)
    guest.execute(pulse_time(1194))
    assert guest.board.acknowledge() == 0x20
    guest.execute(pulse_time(2 * 1193) - guest.retired)  # it falls, and nobody is told
    guest.out(0x20, 0x19)
    guest.out(0x21, 0x20, 4, 0x01)
    assert guest.inp(0x20) & 1 == 0
    guest.execute(pulse_time(2 * 1193 + 1) - guest.retired)
    assert guest.inp(0x20) & 1 == 1


def test_intr_is_told_to_the_processor() -> None:
    levels: list[bool] = []
    board = Board(retired=lambda: 0, on_intr=levels.append)
    for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x3FC, 0x08), (0x3F9, 0x02)):
        board.write_port(Port(port), 1, value)
    assert levels == [True]
    assert board.acknowledge() == 0x24
    assert levels == [True, False]


def test_sleep_skips_from_tick_to_tick() -> None:
    guest = Guest()
    guest.initialize_pics()
    guest.start_timer(11932)
    for tick in range(1, 200):
        assert guest.board.sleep()
        assert guest.board.clock.now() == pulse_time(1 + tick * 11932)
        assert guest.board.acknowledge() == 0x20
        guest.out(0x20, 0x20)
    assert guest.retired == 0


@pytest.mark.parametrize(
    "why", ["nothing scheduled", "masked", "in service", "controllers not initialized", "interrupt higher in service"]
)
def test_sleep_knows_when_nothing_can_wake_the_processor(why: str) -> None:
    guest = Guest()
    if why != "controllers not initialized":
        guest.initialize_pics(mask=0x01 if why == "masked" else 0)
    if why != "nothing scheduled":
        guest.start_timer(1000)
    if why == "in service":
        assert guest.board.sleep()
        guest.board.acknowledge()  # and no end of interrupt
    if why == "interrupt higher in service":
        guest.out(0x20, 0xC0)  # IR1 is highest from now on
        guest.out(0x3FC, 0x08)
        guest.out(0x3F9, 0x02)
        guest.board.acknowledge()
    now = guest.board.clock.now()
    assert not guest.board.sleep()
    assert not guest.board.can_wake()
    assert guest.board.clock.now() == now


class Watchdog:
    """A card that signals an error on the bus some time after it was told to."""

    state_type: ClassVar[type] = int

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        wiring.events.register("watchdog", wiring.peer(PortB).io_channel_check)

    def read(self, _offset: int, _size: AccessSize) -> int:
        return 0

    def write(self, _offset: int, _size: AccessSize, value: int) -> None:
        self._wiring.events.schedule("watchdog", self._wiring.clock.now() + value)

    def reset(self) -> None: ...

    def save(self) -> int:
        return 0

    def restore(self, state: int, /) -> None: ...


def test_an_nmi_wakes_a_processor_that_takes_no_interrupts() -> None:
    row = DeviceRow("watchdog", Watchdog, (range(0x300, 0x301),), raises_nmi=True)
    board = Board(lambda: 0, Hardware(devices=(*DEVICES, row)))
    edges: list[int] = []
    board.on_nmi = lambda: edges.append(board.clock.now())
    board.write_port(Port(0x300), 1, 200)
    assert not board.sleep(interrupts=False, nmi=False)
    board.write_port(Port(0x70), 1, 0x8F)  # masked: it would come, and nobody hear of it
    assert board.sleep(interrupts=False) is False
    board.write_port(Port(0x70), 1, 0x0F)
    assert board.sleep(interrupts=False)
    assert edges == [200]
    assert not board.sleep(interrupts=False)
    board.write_port(Port(0x300), 1, 50)
    assert not board.sleep(interrupts=False)  # the pin is high already: no edge
    without = Board(lambda: 0, Hardware(devices=()))
    with pytest.raises(MonitorError, match="no system control port B"):
        without.io_channel_check()


def test_console_input_interrupts_and_is_awaited_before() -> None:
    guest = Guest()
    guest.initialize_pics(mask=0x02)
    assert not guest.board.awaits_input()
    guest.out(COM1 + 1, 0x01)
    assert not guest.board.awaits_input()
    guest.out(COM1 + 4, 0x0B)
    assert guest.board.awaits_input()
    assert not guest.board.sleep()
    guest.board.input(b"ok")
    received = bytearray()
    while guest.board.sleep():
        assert guest.board.acknowledge() == 0x24
        received.append(guest.inp(COM1))
        guest.out(0x20, 0x20)
    assert received == b"ok"
    guest.out(0x21, 0x12)
    assert not guest.board.awaits_input()


def test_a_key_is_console_input_too() -> None:
    guest = Guest()
    guest.initialize_pics(mask=0xFD)
    assert guest.board.awaits_input()
    guest.board.type_keys("x")
    assert guest.board.sleep()
    assert guest.board.acknowledge() == 0x21
    assert guest.inp(0x60) == 0x2D
    guest.out(0x64, 0xAD)
    assert not guest.board.awaits_input()


def test_gates_and_resets_reach_the_driver_of_the_board() -> None:
    guest = Guest()
    told: list[bool] = []
    guest.board.on_a20 = told.append
    guest.out(0x92, 0)
    assert (told, guest.board.a20) == ([False], False)
    guest.out(0xCF9, 0x06)
    assert guest.board.ended
    assert guest.board.reset_requested
    guest.board.reset()
    assert not guest.board.ended
    assert told == [False, True]


def test_console_output_is_kept_and_told() -> None:
    told = bytearray()
    board = Board(retired=lambda: 0, on_console=told.append)
    for byte in b"hello":
        board.write_port(Port(COM1), 1, byte)
    assert board.console == told == b"hello"


def test_wide_accesses_to_byte_devices_are_split() -> None:
    guest = Guest()
    guest.out(0x20, 0x2011, size=2)  # ICW1 to 0x20, ICW2 to 0x21
    guest.out(0x21, 0x04, 0x01)
    guest.out(0x21, 0xFB)
    assert guest.inp(0x20, size=2) == 0xFB00
    assert guest.inp(0x1F, size=4) == 0xFF_FB_00_FF


def test_reset_returns_to_power_on_but_keeps_time_and_console() -> None:
    guest = Guest()
    fresh = guest.board.save()
    guest.initialize_pics(mask=0xAA)
    guest.start_timer(100)
    guest.out(0x61, 0x0F)
    guest.out(COM1 + 1, 0x0F)
    guest.out(COM1, 0x41)
    guest.execute(1_000_000)
    guest.out(0xF4, 3)
    guest.board.reset()
    assert guest.board.exit_status is None
    assert guest.board.next_deadline() is None
    assert guest.board.console == b"A"
    state = guest.board.save()
    for name in ("pic", "port-b", "com1"):
        assert state.devices[name] == fresh.devices[name]


def test_a_guest_that_probes_hardware_is_on_record() -> None:
    guest = Guest()
    assert guest.inp(0x1F7) == 0xFF
    guest.out(0x80, 1, 2, 3)
    assert [(entry.port, entry.count) for entry in guest.board.bus.unclaimed] == [(0x1F7, 1), (0x80, 3)]


PORTS: Final = [
    *(0x20, 0x21, 0xA0, 0xA1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x80),
    *range(COM1, COM1 + 8),
    0x60,
    0x64,
    *range(0x70, 0x72),
    0x92,
    *range(0x3C0, 0x3DB),
    0x4D0,
    0xCF8,
    0xCFC,
]
SIZES = st.sampled_from((1, 1, 1, 2, 4))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("out"), st.sampled_from(PORTS), SIZES, st.integers(0, 0xFFFFFFFF)),
        st.tuples(st.just("out"), st.sampled_from((0x40, 0x42)), st.just(1), st.integers(0, 20)),
        st.tuples(st.just("in"), st.sampled_from(PORTS), SIZES, st.just(0)),
        st.tuples(
            st.sampled_from(("execute", "execute", "acknowledge", "sleep", "input", "set up")),
            st.just(0),
            st.just(1),
            st.integers(1, 60_000),
        ),
    ),
    max_size=30,
)


def run(guest: Guest, steps: list[tuple[str, int, AccessSize, int]]) -> list[object]:
    """Everything that a processor can see, step by step."""
    board, seen = guest.board, list[object]()
    for step, port, size, value in steps:
        match step:
            case "out":
                guest.out(port, value & (1 << 8 * size) - 1, size=size)
            case "in":
                seen.append(guest.inp(port, size))
            case "execute":
                guest.execute(value)
            case "acknowledge":
                seen.append(board.acknowledge())
            case "sleep":
                seen.append(board.sleep())
            case "input":
                board.input(value.to_bytes(2))
            case "set up":
                guest.initialize_pics()
                guest.start_timer(value % 100 + 2, mode=value % 6)
        seen += [
            board.interrupt_pending(),
            board.next_deadline(),
            board.clock.now(),
            board.can_wake(),
            board.awaits_input(),
        ]
    return [*seen, bytes(board.console), board.exit_status, board.bus.unclaimed]


@settings(max_examples=150, deadline=None)
@given(STEPS, STEPS)
def test_a_board_restored_from_a_file_goes_on_alike(before: Any, after: Any) -> None:
    first, second = Guest(), Guest()
    run(first, before)
    second.retired = first.retired
    second.board.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.board.save()), type=BoardState))
    assert second.board.save() == first.board.save()
    assert run(first, after) == run(second, after)
    assert first.board.save() == second.board.save()


@settings(max_examples=50, deadline=None)
@given(STEPS, STEPS)
def test_going_back_in_place_and_again_gives_the_same(before: Any, after: Any) -> None:
    guest = Guest()
    run(guest, before)
    state, retired = guest.board.save(), guest.retired
    first = run(guest, after)
    guest.board.restore(state)
    guest.retired = retired
    assert run(guest, after) == first


def test_json_holds_a_snapshot_too() -> None:
    guest = Guest()
    guest.start_timer(500)
    guest.out(COM1, 0x41)
    other = Guest()
    other.board.restore(msgspec.json.decode(msgspec.json.encode(guest.board.save()), type=BoardState))
    assert other.board.save() == guest.board.save()


def test_foreign_and_damaged_snapshots_are_refused_whole() -> None:
    guest = Guest()
    guest.start_timer(500)
    state = guest.board.save()
    small = Board(retired=lambda: 0, hardware=Hardware(devices=DEVICES[:2]))
    with pytest.raises(SnapshotError, match="this one has pic, pit: restore it into a machine with the same devices"):
        small.restore(state)
    damaged = state.devices | {"com1": {"ier": "many"}}
    with pytest.raises(SnapshotError, match="state of 'com1' is damaged"):
        guest.board.restore(
            BoardState(
                skipped_ns=99,
                events={},
                devices=damaged,
                bus=state.bus,
                console=b"",
                exit_status=None,
                reset_requested=False,
            )
        )
    assert guest.board.save() == state


def test_tables_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(MonitorError, match="two devices are called 'pit'"):
        Board(retired=lambda: 0, hardware=Hardware(devices=(*DEVICES, DEVICES[1])))
    with pytest.raises(MonitorError, match="needs a Pit8254"):
        Board(retired=lambda: 0, hardware=Hardware(devices=(DEVICES[0], DEVICES[2])))
    with pytest.raises(MonitorError, match="no serial port"):
        Board(retired=lambda: 0, hardware=Hardware(devices=DEVICES[:2])).input(b"x")


def test_the_how_to_page_works_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 3
    module = ModuleType("alarm")
    monkeypatch.setitem(sys.modules, "alarm", module)
    names = vars(module)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec", dont_inherit=True), names)
    board = names["board"]
    assert isinstance(board, Board)
    board.write_port(Port(0x310), 1, 100)
    other = Board(retired=lambda: 0, hardware=Hardware(devices=(*DEVICES, names["ALARM"])))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(board.save()), type=BoardState)
    other.restore(state)
    assert other.save() == board.save()
    assert other.next_deadline() == board.next_deadline() is not None
