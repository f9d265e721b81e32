"""Accesses to device memory, to holes and to ROM: the one instruction, run against scratch pages.

The instruction at RIP touches a guest-physical page that is no memory. Whatever it is, a MOV, a read-modify-write, a
string instruction, it runs by itself with that page replaced by a scratch page: before it, the page is filled with what
reads of the device return; after it, what it wrote there is written to the device. So no instruction needs an emulation
of its own. Which bytes it reads and writes is what the decoder says of its operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.errors import EngineError
from simvirt.machine import misread_instructions
from simvirt.machine.events import EptViolated, Event, ExceptionRaised, PhysicalAccess, PhysicalTarget
from simvirt.machine.fills import Access
from simvirt.machine.memory import RegionKind
from simvirt.machine.native.layout import MAX_OVERRIDES
from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SHIFT, PAGE_SIZE, Gpa
from simvirt.x86.decode import used_memory
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simvirt.machine.cpu import Cpu
    from simvirt.machine.memory import Region
    from simvirt.machine.processor_bus import Bus

_HOLE: Final = b"\xff" * PAGE_SIZE
_BUS_WIDTH: Final = 8
"""Bytes of the widest access to a device."""


@dataclass(frozen=True, slots=True)
class _Use:
    """Bytes that the instruction accesses, by linear address."""

    start: int
    size: int
    reads: bool
    writes: bool


@dataclass(frozen=True, slots=True)
class _Window:
    """One page of the instruction's accesses that a scratch page stands in for, and what it does to a device there."""

    page: int
    before: bytes
    writes: tuple[tuple[Gpa, int], ...] = ()
    """Address and size of what goes to the device afterwards."""


def complete(cpu: Cpu, bus: Bus, event: PhysicalAccess) -> Event | None:
    """Run the instruction at RIP against scratch pages, and pass what it wrote on to the devices.

    :return: None when the instruction is done, or the event that it met: a page fault of another operand, the trap
        behind it.
    :raises EngineError: a ROM region without memory behind it.
    """
    if event.access is Access.FETCH:
        # The bus gives ones: FF FF is no instruction (SDM Vol. 2D Table A-6, group 5).
        return ExceptionRaised(Vector.UD)
    windows: list[_Window] = []
    served: set[int] = set()
    writable: set[int] = set()
    met: Event | None = event
    start = cpu.count
    while (
        isinstance(met := _as_access(bus, met), PhysicalAccess)
        and (page := met.gva >> PAGE_SHIFT) not in (writable if met.access is Access.WRITE else served)
        and len(windows) < MAX_OVERRIDES
    ):
        # What reads a page and then writes it comes here twice: its page tables may allow the one and not the other.
        if page not in served:
            windows.append(_open(cpu, bus, met))
            served.add(page)
        if met.access is Access.WRITE:
            writable.add(page)
        for i, window in enumerate(windows):
            cpu.engine.scratch(i)[:] = window.before
        cpu.engine.override([(w.page, w.page in writable) for w in windows])
        try:
            met = _run_alone(cpu)
        finally:
            cpu.engine.override([])
    if cpu.count > start:  # it is done, though a single-step trap may stand behind it
        for i, window in enumerate(windows):
            _pass_on(bus, window, cpu.engine.scratch(i))
    return met


def _run_alone(cpu: Cpu) -> Event | None:
    """The instruction at RIP, as other bytes where the engine would misread its own."""
    code = cpu.instruction().encoding
    given = misread_instructions.as_engine_reads_it(code, cpu.state.bits)
    return cpu.run_natively() if given is None else misread_instructions.run(cpu, code, given)


def _as_access(bus: Bus, event: Event | None) -> Event | None:
    """For the devices of a VM, what its EPT does not map is an access to what the VM has there."""
    if not isinstance(event, EptViolated) or not event.to_page or event.gva is None:
        return event
    return PhysicalAccess(target_of(bus.region(event.gpa)), event.gpa, event.gva, event.access, event.length)


def target_of(region: Region | None) -> PhysicalTarget:
    """What answers at a region that is not plain memory."""
    return _TARGETS.get(region.kind, PhysicalTarget.HOLE) if region is not None else PhysicalTarget.HOLE


_TARGETS: Final = {RegionKind.MMIO: PhysicalTarget.MMIO, RegionKind.ROM: PhysicalTarget.ROM}


def _uses(cpu: Cpu, event: PhysicalAccess) -> list[_Use]:
    """The instruction's accesses to memory. Where the decoder knows none at the event's address, that one byte."""
    instruction = cpu.instruction()
    element = instruction.memory.size if instruction.memory is not None else 0
    uses = [
        # of a repeated string instruction the decoder leaves the size open: it runs one element at a time
        _Use(cpu.linear_address(use.operand), use.operand.size or element, use.access.reads, use.access.writes)
        for use in used_memory(instruction)
    ]
    if not any(0 <= event.gva - use.start < use.size for use in uses):
        uses.append(_Use(event.gva, 1, event.access is Access.READ, event.access is Access.WRITE))
    return uses


def _open(cpu: Cpu, bus: Bus, event: PhysicalAccess) -> _Window:
    """A window on the page of `event`: device registers that the instruction reads are read now."""
    page = event.gva >> PAGE_SHIFT
    gpa_page = event.gpa & ~PAGE_OFFSET_MASK
    if event.target is PhysicalTarget.HOLE:
        return _Window(page, _HOLE)
    if event.target is PhysicalTarget.ROM:
        region = bus.region(event.gpa)
        if region is None or region.kind is not RegionKind.ROM:
            raise EngineError(f"ROM at {gpa_page:#x} has no memory behind it")
        host = region.host + gpa_page - region.start
        return _Window(page, bytes(cpu.engine.memory.view[host : host + PAGE_SIZE]))
    content = bytearray(PAGE_SIZE)
    writes: list[tuple[Gpa, int]] = []
    for use in _uses(cpu, event):
        for offset, size in _bus_accesses(use, page << PAGE_SHIFT):
            gpa = Gpa(gpa_page + offset)
            if use.reads:
                content[offset : offset + size] = bus.read_memory(gpa, size).to_bytes(size, "little")
            if use.writes:
                writes.append((gpa, size))
    return _Window(page, bytes(content), tuple(writes))


def _bus_accesses(use: _Use, page: int) -> Iterator[tuple[int, int]]:
    """Offset and size of the accesses that the part of `use` in this page makes: powers of two, as wide as they fit."""
    offset, end = max(use.start - page, 0), min(use.start + use.size - page, PAGE_SIZE)
    while offset < end:
        size = _BUS_WIDTH
        while size > end - offset:
            size //= 2
        yield offset, size
        offset += size


def _pass_on(bus: Bus, window: _Window, after: memoryview) -> None:
    """What the instruction wrote to a device goes to it."""
    for gpa, size in window.writes:
        offset = gpa & PAGE_OFFSET_MASK
        bus.write_memory(gpa, size, int.from_bytes(after[offset : offset + size], "little"))
