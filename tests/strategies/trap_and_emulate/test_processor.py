"""The virtual processor in the machine's loop: saved and restored anywhere, interrupted where its own IF says."""

from __future__ import annotations

import random

import pytest

from simvirt.machine.machine import Outcome
from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.x86.addresses import Gpa
from simvirt.x86.registers import GeneralRegister
from tests.support.exactness import build, difference, digest, features_for, snapshot, steps
from tests.support.programs import generate
from tests.support.trapping_programs import generate as generate_trapping
from tests.support.twins import CODE, CS0, HANDLERS, USER, Twins, image, start, vector

TAE = "trap-and-emulate"
RDX = GeneralRegister.RDX


@pytest.mark.parametrize("seed", range(300, 304))
def test_saved_anywhere_and_restored_in_another_machine(seed: int) -> None:
    """States, console and interventions go on as if nothing had happened: the shadows are part of what is saved."""
    program = generate(seed, features_for(TAE)).image()
    first = build(program, TAE)
    trace = steps(first.machine, 5000)
    rng = random.Random(seed)
    for at in sorted(rng.sample(range(1, len(trace) - 1), 4)):
        straight, saved, restored = (build(program, TAE) for _ in range(3))
        straight.machine.run_to(at)
        saved.machine.run_to(at)
        restored.machine.restore(saved.machine.save())
        assert digest(restored.machine) == digest(saved.machine)
        before = straight.log.counts.copy()
        for machine in (straight.machine, restored.machine):
            machine.run_to(len(trace) - 1)
        assert not difference(trace[-1], snapshot(restored.machine))
        assert straight.log.counts - before == restored.log.counts


@pytest.mark.parametrize("seed", range(6))
def test_saved_in_the_middle_of_tables_and_segments(twins: Twins, seed: int) -> None:
    """At every instruction of a program that changes descriptor tables: the next one is the same after a restore."""
    program = generate_trapping(seed, pieces=5)
    for address, data in program.parts.items():
        twins.write(address, data)
    twins.begin(program.parts[CODE])
    machine, log = twins.virtual.machine, twins.virtual.log
    while machine.outcome is None and not machine.halted and machine.count < 150:
        saved, count, total = machine.save(), machine.count, log.total
        machine.run_to(count + 1)
        after, exits = digest(machine), log.total - total
        machine.restore(saved)
        total = log.total
        machine.run_to(count + 1)
        assert digest(machine) == after
        assert log.total - total == exits


def _with_timer(code: bytes) -> bytes:
    """PIC and PIT set up, IRQ 0 as vector 20H after a few instructions; then `code`."""
    ports = ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFE), (0x43, 0x34), (0x40, 2), (0x40, 0))
    return b"".join(b"\xb0" + bytes([value, 0xE6, port]) for port, value in ports) + code


@pytest.mark.parametrize(
    "body", ["fb" + "42" * 40, "fa" + "42" * 3000 + "fb4242", "fbf4", "6a101742fb6a10174242", "fb909090fa" * 200]
)
@pytest.mark.parametrize("cs", [CS0])
def test_interrupts_come_when_the_guest_s_if_says(twins: Twins, body: str, cs: int) -> None:
    """The same instruction is interrupted as on the bare PC, though the real IF is always 1."""
    state = twins.run(_with_timer(bytes.fromhex(body)), start(cs=cs), steps=4000)
    assert vector(state) in (0x20, None)


def test_interrupts_in_user_code(twins: Twins) -> None:
    state = twins.run(b"\x42" * 40 + b"\xeb\xfe", start(cs=USER, eflags=0x202), steps=60)
    assert state.general[RDX] == 40
    twins.renew()
    twins.write(CODE + 0x100, b"\x42\xeb\xfd")
    state = twins.run(
        _with_timer(b"\x68\x23\0\0\0\x68\0\x28\x03\0\x68\x02\x02\0\0\x68\x1b\0\0\0\x68\0\x01\x01\0\xcf"), steps=6000
    )
    assert vector(state) == 0x20


def test_a_machine_can_be_stopped_and_resumed() -> None:
    program = generate(7, features_for(TAE)).image()
    machine = build(program, TAE).machine
    machine.request_stop()
    assert machine.run() is Outcome.INTERRUPTED
    assert machine.count == 0
    machine.resume()
    assert machine.run(100_000) is Outcome.FINISHED


def test_a_triple_fault_ends_the_guest(twins: Twins) -> None:
    twins.run(b"\x6a\0\x66\x6a\0\x0f\x01\x1c\x24\xcc")
    assert twins.outcome is Outcome.TRIPLE_FAULT


def test_no_handler_that_ever_returns_ends_too(twins: Twins) -> None:
    """#UD whose handler begins with an undefined instruction."""
    twins.write(HANDLERS + 16 * 6, b"\x0f\x0b")
    twins.begin(b"\x0f\x0b")
    assert all(machine.run(1000) is Outcome.LIMIT for machine in twins.both)


def test_a_guest_without_tables() -> None:
    """GDTR and IDTR as the boot protocol leaves them: the first fault is the last."""
    virtualized = build(image(), TAE)
    virtualized.machine.write_physical(Gpa(CODE), b"\x8e\xd0")  # MOV SS, AX
    assert virtualized.machine.run(10) is Outcome.TRIPLE_FAULT
    assert virtualized.log.counts == {TrapReason.MOV_TO_SEGMENT: 1}
