"""Breakpoints and watchpoints: those that a guest sets in its debug registers, and those of a debugger outside.

The two know nothing of each other. A guest's are #DB exceptions with their bits in DR6 (SDM Vol. 3B §18.2, §18.3.1); a
debugger's end the run with the event `DebuggerHit` and leave no trace in the guest. Both go by linear addresses of the
program that runs, under any strategy, and are served by the engine in one way:

* Execution: blocks are translated so that they end in front of the instruction (native/special.c).
* Data: accesses to the page are refused; the instruction is decoded, and runs alone with the page open to it. What it
  touches by itself counts, not what the processor reads and writes on its behalf (descriptors, the TSS, the frame of
  an interrupt).

Who sets none pays nothing. A debugger uses it so::

    cpu.breakpoints.insert(Breakpoint(Gva(0x101000)))
    machine.run()  # Outcome.BREAKPOINT
    cpu.breakpoints.hit  # (Breakpoint(address=0x101000),): RIP is on it, not executed yet
    machine.resume()  # and `run` goes on with that instruction
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from simvirt.errors import UsageError
from simvirt.machine.debug_registers import BreakOn, HardwareBreakpoint, hardware_breakpoints
from simvirt.x86.flags import Cr4, Eflags

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simvirt.machine.engine import Engine
    from simvirt.machine.state import ProcessorState
    from simvirt.x86.addresses import Gva

_RF = int(Eflags.RF)
_DE = int(Cr4.DE)


class WatchedAccess(Enum):
    """Which accesses a watchpoint stops at."""

    WRITE = "write"
    READ = "read"
    ACCESS = "access"

    @property
    def reads(self) -> bool:
        """Does it stop at reads?"""
        return self is not WatchedAccess.WRITE

    @property
    def writes(self) -> bool:
        """Does it stop at writes?"""
        return self is not WatchedAccess.READ


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """Stop in front of the instruction at a linear address."""

    address: Gva


@dataclass(frozen=True, slots=True)
class Watchpoint:
    """Stop behind the instruction that accesses any of `length` bytes from a linear address."""

    address: Gva
    length: int
    access: WatchedAccess


DebuggerPoint: TypeAlias = Breakpoint | Watchpoint


@dataclass(frozen=True, slots=True)
class DataAccess:
    """An access of an instruction to its operand."""

    address: int
    size: int
    reads: bool
    writes: bool

    def overlaps(self, address: int, length: int) -> bool:
        """Does it touch any of `length` bytes from `address`?"""
        return self.address < address + length and address < self.address + self.size


@dataclass(frozen=True, slots=True)
class Hits:
    """What an instruction has touched: bits of DR6 for the guest, points for the debugger."""

    condition: int = 0
    points: tuple[DebuggerPoint, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.condition or self.points)

    def __or__(self, other: Hits) -> Hits:
        return Hits(self.condition | other.condition, self.points + other.points)


NO_HITS = Hits()


class Breakpoints:
    """All that are armed on one CPU.

    :ivar hardware: the guest's, by its debug registers.
    :ivar hit: the debugger's points that ended the last run; empty when something else did.
    :ivar pending: those that are still to be reported, because an exception of the guest's came first.
    """

    def __init__(self, engine: Engine, state: ProcessorState) -> None:
        self._engine = engine
        self._state = state
        self.hardware: tuple[HardwareBreakpoint, ...] = ()
        self._breakpoints: dict[int, Breakpoint] = {}
        self._watchpoints: dict[Watchpoint, None] = {}
        self._reported: tuple[int, int] | None = None
        self.hit: tuple[DebuggerPoint, ...] = ()
        self.pending: tuple[DebuggerPoint, ...] = ()

    # ---------------------------------------------------------------------------------------- the debugger's side

    @property
    def points(self) -> tuple[DebuggerPoint, ...]:
        """The debugger's points, in the order in which they were set."""
        return (*self._breakpoints.values(), *self._watchpoints)

    @property
    def armed(self) -> bool:
        """Is there any, of the guest's or of the debugger's?"""
        return bool(self.hardware or self._breakpoints or self._watchpoints)

    def insert(self, point: DebuggerPoint) -> None:
        """Set a point; setting it again changes nothing.

        :raises UsageError: too many are set.
        """
        if isinstance(point, Breakpoint):
            self._breakpoints[point.address] = point
        else:
            self._watchpoints[point] = None
        try:
            self._arm()
        except UsageError:
            self.remove(point)
            raise

    def remove(self, point: DebuggerPoint) -> None:
        """Take a point away; one that is not set is no error."""
        if isinstance(point, Breakpoint):
            self._breakpoints.pop(point.address, None)
        else:
            self._watchpoints.pop(point, None)
        self._arm()

    def clear(self) -> None:
        """Take all the debugger's points away."""
        self._breakpoints.clear()
        self._watchpoints.clear()
        self.hit, self.pending, self._reported = (), (), None
        self._arm()

    def go_on(self, shown: Gva | None) -> None:
        """The machine goes on from here, or has become another one: nothing is to be reported from before.

        `shown` is where it is, if the debugger has seen that already and does not want to hear of it again.
        """
        self.hit, self.pending = (), ()
        self._reported = None if shown is None else (shown, self._engine.count)
        self._engine.forget_passed_breakpoint()

    # ---------------------------------------------------------------------------------------- the processor's side

    def follow_debug_registers(self) -> None:
        """The guest's debug registers have changed: take up what they ask for now."""
        self.hardware = hardware_breakpoints(self._state)
        self._engine.note_debug_registers()
        self._engine.intercept(self._engine.intercepts)
        self._arm()

    def _arm(self) -> None:
        executed = [point.first for point in self.hardware if point.on is BreakOn.EXECUTION]
        self._engine.set_breakpoints([*executed, *self._breakpoints])
        watches = [
            (point.first, point.last, point.on is BreakOn.ACCESS, True) for point in self.hardware if point.on.is_data
        ]
        watches += [
            (point.address, point.address + point.length - 1, point.access.reads, point.access.writes)
            for point in self._watchpoints
        ]
        self._engine.set_watches(watches)

    def at_instruction(self, address: int) -> Hits:
        """What there is to hear of the instruction at a linear address, which is about to run.

        The debugger comes first, and hears of each place once for each time that it is reached. RF keeps the guest's
        breakpoints silent (SDM Vol. 3B §18.3.1.1), and so does the shadow of MOV SS (Vol. 3A §6.8.3).
        """
        here = address, self._engine.count
        point = self._breakpoints.get(address)
        if point is not None and self._reported != here:
            self._reported = here
            return Hits(points=(point,))
        if self._state.eflags & _RF or (self._state.interrupt_shadow and self._state.shadow_of_mov_ss):
            return NO_HITS
        return Hits(sum(p.condition for p in self.hardware if p.on is BreakOn.EXECUTION and p.first == address))

    @property
    def watches_data(self) -> bool:
        """Is anybody interested in memory operands?"""
        return bool(self._watchpoints) or any(point.on.is_data for point in self.hardware)

    def at_data(self, accesses: Iterable[DataAccess]) -> Hits:
        """What the accesses of an instruction hit."""
        condition, points = 0, list[DebuggerPoint]()
        for access in accesses:
            for hardware in self.hardware:
                wanted = access.writes or (access.reads and hardware.on is BreakOn.ACCESS)
                if hardware.on.is_data and wanted and access.overlaps(hardware.first, hardware.length):
                    condition |= hardware.condition
            for point in self._watchpoints:
                wanted = (access.writes and point.access.writes) or (access.reads and point.access.reads)
                if wanted and access.overlaps(point.address, point.length) and point not in points:
                    points.append(point)
        return Hits(condition, tuple(points))

    def at_port(self, port: int, size: int) -> int:
        """The bits of DR6 for an access to `size` ports from `port` (SDM Vol. 3B §18.2.4: with CR4.DE set)."""
        if not self.hardware or not self._state.cr4 & _DE:
            return 0
        return sum(p.condition for p in self.hardware if p.on is BreakOn.PORT and p.covers(port, size))
