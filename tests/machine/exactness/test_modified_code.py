"""Code that is written runs as it was written, whichever address it was written through and whoever wrote it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from simvirt.guests.image import GuestImage
from simvirt.machine.machine import Machine
from simvirt.x86.addresses import Gpa
from tests.support import program_frame as frame
from tests.support.assembler import Assembler, d32
from tests.support.exactness import STRATEGIES, build, difference, snapshot, steps
from tests.support.program_pieces import Body, Feature
from tests.support.programs import assemble, flat_image

_PAGED_STRATEGIES = ("bare-metal", "vtx")
_RESULTS = frame.VARIABLES + 0x800
_ROUTINE = frame.ROUTINES + 0x800
_ALIAS = frame.WINDOW + 0x800


def _results(machine: Machine, count: int) -> list[int]:
    data = machine.read_physical(Gpa(_RESULTS), 4 * count)
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, 4 * count, 4)]


def _run(image: GuestImage, strategy: str) -> Machine:
    """Run to the end, and see that single steps find the same."""
    machine = build(image, strategy).machine
    machine.run(100_000)
    assert machine.board.exit_status == 42
    stepped = build(image, strategy).machine
    assert not difference(steps(stepped, 100_000)[-1], snapshot(machine))
    return machine


def _write_routine(b: Body, address: int, value: int) -> None:
    """Put MOV EAX, value; RET at an address."""
    b.store(address, 0xB8 | (value & 0xFFFFFF) << 8)
    b.store(address + 4, value >> 24 | 0xC3 << 8)


def _call_and_keep(b: Body, address: int, result: int) -> None:
    b.load(3, address)
    b.a.emit("ffd3 a3", d32(_RESULTS + 4 * result))


def _in_ring_3(b: Body, address: int, result: int) -> None:
    """Call a routine in ring 3 and keep what it returns."""
    user, back = b.a.fresh("user"), b.a.fresh("back")
    b.a.emit("8925", d32(frame.SAVED_ESP)).emit("8925", d32(frame.TSS + 4))
    b.a.address(f"c705{d32(frame.USER_RETURN).hex()}", back)
    b.a.emit("6a23 68", d32(frame.USER_STACK)).emit("6a02 6a1b")
    b.a.address("68", user)
    b.a.emit("cf")
    b.a.label(user)
    _call_and_keep(b, address, result)
    b.a.emit("cd", bytes([frame.LEAVE_USER]))
    b.a.label(back)


@pytest.mark.parametrize("strategy", _PAGED_STRATEGIES)
@pytest.mark.parametrize(
    ("written", "run"), [(_ROUTINE, _ALIAS), (_ALIAS, _ROUTINE), (_ALIAS, _ALIAS), (_ROUTINE, _ROUTINE)]
)
def test_a_loader_writes_through_one_address_and_ring_3_runs_through_another(
    written: int, run: int, strategy: str
) -> None:
    def body(b: Body) -> None:
        for i in range(4):
            _write_routine(b, written, 0x1000 + i)
            _in_ring_3(b, run, i)

    machine = _run(assemble("loader", body, Feature.PAGING).image(), strategy)
    assert _results(machine, 4) == [0x1000, 0x1001, 0x1002, 0x1003]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_kernel_writes_what_ring_3_has_run_at_the_same_address(strategy: str) -> None:
    def body(b: Body) -> None:
        for i in range(3):
            _write_routine(b, _ROUTINE, 0x2000 + i)
            _in_ring_3(b, _ROUTINE, i)
            _call_and_keep(b, _ROUTINE, 3 + i)

    machine = _run(assemble("kernel", body).image(), strategy)
    assert _results(machine, 6) == [0x2000, 0x2001, 0x2002] * 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_host_writes_code_that_has_run(strategy: str) -> None:
    """A loader or a device writes from outside, in the middle of the loop that runs the code."""

    def body(b: Body) -> None:
        _write_routine(b, _ROUTINE, 1)

        def call_and_add() -> None:
            b.load(3, _ROUTINE)
            b.a.emit("ffd3 0105", d32(_RESULTS))

        b.looped(50, call_and_add)

    machine = build(assemble("host", body).image(), strategy).machine
    total, calls = 0, 0
    while machine.outcome is None:
        if machine.processor.guest_state().rip == _ROUTINE:
            calls += 1
            machine.write_physical(Gpa(_ROUTINE + 1), d32(calls * calls))
            total += calls * calls
        machine.step()
    assert calls == 50
    assert _results(machine, 1) == [total]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("code", ["f3a4", "f3a5", "fd f3a4 fc"])
def test_rep_movs_fills_the_page_that_execution_runs_into(code: str, strategy: str) -> None:
    """The copying instruction is the last of its page; what it copies is what comes next."""
    new = bytes.fromhex("bb 44 33 22 11 40 40 40 40 43")

    def body(b: Body) -> None:
        a = b.a
        a.emit("31c0")
        edge = (a.here | 0xFFF) + 1
        for i in range(0, 12, 4):
            b.store(frame.DATA + i, int.from_bytes(new.ljust(12, b"\x90")[i : i + 4], "little"))
        backwards = code.startswith("fd")
        b.load(6, frame.DATA + (11 if backwards else 0))
        b.load(7, edge + (11 if backwards else 0))
        b.load(1, 3 if code == "f3a5" else 12)
        instruction = bytes.fromhex(code)
        a.jump("e9", "copy")
        a.pad_to(edge - len(instruction.rstrip(b"\xfc")))
        a.label("copy")
        a.emit(instruction.rstrip(b"\xfc"))
        assert a.here == edge
        a.emit(b"\xf4" * 12)
        a.emit("fc a3", d32(_RESULTS)).emit("891d", d32(_RESULTS + 4))

    machine = _run(assemble("fill", body).image(), strategy)
    assert _results(machine, 2) == [4, 0x11223345]


@dataclass(frozen=True, slots=True)
class _Mode:
    """A mode of paging that has execute-disable."""

    name: str
    long: bool


_MODES = [_Mode("PAE", long=False), _Mode("IA-32e", long=True)]
_NX_ALIAS = 0x200000
"""All of the first 2 MiB once more, writable and not executable: a kernel's direct map."""
_TABLES = 0x60000


def _entry(address: int, flags: int) -> bytes:
    """A paging-structure entry of eight bytes."""
    return (address | flags).to_bytes(8, "little")


def _execute_disable_image(mode: _Mode, body: Callable[[Assembler], None]) -> GuestImage:
    """A program in ring 0 with PAE tables, 32-bit or 64-bit.

    Code is the same in both as long as it uses no direct addresses.
    """
    a = Assembler(frame.CODE)
    pdpt, directory, identity, alias, pml4 = (_TABLES + 0x1000 * i for i in range(5))
    a.emit("b8", d32(pml4 if mode.long else pdpt)).emit("0f22d8 0f20e0 83c820 0f22e0")
    a.emit("b9800000c0 0f32 0d", d32(0x900 if mode.long else 0x800)).emit("0f30")
    a.emit("0f20c0 0d00000180 0f22c0")
    if mode.long:
        a.emit("0f0115", d32(_TABLES + 0x5008))
        a.address("ea", "wide", b"\x08\x00")
        a.label("wide")
    a.emit("bc", d32(frame.KERNEL_STACK))
    body(a)
    a.emit("b02a e6f4")
    memory = bytearray(frame.END - frame.CODE)
    contents = {
        frame.CODE: a.finish(),
        pdpt: _entry(directory, 7 if mode.long else 1),
        directory: _entry(identity, 7) + _entry(alias, 7),
        identity: b"".join(_entry(page << 12, 3) for page in range(512)),
        alias: b"".join(_entry(page << 12, 1 << 63 | 3) for page in range(512)),
        pml4: _entry(pdpt, 7),
        _TABLES + 0x5000: bytes(8) + (23).to_bytes(2, "little") + _entry(_TABLES + 0x5018, 0)[:6] + bytes(8)
        + bytes(8) + frame.descriptor(0, 0, 0x9A, 0x2) + frame.descriptor(0, 0xFFFFF, 0x92, 0xC),
    }  # fmt: skip
    for at, data in contents.items():
        memory[at - frame.CODE : at - frame.CODE + len(data)] = data
    return flat_image("execute-disable", bytes(memory), frame.CODE, frame.CODE)


@pytest.mark.parametrize("strategy", _PAGED_STRATEGIES)
@pytest.mark.parametrize("mode", _MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("offset", [0x800, 0xFFE], ids=["inside", "across pages"])
def test_code_is_written_through_a_mapping_that_cannot_execute(offset: int, mode: _Mode, strategy: str) -> None:
    """Many times in one run: call the routine, add up what it returns, count its immediate up through the alias."""
    routine = frame.ROUTINES + offset
    times = 150

    def body(a: Assembler) -> None:
        a.emit("bf", d32(routine)).emit("bb", d32(_RESULTS)).emit("bd", d32(_NX_ALIAS + routine + 1))
        a.emit("c7450001000000 c645ffb8 c64504c3")
        a.emit("be", d32(times))
        a.label("again")
        a.emit("ffd7 0103 ff4500 ffce")
        a.jump("0f85", "again")

    machine = _run(_execute_disable_image(mode, body), strategy)
    assert _results(machine, 1) == [times * (times + 1) // 2]


@pytest.mark.parametrize("strategy", _PAGED_STRATEGIES)
@pytest.mark.parametrize("mode", _MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("repeated", [False, True])
def test_code_overwrites_its_own_page_through_a_mapping_that_cannot_execute(
    repeated: bool, mode: _Mode, strategy: str
) -> None:
    """The writing instruction and what it writes lie in the same page, the one right behind the other."""
    times = 100

    def body(a: Assembler) -> None:
        a.emit("bb", d32(_RESULTS))
        a.emit("be", d32(times))
        a.emit("31d2")
        a.label("again")
        a.emit("ffc2")
        a.address("bf", "immediate", addend=_NX_ALIAS)
        if repeated:
            a.emit("b902000000 89d0 f366ab")
        else:
            a.emit("8917")
        a.emit("b8")
        a.label("immediate")
        a.emit("00000000 0103 ffce")
        a.jump("0f85", "again")

    machine = _run(_execute_disable_image(mode, body), strategy)
    total = times * (times + 1) // 2
    assert _results(machine, 1) == [(total | total << 16) & 0xFFFFFFFF if repeated else total]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_overwritten_in_the_running_block_is_counted_once(strategy: str) -> None:
    """One instruction becomes five in the block that runs; the count follows."""

    def body(b: Body) -> None:
        a = b.a
        a.label("patch")
        a.address("c705", "here", d32(0x40404040))
        a.address("c605", "here", b"\x40", addend=4)
        a.label("here")
        a.emit("0500000000")
        a.label("after")

    program = assemble("count", body, Feature(0), random.Random(1))
    machine = build(program.image(), strategy).machine
    while machine.processor.guest_state().rip != program.body:
        machine.step()
    before = machine.count
    machine.run()
    free = machine.count - before
    # two stores, five increments, JMP end, CLI, MOV AL, OUT
    assert free == 2 + 5 + 1 + 3
