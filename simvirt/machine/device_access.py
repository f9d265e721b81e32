"""Accesses to device memory, to holes and to ROM: the one instruction, run against scratch pages.

The instruction at RIP touches a guest-physical page that is no memory. Whatever it is, a MOV, a read-modify-write, a
string instruction, it runs by itself with that page replaced by a scratch page: before it, the page is filled with what
a read of the device returns; after it, what it changed is written to the device. So no instruction needs an emulation
of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.errors import EngineError
from simvirt.machine.events import Event, ExceptionRaised, PhysicalAccess, PhysicalTarget
from simvirt.machine.fills import Access
from simvirt.machine.native.layout import MAX_OVERRIDES
from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SHIFT, PAGE_SIZE, Gpa
from simvirt.x86.decode import used_memory
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.processor_bus import Bus

_HOLE: Final = b"\xff" * PAGE_SIZE


@dataclass(frozen=True, slots=True)
class _Window:
    """One page of the instruction's accesses that a scratch page stands in for."""

    event: PhysicalAccess
    size: int
    before: bytes

    @property
    def page(self) -> int:
        return self.event.gva >> PAGE_SHIFT

    @property
    def span(self) -> slice:
        offset = self.event.gva & PAGE_OFFSET_MASK
        return slice(offset, offset + self.size)


def complete(cpu: Cpu, bus: Bus, event: PhysicalAccess) -> Event | None:
    """Run the instruction at RIP against scratch pages and pass its effects on.

    :return: None when the instruction is done, or the event that it met instead, such as a page fault of another
        operand.
    """
    if event.access is Access.FETCH:
        # The bus gives ones: FF FF is no instruction (SDM Vol. 2D Table A-6, group 5).
        return ExceptionRaised(Vector.UD)
    windows: list[_Window] = []
    met: Event | None = event
    while (
        isinstance(met, PhysicalAccess)
        and met.gva >> PAGE_SHIFT not in [w.page for w in windows]
        and len(windows) < MAX_OVERRIDES
    ):
        windows.append(_open(cpu, bus, met))
        for i, window in enumerate(windows):
            cpu.engine.scratch(i)[:] = window.before
        cpu.engine.override([w.page for w in windows])
        try:
            met = cpu.run_natively()
        finally:
            cpu.engine.override([])
    if met is None:
        for i, window in enumerate(windows):
            _pass_on(bus, window, bytes(cpu.engine.scratch(i)))
    return met


def _open(cpu: Cpu, bus: Bus, event: PhysicalAccess) -> _Window:
    offset = event.gva & PAGE_OFFSET_MASK
    size = min(_access_size(cpu, event), PAGE_SIZE - offset)
    if event.target is PhysicalTarget.HOLE:
        return _Window(event, size, _HOLE)
    if event.target is PhysicalTarget.MMIO:
        content = bytearray(PAGE_SIZE)
        if event.access is Access.READ:
            content[offset : offset + size] = bus.read_memory(event.gpa, size).to_bytes(size, "little")
        return _Window(event, size, bytes(content))
    page = Gpa(event.gpa & ~PAGE_OFFSET_MASK)
    host = cpu.engine.address_space.host(page)
    if host is None:
        raise EngineError(f"ROM at {page:#x} has no memory behind it")
    return _Window(event, size, bytes(cpu.engine.memory.view[host : host + PAGE_SIZE]))


def _access_size(cpu: Cpu, event: PhysicalAccess) -> int:
    """Bytes of the access, by the instruction's operands: the one that holds the address, else the largest."""
    uses = [use.operand for use in used_memory(cpu.instruction()) if use.operand.size]
    for operand in uses:
        if 0 <= event.gva - cpu.linear_address(operand) < operand.size:
            return operand.size
    return max((operand.size for operand in uses), default=1)


def _pass_on(bus: Bus, window: _Window, after: bytes) -> None:
    """What a write to a device changed goes to it; a hole and ROM drop it."""
    event = window.event
    if event.target is PhysicalTarget.MMIO and (event.access is Access.WRITE or after != window.before):
        bus.write_memory(event.gpa, window.size, int.from_bytes(after[window.span], "little"))
