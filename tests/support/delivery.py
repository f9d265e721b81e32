"""Deliver interrupts and exceptions to a test PC, and say what went wrong when delivery fails."""

from __future__ import annotations

from simvirt.machine import interrupts
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.faults import ProcessorFault
from simvirt.machine.interrupts import Interruption, Source
from simvirt.x86.exceptions import Vector
from tests.support.pc import Pc

SOFTWARE, EXTERNAL, EXCEPTION = Source.SOFTWARE, Source.EXTERNAL, Source.EXCEPTION


def deliver(
    pc: Pc, vector: int, source: Source = EXTERNAL, *, error_code: int | None = None, rip: int = 0x1234
) -> None:
    """Deliver `vector` with `rip` as return address; a fault on the way is raised."""
    interrupts.deliver(pc.state, pc.cpu.memory, Interruption(vector, source, rip, error_code))


def failure(
    pc: Pc, vector: int, source: Source = EXTERNAL, *, error_code: int | None = None
) -> tuple[Vector, int | None]:
    """The exception that the delivery of `vector` meets; the registers must be as before."""
    before = ArchitecturalState.of(pc.state)
    try:
        deliver(pc, vector, source, error_code=error_code)
    except ProcessorFault as fault:
        assert ArchitecturalState.of(pc.state).differences(before) == []
        return fault.vector, fault.error_code
    raise AssertionError(f"vector {vector} was delivered to {pc.state.rip:#x}")
