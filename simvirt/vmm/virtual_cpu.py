"""The virtual CPU of a de-privileged guest: the processor's own work, done on the guest's view of the state.

It is a `Cpu` whose state is the guest's (`DeprivilegedState`) and whose memory is the guest's, on the engine of the
real one. Delivery of exceptions, control registers, I/O permission and the rest of `machine.completion` work on it
unchanged: they are the interpreter routines that Popek and Goldberg ask for, one for each privileged instruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.cpu import Cpu
from simvirt.vmm.deprivileged_state import DeprivilegedState

if TYPE_CHECKING:
    from simvirt.vmm.guest_memory import GuestMemory


class VirtualCpu(Cpu):
    """The guest's processor on top of the real one.

    :ivar guest_state: `state` under its own type, with the parts that the real processor cannot hold.
    """

    def __init__(self, real: Cpu, memory: GuestMemory) -> None:
        self.guest_state = DeprivilegedState(real.engine.state_address, real.engine.platform.state)
        self._assemble(real.engine, self.guest_state, memory)
