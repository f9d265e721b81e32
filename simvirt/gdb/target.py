"""The guest as gdb's target: what the packets mean to a machine here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import UsageError
from simvirt.gdb.registers import RegisterFile
from simvirt.machine.breakpoints import WatchedAccess, Watchpoint
from simvirt.machine.floating_point import renew_rounding
from simvirt.observe.page_walk import read_linear, write_linear
from simvirt.observe.stops import Stops
from simvirt.strategies.strategy import Ability
from simvirt.x86.addresses import Gva

if TYPE_CHECKING:
    from simvirt.gdb.registers import Layout, Register
    from simvirt.observe.stops import StopReason
    from simvirt.observe.timeline import Timeline

SOFTWARE_BREAKPOINT, HARDWARE_BREAKPOINT, WATCH_WRITE, WATCH_READ, WATCH_ACCESS = range(5)
"""The types of the Z packets. The first two are the same here: no byte of the guest is changed for either."""
_WATCHED: Final = {
    WATCH_WRITE: WatchedAccess.WRITE,
    WATCH_READ: WatchedAccess.READ,
    WATCH_ACCESS: WatchedAccess.ACCESS,
}
_ADDRESSES: Final = (1 << 64) - 1


class Target:
    """A guest on its timeline, with gdb's breakpoints.

    Attributes:
        timeline: the run.
        layout: the registers that gdb was told of.
        exits: names of exit reasons to stop at.
        vectors: interrupts and exceptions to stop at.
    """

    def __init__(self, timeline: Timeline, layout: Layout) -> None:
        self.timeline = timeline
        self.layout = layout
        self.exits: set[str] = set()
        self.vectors: set[int] = set()
        self._points: set[tuple[int, int, int]] = set()

    # -------------------------------------------------------------------------------- registers

    def _file(self) -> RegisterFile:
        return RegisterFile(self.timeline.trial.machine.processor.guest_state(), self.read)

    def registers(self) -> bytes:
        """All registers, one behind the other."""
        file = self._file()
        return b"".join(register.encode(file) for register in self.layout.registers)

    def set_registers(self, data: bytes) -> None:
        """Write all registers.

        Raises:
            UsageError: it is not the size of all registers, or one of them cannot have this value.
        """
        if len(data) != self.layout.size:
            raise UsageError(f"{len(data)} bytes of registers: the layout {self.layout.name} has {self.layout.size}")
        file, at = self._file(), 0
        for register in self.layout.registers:
            value = data[at : at + register.size]
            at += register.size
            if value != register.encode(file):  # what gdb has not changed stays, hidden parts and all
                register.decode(file, value)
        self._put(file)

    def register(self, number: int) -> bytes:
        """One register.

        Raises:
            UsageError: there is none of this number.
        """
        return self._row(number).encode(self._file())

    def set_register(self, number: int, data: bytes) -> None:
        """Write one register.

        Raises:
            UsageError: there is none of this number and size, or it cannot have this value.
        """
        register = self._row(number)
        if len(data) != register.size:
            raise UsageError(f"{len(data)} bytes for {register.name}, which has {register.size}")
        file = self._file()
        register.decode(file, data)
        self._put(file)

    def _row(self, number: int) -> Register:
        if number >= len(self.layout.registers):
            raise UsageError(f"there is no register {number} in the layout {self.layout.name}")
        return self.layout.registers[number]

    def _put(self, file: RegisterFile) -> None:
        trial = self.timeline.trial
        trial.machine.processor.set_guest_state(file.result())
        renew_rounding(trial.cpu.engine)
        self.timeline.change()

    # -------------------------------------------------------------------------------- memory

    def read(self, address: int, size: int) -> bytes:
        """Memory by linear address, through the guest's translation; shorter, or empty, where nothing is mapped."""
        return read_linear(self.timeline.trial, address, size)

    def write(self, address: int, data: bytes) -> bool:
        """Write memory by linear address; False, and nothing written, where nothing is mapped."""
        trial = self.timeline.trial
        if not write_linear(trial, address, data):
            return False
        if Ability.DEPRIVILEGES in trial.strategy.info.abilities:  # it may have been a table that has a shadow
            processor = trial.machine.processor
            processor.set_guest_state(processor.guest_state())
        self.timeline.change()
        return True

    # -------------------------------------------------------------------------------- breakpoints

    def insert(self, kind: int, address: int, size: int) -> None:
        """Set a breakpoint or watchpoint.

        Raises:
            UsageError: there are too many.
        """
        point = kind, address, size
        if point in self._points:
            return
        self._points.add(point)
        try:
            self.timeline.check(self.stops())
        except UsageError:
            self._points.discard(point)
            raise

    def remove(self, kind: int, address: int, size: int) -> None:
        """Take it away; one that is not there is no error."""
        self._points.discard((kind, address, size))

    def clear(self) -> None:
        """Take all of them away."""
        self._points.clear()
        self.exits.clear()
        self.vectors.clear()

    def stops(self) -> Stops:
        """What to stop for."""
        points = sorted(self._points)
        breakpoints = {Gva(at) for kind, at, _ in points if kind not in _WATCHED}
        watchpoints = [
            Watchpoint(Gva(at), max(size, 1), _WATCHED[kind]) for kind, at, size in points if kind in _WATCHED
        ]
        return Stops(frozenset(breakpoints), tuple(watchpoints), frozenset(self.exits), frozenset(self.vectors))

    # -------------------------------------------------------------------------------- running

    def go_on(self) -> StopReason:
        """Forward to the next stop."""
        return self.timeline.run(self.stops())

    def step(self) -> StopReason:
        """One step forward."""
        return self.timeline.step()

    def go_back(self) -> StopReason:
        """Back to the last stop before here."""
        return self.timeline.run_back(self.stops())

    def step_back(self) -> StopReason:
        """One step back."""
        return self.timeline.step_back()

    def jump(self, address: int) -> None:
        """Go on at another instruction than the next, as the packets `c` and `s` with an address ask for."""
        number = next(n for n, register in enumerate(self.layout.registers) if register.kind == "code_ptr")
        size = self.layout.registers[number].size
        self.set_register(number, (address & _ADDRESSES).to_bytes(8, "little")[:size])
