"""What a repeated string instruction counts: its iterations, and the test that finds nothing left to do.

As docs/counting.md has it

::

    n iterations until the count is 0                             n + 1
    no iteration, since the count is 0                            1
    ended by ZF after k iterations                                k
    single-stepped by TF, or in an interrupt shadow: n, n > 0     n
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from simvirt.machine.machine import Machine
from simvirt.x86.addresses import Gpa
from tests.support import program_frame as frame
from tests.support.exactness import STRATEGIES, build, difference, snapshot
from tests.support.program_pieces import Body, Feature
from tests.support.programs import assemble

_OPERATIONS = {"MOVSB": "a4", "MOVSD": "a5", "STOSB": "aa", "STOSD": "ab", "LODSB": "ac", "LODSD": "ad", "OUTSB": "6e"}
_COUNTS = (0, 1, 2, 17)
_STI, _MOV_SS, _POP_SS = "fb", "8ed3", "6a10 17"
_SET_TF, _CLEAR_TF = "9c 804c240101 9d", "9c 80642401fe 9d"
_BEHIND = 0x90


@dataclass(frozen=True, slots=True)
class _Case:
    """A repeated instruction with ECX = `count`, right behind `before`."""

    instruction: str
    count: int
    before: str = ""
    accumulator: int = 0
    fill: bytes = b""


def _counted(case: _Case, strategy: str) -> tuple[int, Machine]:
    """What the instruction counts in single steps, and the machine behind it after one run, which must be the same."""
    places: list[int] = []

    def body(b: Body) -> None:
        for i in range(0, len(case.fill), 4):
            b.store(frame.DATA + 0x800 + i, int.from_bytes(case.fill[i : i + 4], "little"))
        b.load(6, frame.DATA + 0x100)
        b.load(7, frame.DATA + 0x800)
        b.load(0, case.accumulator)
        b.load(1, case.count)
        b.load(2, 0x80)
        b.load(3, frame.KERNEL_DATA)
        b.a.emit(case.before)
        places.append(b.a.here)
        b.a.emit(case.instruction)
        places.append(b.a.here)
        b.a.emit(_CLEAR_TF)

    image = assemble("string", body, Feature(0), random.Random(0)).image()
    at, behind = places
    stepped = build(image, strategy).machine
    counted = 0
    while (rip := stepped.processor.guest_state().rip) != behind:
        assert stepped.step() is None
        counted += rip == at
    free = build(image, strategy).machine
    free.run_to(stepped.count)
    assert not difference(snapshot(stepped), snapshot(free))
    return counted, free


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", _COUNTS)
@pytest.mark.parametrize("operation", _OPERATIONS)
def test_a_count_that_runs_out(operation: str, count: int, strategy: str) -> None:
    counted, machine = _counted(_Case("f3" + _OPERATIONS[operation], count), strategy)
    assert counted == count + 1
    assert machine.processor.guest_state().general[1] == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", _COUNTS)
@pytest.mark.parametrize("before", [_STI, _MOV_SS, _POP_SS])
@pytest.mark.parametrize("operation", ["MOVSB", "OUTSB"])
def test_in_an_interrupt_shadow(operation: str, before: str, count: int, strategy: str) -> None:
    """The shadow lasts until the instruction is done."""
    counted, _ = _counted(_Case("f3" + _OPERATIONS[operation], count, before), strategy)
    assert counted == max(count, 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", _COUNTS)
@pytest.mark.parametrize("operation", ["MOVSB", "STOSD", "OUTSB"])
def test_single_stepped_by_tf(operation: str, count: int, strategy: str) -> None:
    """Each iteration traps, the last one behind the instruction (SDM Vol. 3B §17.3.1.4)."""
    counted, machine = _counted(_Case("f3" + _OPERATIONS[operation], count, _SET_TF), strategy)
    assert counted == max(count, 1)
    steps = int.from_bytes(machine.read_physical(Gpa(frame.STEPS), 4), "little")
    assert steps == max(count, 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("found", [0, 1, 4])
@pytest.mark.parametrize("before", ["", _STI, _SET_TF])
def test_ended_by_the_zero_flag(before: str, found: int, strategy: str) -> None:
    """REPNE SCASB finds its byte in iteration `found` + 1."""
    fill = (b"\1" * found + b"\7").ljust(8, b"\1")
    counted, machine = _counted(_Case("f2ae", 8, before, accumulator=7, fill=fill), strategy)
    assert counted == found + 1
    assert machine.processor.guest_state().general[1] == 8 - found - 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_time_stamp_counter_tells_the_same(strategy: str) -> None:
    """The guest itself can count: RDTSC before and behind."""

    def body(b: Body) -> None:
        for i, count in enumerate(_COUNTS):
            b.load(7, frame.DATA + 0x800)
            b.a.emit("0f31 89c3").emit("b9", count.to_bytes(4, "little")).emit("f3aa 0f31 29d8 a3")
            b.a.emit((frame.VARIABLES + 0x800 + 4 * i).to_bytes(4, "little"))

    machine = build(assemble("time", body).image(), strategy).machine
    machine.run()
    data = machine.read_physical(Gpa(frame.VARIABLES + 0x800), 4 * len(_COUNTS))
    differences = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    around = 3  # the first RDTSC itself, MOV, MOV
    assert [d - around for d in differences] == [count + 1 for count in _COUNTS]
