"""An NMI at the same instruction under every strategy leads to the same state, and is blocked alike."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from simvirt.machine import snapshot
from simvirt.machine.devices.port_b import IO_CHANNEL_CHECK_DISABLED, IO_CHANNEL_ERROR
from simvirt.machine.machine import Machine, Outcome
from simvirt.x86.addresses import Gpa, Port
from tests.support import program_frame as frame
from tests.support.code import code
from tests.support.exactness import build, features_for, identity
from tests.support.program_pieces import Body
from tests.support.programs import Program, assemble, generate

STRATEGIES = ("bare-metal", "vtx", "trap-and-emulate")
NMIS = 12


def machine_of(program: Program, strategy: str) -> Machine:
    return build(program.image(), strategy).machine


def program_of(listing: str) -> Program:
    """A kernel whose body is `listing`; its handler of vector 2 counts in FAULTS and resumes at the end."""

    def body(b: Body) -> None:
        b.a.emit(code(listing))

    return assemble("nmi", body)


def run_to_offset(machine: Machine, program: Program, offset: int) -> None:
    """Step to this offset in the program's body."""
    while machine.processor.guest_state().rip != program.body + offset:
        machine.step()


def signal(machine: Machine) -> None:
    """An error on the bus. Nobody clears it in the guest, so the check is disabled and enabled again for it."""
    for value in (IO_CHANNEL_CHECK_DISABLED, 0):
        machine.board.write_port(Port(0x61), 1, value)
    machine.board.io_channel_check()


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_with_nmis_run_alike(seed: int) -> None:
    program = generate(seed, features_for("trap-and-emulate"))
    length = machine_of(program, "bare-metal")
    length.run(60_000)
    numbers = random.Random(seed)
    moments = sorted(numbers.randrange(40, length.count) for _ in range(NMIS))
    reference, *others = [machine_of(program, strategy) for strategy in STRATEGIES]
    for moment in [*moments, 60_000]:
        reference.run_to(moment)
        expected = reference.processor.guest_state()
        for machine in others:
            machine.run_to(moment)
            assert (machine.count, machine.outcome) == (reference.count, reference.outcome)
            assert expected.differences(machine.processor.guest_state()) == []
        for machine in (reference, *others):
            if machine.outcome is None:
                signal(machine)
    assert reference.read_physical(Gpa(frame.FAULTS), 4) != bytes(4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_snapshot_holds_a_pending_and_a_blocked_nmi(strategy: str, tmp_path: Path) -> None:
    program = program_of("90 ; nop\n" * 20)
    machine, again = machine_of(program, strategy), machine_of(program, strategy)
    run_to_offset(machine, program, 3)
    signal(machine)
    machine.step()
    signal(machine)
    assert machine.processor.nmi_blocked
    assert not machine.processor.nmi_ready
    snapshot.dump(machine, tmp_path / "state", identity(strategy))
    end = machine.run(10_000), machine.count, machine.processor.guest_state()
    assert machine.read_physical(Gpa(frame.FAULTS), 4) == b"\2\0\0\0"
    snapshot.load(again, tmp_path / "state", identity(strategy))
    assert again.processor.nmi_blocked
    assert (again.run(10_000), again.count) == end[:2]
    assert again.processor.guest_state().differences(end[2]) == []
    assert again.read_physical(Gpa(frame.FAULTS), 4) == b"\2\0\0\0"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_it_wakes_a_processor_that_nothing_else_would(strategy: str) -> None:
    """HLT with IF = 0: the run has ended as `halted`, and somebody presses the dump switch."""
    machine = machine_of(program_of("fa ; cli\nf4 ; hlt\n90 ; nop"), strategy)
    assert machine.run(10_000) is Outcome.HALTED
    machine.raise_nmi()
    assert machine.run(20_000) is Outcome.FINISHED
    assert machine.read_physical(Gpa(frame.FAULTS), 4) == b"\1\0\0\0"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_port_70_masks_it_until_it_is_opened(strategy: str) -> None:
    """Bit 7 of port 0x70; the error waits in port 0x61, and opening the mask is an edge."""
    program = program_of(
        "b0 8f ; mov al, 0x8f\ne6 70 ; out 0x70, al\n90 ; nop\nb0 0f ; mov al, 0x0f\ne6 70 ; out 0x70, al\n90 ; nop"
    )
    machine = machine_of(program, strategy)
    run_to_offset(machine, program, 4)
    machine.board.io_channel_check()
    machine.step()
    machine.step()
    assert machine.board.read_port(Port(0x61), 1) & IO_CHANNEL_ERROR
    assert not machine.processor.nmi_blocked
    machine.step()
    assert machine.processor.nmi_ready
    machine.step()
    assert machine.processor.nmi_blocked
    assert machine.run(10_000) is Outcome.FINISHED
    assert machine.read_physical(Gpa(frame.FAULTS), 4) == b"\1\0\0\0"
