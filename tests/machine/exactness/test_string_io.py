"""INS and OUTS at a port that the program may not access, on every strategy."""

from __future__ import annotations

import pytest

from simvirt.machine.machine import Machine
from simvirt.x86.addresses import Gpa
from tests.support import program_frame as frame
from tests.support.assembler import d32
from tests.support.exactness import STRATEGIES, build
from tests.support.program_pieces import Body
from tests.support.programs import assemble

_RESULT = frame.VARIABLES + 0x800


def _doubleword(machine: Machine, address: int) -> int:
    return int.from_bytes(machine.read_physical(Gpa(address), 4), "little")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_ins_that_is_not_permitted_stores_nothing(strategy: str) -> None:
    def body(b: Body) -> None:
        a = b.a
        b.store(_RESULT, 0x11223344)
        a.emit("8925", d32(frame.SAVED_ESP)).emit("8925", d32(frame.TSS + 4))
        a.address(f"c705{d32(frame.USER_RETURN).hex()}", "back")
        b.resume_at("resume")
        a.emit("6a23 68", d32(frame.USER_STACK)).emit("6a02 6a1b")
        a.address("68", "user")
        a.emit("cf")
        a.label("user")
        b.load(7, _RESULT)
        a.emit("66baf803 6c")
        a.label("resume")
        a.emit("cd", bytes([frame.LEAVE_USER]))
        a.label("back")

    machine = build(assemble("ins", body).image(), strategy).machine
    machine.run()
    assert _doubleword(machine, frame.FAULTS) == 1
    assert _doubleword(machine, _RESULT) == 0x11223344
