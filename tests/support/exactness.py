"""Machines for the tests of exact counting and stopping: built, stepped, and described by what must be equal."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.machine import Machine, Outcome
from simvirt.machine.snapshot import Identity
from simvirt.strategies import registry
from simvirt.strategies.strategy import MachineConfig, Virtualized
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import find_cpu_model
from tests.support import program_frame as frame
from tests.support.program_pieces import Feature

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage

STRATEGIES = ("bare-metal", "trap-and-emulate", "vtx")
CPU_MODEL = "core2"
BUDGET = 2_500
"""Instructions after which a random program is stopped; many end before."""
UNSUPPORTED = {"trap-and-emulate": Feature.PAGING | Feature.CALL_GATES}
"""What a strategy does not run so far."""


def features_for(strategy: str) -> Feature:
    """Everything that a strategy can run."""
    return Feature.EVERYTHING & ~UNSUPPORTED.get(strategy, Feature(0))


def build(image: GuestImage, strategy: str, memory_size: int = frame.MEMORY_SIZE) -> Virtualized:
    """A machine with the guest loaded."""
    return registry.find(strategy).build(image, MachineConfig(memory_size, find_cpu_model(CPU_MODEL)))


def identity(strategy: str, memory_size: int = frame.MEMORY_SIZE) -> Identity:
    """What `build` builds."""
    return Identity(strategy, CPU_MODEL, memory_size)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A machine at one instruction, memory by its checksum."""

    count: int
    state: ArchitecturalState
    memory: int
    halted: bool
    outcome: Outcome | None
    skipped: int
    console: int


def memory_checksum(machine: Machine) -> int:
    """CRC-32 of the guest's low memory, where programs of `programs` live."""
    host = machine.space.host(Gpa(0))
    assert host is not None
    return zlib.crc32(machine.memory.view[host + 0x8000 : host + frame.MEMORY_SIZE])


def snapshot(machine: Machine) -> Snapshot:
    """What the machine is now."""
    return Snapshot(
        machine.count,
        machine.processor.guest_state(),
        memory_checksum(machine),
        machine.halted,
        machine.outcome,
        machine.board.clock.skipped,
        len(machine.board.console),
    )


def steps(machine: Machine, most: int = BUDGET) -> list[Snapshot]:
    """The machine at every instruction from now on, single-stepped to the end."""
    found = [snapshot(machine)]
    while machine.count < most:
        before = machine.count
        outcome = machine.step()
        found.append(snapshot(machine))
        if outcome is not None:
            break
        assert machine.count == before + 1, f"a step from {before} led to {machine.count}"
    return found


def digest(machine: Machine) -> str:
    """A hash of everything that a machine saves."""
    saved = machine.save()
    parts = [saved.count, saved.halted, saved.outcome and saved.outcome.value, saved.board, saved.processor]
    total = sha256(repr(_ordered(msgspec.to_builtins(parts, builtin_types=(bytes,)))).encode())
    for page, data in sorted(saved.pages.items()):
        total.update(page.to_bytes(4, "little"))
        total.update(data)
    return total.hexdigest()


def _ordered(value: object) -> object:
    """`value` with its mappings in the order of their keys."""
    if isinstance(value, dict):
        return [(key, _ordered(value[key])) for key in sorted(value)]
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value


def difference(expected: Snapshot, found: Snapshot) -> str:
    """What is not equal, for a message; empty when all is."""
    if expected == found:
        return ""
    parts = [
        f"{name} {getattr(expected, name)} != {getattr(found, name)}"
        for name in ("count", "memory", "halted", "outcome", "skipped", "console")
        if getattr(expected, name) != getattr(found, name)
    ]
    parts += [f"{d.component} {d.reference:#x} != {d.value:#x}" for d in expected.state.differences(found.state)]
    return f"at instruction {found.count}, EIP {expected.state.rip:#x}: " + "; ".join(parts)
