"""QEMU executes the same instructions: as many, in the same order, with the same registers and flags before each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import pytest

from simvirt.machine import interrupts
from simvirt.machine.engine import DELIVER_NOTHING
from simvirt.machine.interrupts import Interruption, Source
from simvirt.machine.linear_memory import LinearMemory
from simvirt.machine.machine import Machine
from simvirt.machine.state import ProcessorState
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Eflags
from tests.guests import qemu
from tests.support.exactness import BUDGET, build
from tests.support.program_pieces import Feature
from tests.support.programs import Program, generate
from tests.support.qemu_trace import Registers, trace

_COMMON = (
    Feature.FAULTS
    | Feature.SELF_MODIFYING
    | Feature.USER
    | Feature.FAR
    | Feature.CALL_GATES
    | Feature.PAGING
    | Feature.PORTS
)
# Under TF and in shadows QEMU counts the last test of repeated string instructions, and simvirt does not.
_FEATURES = (_COMMON | Feature.STRINGS, _COMMON | Feature.SHADOWS | Feature.TRAP_FLAG)
_RF = int(Eflags.RF)
pytestmark = pytest.mark.skipif(not qemu.is_installed(), reason=f"{qemu.EMULATOR} is not installed")


def _registers(machine: Machine) -> Registers:
    state = machine.processor.guest_state()
    return Registers(state.general[:8], state.rip, state.eflags, state.cpl)


def _attempts(program: Program, strategy: str, patch: pytest.MonkeyPatch) -> list[Registers]:
    """The registers before each instruction, those included that then fault."""
    built = build(program.image(), strategy)
    machine = built.machine
    built.cpu.native_delivery = DELIVER_NOTHING  # every delivery is to be recorded
    found: list[Registers] = []
    deliver = interrupts.deliver

    def recorded(state: ProcessorState, memory: LinearMemory, what: Interruption) -> None:
        deliver(state, memory, what)
        if what.vector == Vector.PF and 0 <= state.cr2 - what.return_rip < 15:
            found.pop()  # QEMU logs an instruction when it has been fetched
        if what.source is Source.EXCEPTION and what.vector != Vector.DB:
            found.append(_registers(machine))

    with patch.context() as within:
        within.setattr(interrupts, "deliver", recorded)
        while machine.outcome is None and machine.count < BUDGET:
            found.append(_registers(machine))
            machine.step()
    return found


def _body(program: Program, registers: Iterable[Registers]) -> list[Registers]:
    """From the body's first instruction to the end's, RF aside.

    QEMU starts an instruction again that has overwritten itself; one that is there twice counts once.
    """
    found = [Registers(r.general, r.eip, r.eflags & ~_RF, r.cpl) for r in registers]
    first = next(i for i, r in enumerate(found) if r.eip == program.body)
    last = next(i for i, r in enumerate(found) if r.eip == program.end)
    return [r for r, _ in groupby(found[first:last])]


def _compare(program: Program, folder: Path, patch: pytest.MonkeyPatch) -> None:
    attempts = _attempts(program, "bare-metal", patch)
    if all(r.eip != program.end for r in attempts):  # it does not end within the budget
        return
    found = _body(program, attempts)
    expected = _body(program, trace(program, folder))
    for number, (theirs, ours) in enumerate(zip(expected, found, strict=False)):
        assert theirs == ours, f"{program.name}: step {number}, after {expected[number - 1]}"
    assert len(expected) == len(found)


@pytest.mark.parametrize("features", _FEATURES, ids=["strings", "traps and shadows"])
@pytest.mark.parametrize("seed", range(600, 604))
def test_a_random_program_runs_as_in_qemu(
    seed: int, features: Feature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _compare(generate(seed, features), tmp_path, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("features", _FEATURES, ids=["strings", "traps and shadows"])
@pytest.mark.parametrize("first", range(4000, 4200, 10))
def test_many_random_programs_run_as_in_qemu(
    first: int, features: Feature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(first, first + 10):
        _compare(generate(seed, features), tmp_path, monkeypatch)
