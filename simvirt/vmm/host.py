"""A PC that several VMs share: its memory is divided among them, and one of them at a time is on its processor.

What a VM owns is a *partition* of host-physical memory, never given to another one: its VMM's tables for it and the
memory that it is told of. The processor holds one VM's world; `switch_to` exchanges it. What is not exchanged and not
partitioned, a VM must not be able to reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import UsageError
from simvirt.machine.cpu import Cpu
from simvirt.machine.memory import HostMemory
from simvirt.x86.addresses import Hpa

if TYPE_CHECKING:
    from simvirt.machine.world import World

_ALIGNMENT: Final = 2 << 20
"""So that VMs can be mapped by large pages."""


def aligned(size: int) -> int:
    """What a partition of `size` bytes takes of the host's memory."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class Host:
    """The PC below a VMM.

    :ivar memory: host-physical memory.
    :ivar engine: what executes instructions, for whoever is on the processor.
    :ivar switches: world switches so far.
    """

    def __init__(self, memory_size: int) -> None:
        self.memory = HostMemory(memory_size)
        self._first: Cpu | None = Cpu(self.memory)
        self.engine = self._first.engine
        self.switches = 0
        self.on_processor: Cpu | None = None
        """Whose world the engine holds."""
        self._used = 0
        self._elapsed = self._since = 0
        self._worlds: dict[Cpu, World] = {}

    def partition(self, size: int, below: int | None = None) -> Hpa:
        """Memory for one more VM.

        :raises UsageError: there is not so much left, or it does not lie below the address `below`.
        """
        first = self._used
        end = min(self.memory.size, self.memory.size if below is None else below)
        if first + size > end:
            raise UsageError(
                f"the host has no room for this VM: it takes {size >> 20} MiB, and {max(end - first, 0) >> 20} MiB of "
                "what it can use are left. Run fewer guests at a time, or give them less memory"
            )
        self._used += aligned(size)
        return Hpa(first)

    def new_cpu(self) -> Cpu:
        """A processor for one more VM, as after power-on, and now the one that has the engine."""
        if self._first is not None:
            cpu, self._first = self._first, None
        else:
            self._leave()
            self.engine.power_on()
            cpu = Cpu.on(self.engine)
            self._since = self.engine.count
        self.on_processor = cpu
        return cpu

    def switch_to(self, cpu: Cpu) -> None:
        """The world switch: save all of the processor's state, load that of another VM, invalidate the TLB."""
        if cpu is self.on_processor:
            return
        self._leave()
        self.engine.load_world(self._worlds.pop(cpu))
        self._since = self.engine.count
        self.on_processor = cpu
        self.switches += 1

    @property
    def elapsed(self) -> int:
        """Guest instructions that have been run on this PC, by all VMs: its time, of which each VM has a part."""
        return self._elapsed + self.engine.count - self._since

    def _leave(self) -> None:
        self._elapsed = self.elapsed
        if self.on_processor is not None:
            self._worlds[self.on_processor] = self.engine.save_world()
