"""The engine's deviations (docs/deviations.md): each test fails when its deviation is gone."""

from __future__ import annotations

import random

import pytest

from simvirt.machine.machine import Machine
from simvirt.x86.addresses import Gpa
from tests.support import program_frame as frame
from tests.support.assembler import d32
from tests.support.exactness import STRATEGIES, build
from tests.support.program_pieces import Body, Feature
from tests.support.programs import assemble

_RESULT = frame.VARIABLES + 0x800


def _doubleword(machine: Machine, address: int) -> int:
    return int.from_bytes(machine.read_physical(Gpa(address), 4), "little")


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
def test_a_restored_machine_sets_accessed_flags_anew(strategy: str) -> None:
    entry = frame.DIRECTORIES[0] + 0x2000
    places: list[int] = []

    def body(b: Body) -> None:
        a = b.a
        a.emit("a1", d32(frame.WINDOW + 0x300))
        a.emit("8025", d32(entry), b"\xdf")
        places.append(a.here)
        a.emit("a1", d32(frame.WINDOW + 0x300)).emit("a1", d32(entry)).emit("a3", d32(_RESULT))

    program = assemble("accessed", body, Feature.PAGING, random.Random(0))
    machine = build(program.image(), strategy).machine
    while machine.processor.guest_state().rip != places[0]:
        machine.step()
    state = machine.save()
    machine.run()
    assert not _doubleword(machine, _RESULT) & 0x20
    machine.restore(state)
    machine.run()
    assert _doubleword(machine, _RESULT) & 0x20


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "code", ["0fbae303", "0fbaeb03", "0fbaf303", "0fbafb03", "0fa3cb", "0fabcb", "0fb3cb", "0fbbcb"]
)
@pytest.mark.parametrize("flags", [0x000, 0x8D4, 0x810, 0x0C4])
def test_bit_tests_keep_the_other_flags(flags: int, code: str, strategy: str) -> None:
    """Behind an instruction that the translator knows the flags of, in the same block: the case that was wrong."""

    def body(b: Body) -> None:
        b.load(3, 0x80000008)
        b.load(1, 3)
        b.load(2, flags | 2)
        b.a.emit("52 9d")
        b.a.emit({0x000: "0ce0 3cff", 0x8D4: "b801000080 83e801", 0x810: "b800000080 83e801", 0x0C4: "31c0"}[flags])
        b.a.emit("9c 5e").emit(code).emit("9c 5f")
        b.a.emit("8935", d32(_RESULT)).emit("893d", d32(_RESULT + 4))

    machine = build(assemble("bits", body).image(), strategy).machine
    machine.run()
    before, after = _doubleword(machine, _RESULT), _doubleword(machine, _RESULT + 4)
    assert (before ^ after) & 0x8D4 == 0
    assert after & 1 == 1
