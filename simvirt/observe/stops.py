"""What a run under a debugger stops for, and why it has stopped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.observe.numbers import counted
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from simvirt.machine.breakpoints import Watchpoint
    from simvirt.machine.machine import Outcome
    from simvirt.vmm.exit_log import ExitRecord
    from simvirt.x86.addresses import Gva


@dataclass(frozen=True, slots=True)
class Stops:
    """What to stop for.

    Attributes:
        breakpoints: linear addresses of instructions; the run stops before each of them.
        watchpoints: linear bytes; the run stops behind what changes or accesses them.
        exits: names of exit reasons; the run stops when the VMM has dealt with one.
        vectors: of interrupts and exceptions; the run stops at the handler's first instruction.
    """

    breakpoints: frozenset[Gva] = frozenset()
    watchpoints: tuple[Watchpoint, ...] = ()
    exits: frozenset[str] = frozenset()
    vectors: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A moment of a run: between two instructions."""

    count: int
    """Instructions retired."""
    address: Gva
    """Linear address of the next one."""

    def __str__(self) -> str:
        return f"{counted(self.count, 'instruction')}, next at {self.address:#x}"


@dataclass(frozen=True, slots=True)
class Reached:
    """As many instructions have been retired as were asked for, or one step is done."""


@dataclass(frozen=True, slots=True)
class AtBreakpoint:
    """The instruction at this address is next."""

    address: Gva


@dataclass(frozen=True, slots=True)
class AtWatchpoint:
    """Bytes that are watched have been changed or accessed; on the way back: the instruction that does it is next."""

    watchpoint: Watchpoint


@dataclass(frozen=True, slots=True)
class AtExit:
    """There was an exit to the VMM, and the VMM has dealt with it."""

    record: ExitRecord


@dataclass(frozen=True, slots=True)
class AtHandler:
    """An interrupt or an exception has been delivered: the first instruction of its handler is next."""

    vector: int

    @property
    def name(self) -> str:
        """The vector by the manual's name or its number.

        >>> AtHandler(14).name, AtHandler(0x20).name
        ('#PF', 'vector 0x20')
        """
        return f"#{Vector(self.vector).name}" if self.vector in set(Vector) else f"vector {self.vector:#x}"


@dataclass(frozen=True, slots=True)
class AtBeginning:
    """There is nothing before."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over, or waits for input."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Somebody outside asked for a stop."""


StopReason = Reached | AtBreakpoint | AtWatchpoint | AtExit | AtHandler | AtBeginning | Ended | Interrupted
