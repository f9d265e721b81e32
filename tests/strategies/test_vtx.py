"""The strategy vtx: a guest in non-root mode is the guest on bare metal, instruction by instruction."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

import msgspec
import pytest

from simvirt.guests import catalogue
from simvirt.guests.flat import flat_image
from simvirt.machine.machine import Outcome
from simvirt.strategies.bare_metal import BareMetal
from simvirt.strategies.strategy import MachineConfig, Virtualized
from simvirt.strategies.vtx.controls import VMM_MEMORY
from simvirt.strategies.vtx.processor import VtxProcessor, VtxSnapshot
from simvirt.strategies.vtx.strategy import Vtx
from simvirt.vmm.exit_log import Disposition, ExitRecord, Intervention
from simvirt.x86.cpuid import find_cpu_model
from simvirt.x86.vmx import CrAccess, EptViolation, ExitReason, IoInstruction, VmcsField

CONFIG: Final = MachineConfig(4 << 20, find_cpu_model("core2"))
GUESTS: Final = ("hello", "rings", "ticker", "faults", "popf-mask", "sensitive", "triple-fault")
LIMIT: Final = 2_100_000


def vtx(code: bytes | str, config: MachineConfig = CONFIG) -> Virtualized:
    image = flat_image(code, "test") if isinstance(code, bytes) else catalogue.find(code).image()
    return Vtx().build(image, config)


def bare(code: bytes | str, config: MachineConfig = CONFIG) -> Virtualized:
    image = flat_image(code, "test") if isinstance(code, bytes) else catalogue.find(code).image()
    return BareMetal().build(image, config)


def traced(guest: bytes | str) -> tuple[Virtualized, list[ExitRecord]]:
    virtualized = vtx(guest)
    records: list[ExitRecord] = []
    virtualized.log.listener = records.append
    return virtualized, records


def assert_same(a: Virtualized, b: Virtualized) -> None:
    assert a.machine.count == b.machine.count
    assert b.machine.processor.guest_state().differences(a.machine.processor.guest_state()) == []
    assert a.machine.board.console == b.machine.board.console


# ------------------------------------------------------------------------------------------------ equivalence


@pytest.mark.parametrize("name", GUESTS)
def test_the_catalogue_runs_as_on_bare_metal(name: str) -> None:
    virtual, real = vtx(name), bare(name)
    assert virtual.machine.run(LIMIT) is real.machine.run(LIMIT)
    assert_same(virtual, real)
    assert virtual.machine.board.exit_status == real.machine.board.exit_status
    assert bytes(virtual.machine.board.console).decode() == catalogue.find(name).console


@pytest.mark.parametrize("name", GUESTS)
def test_the_state_is_the_same_wherever_the_run_stops(name: str) -> None:
    virtual, real = vtx(name), bare(name)
    length = bare(name)
    length.machine.run(LIMIT)
    numbers = random.Random(name)
    stops = sorted(numbers.sample(range(1, length.machine.count), min(150, length.machine.count - 1)))
    for stop in [*stops, length.machine.count]:
        virtual.machine.run_to(stop)
        real.machine.run_to(stop)
        assert virtual.machine.count == stop
        assert_same(virtual, real)


@pytest.mark.parametrize("name", ["ticker", "popf-mask", "rings"])
def test_exits_do_not_depend_on_where_a_run_stops(name: str) -> None:
    whole, expected = traced(name)
    whole.machine.run(LIMIT)
    parts, records = traced(name)
    numbers = random.Random(7)
    at = 0
    while parts.machine.run_to(at) is None and at < LIMIT:
        at += numbers.randrange(1, 1 + max(1, whole.machine.count // 400))
    assert records == expected
    assert parts.log.counts == whole.log.counts


@pytest.mark.parametrize("reason", [ExitReason.INTERRUPT_WINDOW, ExitReason.EXTERNAL_INTERRUPT])
def test_nor_if_it_stops_right_where_an_exit_would_be(reason: ExitReason) -> None:
    whole, expected = traced("popf-mask")
    whole.machine.run(LIMIT)
    parts, records = traced("popf-mask")
    stops = [record.instruction for record in expected if record.reason is reason]
    assert stops
    for stop in stops:
        parts.machine.run_to(stop)
    parts.machine.run(LIMIT)
    assert records == expected


@pytest.mark.parametrize("name", ["ticker", "popf-mask"])
def test_a_run_goes_on_from_a_snapshot(name: str) -> None:
    whole, expected = traced(name)
    whole.machine.run(LIMIT)
    for stop in (whole.machine.count // 3, whole.machine.count // 2):
        first, early = traced(name)
        first.machine.run_to(stop)
        saved = first.machine.save()
        second, late = traced(name)
        second.machine.restore(saved)
        second.machine.run(LIMIT)
        assert_same(second, whole)
        assert [(r.instruction, r.reason, r.rip) for r in early + late] == [
            (r.instruction, r.reason, r.rip) for r in expected
        ]


def test_the_processors_snapshot_is_a_plain_value() -> None:
    virtual = vtx("hello")
    virtual.machine.run_to(100)
    saved = virtual.machine.processor.save()
    assert isinstance(saved, VtxSnapshot)
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(saved), type=VtxSnapshot)
    assert decoded == saved


ORIGIN: Final = 0x100000
RESUME: Final = 0x180000
_PIECES: Final = """
01d8 29c3 31d2f7f1 50 5b 9c 9d 0f20c0 0f20e0 0fa2 0f31 0f01e0 e461 e680 0f0b cc cd21 fa fb fb0fa2
0f08 0f01c1 a100000b00 a300000b00 40 49 8cc8 0f02c0 f8 f390 b9800000c00f32 b9740100000f30 0f06
0f20c035080000600f22c0 0f22e0 0f22d8 0f01f0 0f23f8 b905000000bf00001900ba61000000f36c
b903000000baf8030000f36e b964000000e2fe 8ed8 66b810008ed040 9c580d00010000509d4040 fbf4 0f00c8
0f010500001900 cd80
"""
PIECES: Final = tuple(bytes.fromhex(piece) for piece in _PIECES.split())
"""Arithmetic, flags, single steps, control registers, ports, CPUID, RDTSC, faults, holes, VMX, sleep: what a VMM has
to do with."""


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _program(numbers: random.Random) -> bytes:
    """Pieces at random, with an IDT whose one handler goes on behind the piece, and a timer that interrupts."""
    gate = ((ORIGIN + 0x400) & 0xFFFF | 8 << 16 | 0x8E00 << 32 | (ORIGIN + 0x400) >> 16 << 48).to_bytes(8, "little")
    tables = (0).to_bytes(8, "little") + bytes.fromhex("ffff0000009bcf00ffff00000093cf00")
    setup = b"".join(
        (
            b"\x0f\x01\x15" + _u32(ORIGIN + 0x500),  # lgdt
            b"\x0f\x01\x1d" + _u32(ORIGIN + 0x506),  # lidt
            b"".join(b"\xb0" + bytes([value]) + b"\xe6" + bytes([port]) for port, value in _DEVICES),
            b"\xe9" + _u32(0),
        )
    )
    handler = b"\x50\xb0\x20\xe6\x20\x58" + b"\xbc" + _u32(0x80000) + b"\xff\x25" + _u32(RESUME)
    body = b""
    start = ORIGIN + 0x1000
    for _ in range(80):
        piece = numbers.choice(PIECES)
        body += b"\xc7\x05" + _u32(RESUME) + _u32(start + len(body) + 10 + len(piece)) + piece
    image = bytearray(0x1000 + len(body) + 1)
    image[: len(setup)] = setup[:-4] + _u32(0x1000 - len(setup))
    image[0x400 : 0x400 + len(handler)] = handler
    image[0x500:0x506] = (23).to_bytes(2, "little") + _u32(ORIGIN + 0x600)
    image[0x506:0x50C] = (0x7FF).to_bytes(2, "little") + _u32(ORIGIN + 0x700)
    image[0x600 : 0x600 + len(tables)] = tables
    image[0x700:0xF00] = gate * 256
    image[0x1000 : 0x1000 + len(body)] = body
    image[-1] = 0xF4
    return bytes(image)


_DEVICES: Final = (
    (0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x01), (0x21, 0xFE), (0x43, 0x34), (0x40, 0x20), (0x40, 0x00),
)  # fmt: skip
"""PIC to vector 20H with only the timer let through; PIT every 32 ticks, some 27 microseconds of virtual time."""


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_run_as_on_bare_metal(seed: int) -> None:
    """Step by step for a while, then in strides."""
    numbers = random.Random(seed)
    program = _program(numbers)
    virtual, real = vtx(program), bare(program)
    stop = 0
    while real.machine.outcome is None and stop < 60_000:
        stop += 1 if stop < 150 else numbers.randrange(1, 400)
        assert virtual.machine.run_to(stop) is real.machine.run_to(stop)
        assert_same(virtual, real)


# ------------------------------------------------------------------------------------------------ what the VMM does


def test_guest_memory_is_not_host_memory() -> None:
    """Guest-physical 1 MiB lies elsewhere, and the VMM's pages are out of reach."""
    virtual = vtx(b"\xc7\x05\x00\x20\x10\x00\x78\x56\x34\x12\xf4")  # mov dword [0x102000], 0x12345678; hlt
    before = bytes(virtual.machine.memory.view[:VMM_MEMORY])
    assert virtual.machine.run() is Outcome.HALTED
    host = VMM_MEMORY + 0x102000
    assert bytes(virtual.machine.memory.view[host : host + 4]) == b"\x78\x56\x34\x12"
    assert bytes(virtual.machine.memory.view[:VMM_MEMORY]) == before


def test_cpuid_is_answered_with_the_vms_model() -> None:
    virtual = vtx(b"\x31\xc0\x0f\xa2\xf4", MachineConfig(4 << 20, find_cpu_model("pentium")))  # cpuid leaf 0
    virtual.machine.run()
    assert virtual.machine.processor.guest_state().general[0] == 1
    assert virtual.log.counts == Counter({ExitReason.CPUID: 1, ExitReason.HLT: 1})
    assert virtual.log.emulated_instructions == 2
    assert virtual.log.interventions[Intervention.EMULATED] == 2


def test_cli_popf_and_paging_do_not_exit() -> None:
    """What trap-and-emulate lives on is the guest's own business here."""
    code = b"\xfa\x9c\x9d\x0f\x20\xd8\x0f\x22\xd8\x0f\x01\x05\x00\x90\x00\x00\x0f\x01\xe0\x0f\x31"
    virtual = vtx(code + b"\xf4")
    assert virtual.machine.run() is Outcome.HALTED
    assert virtual.log.counts == Counter({ExitReason.HLT: 1})


def test_cr0_cd_belongs_to_the_vmm() -> None:
    """The guest turns its cache off and sees that; the processor's CR0 does not change."""
    code = b"\x0f\x20\xc0\x0d\x00\x00\x00\x40\x0f\x22\xc0\x31\xc0\x0f\x20\xc0\xf4"
    virtual, records = traced(code)
    real = bare(code)
    assert virtual.machine.run() is real.machine.run()
    assert_same(virtual, real)
    assert virtual.machine.processor.guest_state().general[0] == 0x40000011
    assert virtual.cpu.state.cr0 == 0x11
    assert records[0].reason is ExitReason.CR_ACCESS
    assert isinstance(records[0].qualification, CrAccess)
    assert "bit 30 (CD) is 1 in the CR0 guest/host mask" in records[0].cause.why


def test_cr4_vmxe_is_hidden() -> None:
    code = b"\x0f\x20\xe0\xf4"  # mov eax, cr4
    virtual = vtx(code)
    virtual.machine.run()
    assert virtual.cpu.state.cr4 == 0x2000
    assert virtual.machine.processor.guest_state().general[0] == 0
    assert virtual.machine.processor.guest_state().control[3] == 0


def test_an_interrupt_waits_for_its_window() -> None:
    virtual, records = traced("popf-mask")
    virtual.machine.run(LIMIT)
    window = next(r for r in records if r.reason is ExitReason.INTERRUPT_WINDOW)
    assert window.intervention is Intervention.EVENT
    assert "interrupt-window exiting" in window.cause.why
    assert virtual.log.counts[ExitReason.EXTERNAL_INTERRUPT] > 0


def test_native_rdtsc_shows_guest_time() -> None:
    """After sleep the TSC offset makes the counter what the bare PC's shows: `ticker` prints nothing else, so compare
    states."""
    virtual, real = vtx("ticker"), bare("ticker")
    virtual.machine.run()
    real.machine.run()
    processor = virtual.machine.processor
    assert isinstance(processor, VtxProcessor)
    assert processor.vcpu.vmcs.read(VmcsField.TSC_OFFSET) == virtual.machine.board.clock.skipped > 0
    assert_same(virtual, real)


def test_ctrl_c_stops_and_the_run_goes_on() -> None:
    virtual = vtx("hello")
    virtual.machine.request_stop()
    assert virtual.machine.run() is Outcome.INTERRUPTED
    virtual.machine.resume()
    assert virtual.machine.run() is Outcome.FINISHED


# ------------------------------------------------------------------------------------------------ resource control


@pytest.mark.parametrize(
    ("code", "resource", "disposition"),
    [
        (b"\xe4\x80\xf4", "IN port 0x80, 1 byte", Disposition.ABSORBED),
        (b"\xa3\x00\x00\x0b\x00\xf4", "guest-physical address 0xb0000 (write)", Disposition.ABSORBED),
        (b"\xb9\x00\x00\x00\x40\x0f\x32", "RDMSR MSR 0x40000000", Disposition.DENIED),
        (b"\x0f\x01\xc4", "VMXOFF: VMX operation of the host", Disposition.DENIED),
    ],
)
def test_attempts_to_reach_what_was_not_given(code: bytes, resource: str, disposition: Disposition) -> None:
    virtual, real = vtx(code), bare(code)
    assert virtual.machine.run(1000) is real.machine.run(1000)
    assert_same(virtual, real)
    assert [(a.resource, a.disposition) for a in virtual.log.attempts[:1]] == [(resource, disposition)]


def test_a_fetch_from_nowhere_is_undefined_as_on_the_bus() -> None:
    code = b"\xb8\x00\x00\x0b\x00\xff\xe0"  # jmp 0xb0000
    virtual, real = vtx(code), bare(code)
    assert virtual.machine.run(1000) is real.machine.run(1000)
    assert_same(virtual, real)


# ------------------------------------------------------------------------------------------------ causes


def test_an_io_exit_names_its_bitmap_bit() -> None:
    virtual, records = traced("hello")
    virtual.machine.run()
    first = next(r for r in records if isinstance(r.qualification, IoInstruction) and r.qualification.port == 0x3F8)
    assert "OUT port 0x3f8" in first.cause.what
    assert "bit 0x3f8 of I/O bitmap A" in first.cause.why
    assert first.cause.source == "SDM Vol. 3C §26.1.3"
    assert first.number == records.index(first) + 1
    assert first.code[0] in (0xEE, 0xE6)
    assert first.bits == 32


def test_an_ept_violation_says_where() -> None:
    virtual, records = traced(b"\xa1\x00\x00\x0b\x00\xf4")
    virtual.machine.run()
    assert isinstance(records[0].qualification, EptViolation)
    assert records[0].cause.what == "read of guest-physical 0xb0000 at linear address 0xb0000"


def test_every_record_is_in_order_and_counted() -> None:
    virtual, records = traced("sensitive")
    virtual.machine.run()
    assert [r.number for r in records] == list(range(1, len(records) + 1))
    assert virtual.log.counts == Counter(r.reason for r in records)
    assert virtual.log.total == len(records)
    assert [r.instruction for r in records] == sorted(r.instruction for r in records)
