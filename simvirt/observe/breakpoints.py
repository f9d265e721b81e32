"""Software breakpoints on the bare machine: when does a guest first reach each of some addresses?

The first byte of each place becomes INT3. The machine runs at full speed; at an INT3 that is ours the byte is put
back, the instruction count noted, and the run goes on as if nothing had been. Nothing of the guest's state is used
for it, but a guest that reads or rewrites its own code could notice; so what is found is a hint, to be verified on a
machine without breakpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from simvirt.machine.completion import complete
from simvirt.machine.events import Halt, Interrupted, InterruptWindow, LimitReached, SoftwareInterrupt
from simvirt.machine.machine import Stop
from simvirt.observe.code import code_bits, linear_address
from simvirt.x86.addresses import Gpa, Gva

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from simvirt.machine.machine import Processor
    from simvirt.machine.pc import BareProcessor
    from simvirt.observe.trial import Trial

_INT3: Final = b"\xcc"


def first_reached(trial: Trial, places: Iterable[Gva], limit: int) -> Mapping[Gva, int]:
    """Instructions that a fresh trial on the bare machine retires before each place that it reaches within `limit`."""
    processor = _BreakingProcessor(trial, places)
    trial.machine.processor = cast("Processor", processor)
    while processor.waiting and trial.outcome is None and trial.count < limit:
        if trial.advance(min(limit, trial.count + _SLICE)) is not None:
            break
    return processor.reached


_SLICE: Final = 1 << 24


class _BreakingProcessor:
    """A bare processor that takes its own INT3s for itself."""

    def __init__(self, trial: Trial, places: Iterable[Gva]) -> None:
        self._below = cast("BareProcessor", trial.machine.processor)
        self._machine = trial.machine
        self.waiting: dict[Gva, bytes] = {}
        self.reached: dict[Gva, int] = {}
        for place in places:
            # Before paging is on, which is when a guest is loaded, linear addresses are physical ones.
            if trial.machine.space.host(Gpa(place)) is not None:
                self.waiting[place] = self._machine.read_physical(Gpa(place), 1)
                self._machine.write_physical(Gpa(place), _INT3)

    def run(self, limit: int, *, window: bool) -> Stop:
        """As the bare processor, but for our own breakpoints."""
        cpu, bus = self._below.cpu, self._below.bus
        cpu.engine.tsc_base = bus.time_offset()
        event = cpu.run(limit, window=window)
        match event:
            case LimitReached():
                return Stop.LIMIT
            case InterruptWindow():
                return Stop.WINDOW
            case Interrupted():
                return Stop.INTERRUPTED
            case SoftwareInterrupt() if self._take():
                return Stop.HANDLED
            case _:
                sleeps = isinstance(event, Halt) and cpu.can_halt
                complete(cpu, bus, event)
                return Stop.HALTED if sleeps else Stop.HANDLED

    def _take(self) -> bool:
        state = self._below.guest_state()
        place = linear_address(state, code_bits(state))
        original = self.waiting.pop(place, None)
        if original is None:
            return False
        self._machine.write_physical(Gpa(place), original)
        self.reached[place] = self._below.count
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._below, name)
