"""The VM's bus where user space is at the other end: what it has to answer stops the vCPU until it has.

A read of what is no memory raises `NeedsUserSpace` before the instruction has had any effect. Once user space has given
the bytes, the instruction begins anew and finds them. Writes are kept until the instruction is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.errors import MonitorError
from simvirt.machine.faults import general_protection
from simvirt.machine.memory import Region, RegionKind
from simvirt.x86.addresses import PAGE_SIZE, Gpa

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.devices.local_apic import LocalApic
    from simvirt.strategies.vtx.vm_memory import VmMemory
    from simvirt.x86.addresses import Port
    from simvirt.x86.cpuid import CpuModel


class NeedsUserSpace(Exception):  # noqa: N818 - an exit, not an error
    """The instruction reads device memory, and user space has not answered yet."""

    def __init__(self, gpa: Gpa, size: int) -> None:
        self.gpa, self.size = gpa, size
        super().__init__()


class UserSpaceBus:
    """The bus.

    :ivar answers: what user space has given for the reads of the instruction so far, in their order.
    :ivar writes: what it has written: address, size, value.
    """

    def __init__(self, cpu: Cpu, memory: VmMemory, cpu_model: CpuModel) -> None:
        self.cpu_model = cpu_model
        self._cpu = cpu
        self._memory = memory
        self.local_apic: LocalApic | None = None
        """There is none: the interrupt controllers are user space's."""
        self.answers: list[int] = []
        self.writes: list[tuple[Gpa, int, int]] = []
        self._read = 0

    def begin(self) -> None:
        """The instruction begins, perhaps once more."""
        self._read = 0

    def done(self) -> None:
        """The instruction is done, or has met something else."""
        self.answers.clear()

    def region(self, gpa: Gpa) -> Region:
        """All that is not plain memory is a device of user space's; so is read-only memory, for who writes to it."""
        region = self._memory.space.region(gpa)
        if region is not None and region.kind is RegionKind.RAM:
            return region
        return Region(Gpa(gpa & ~(PAGE_SIZE - 1)), PAGE_SIZE, RegionKind.MMIO)

    def read_memory(self, gpa: Gpa, size: int) -> int:
        """Read of device memory; read-only memory answers itself."""
        host = self._memory.space.host(gpa)
        if host is not None:
            return int.from_bytes(self._cpu.engine.memory.view[host : host + size], "little")
        if self._read == len(self.answers):
            raise NeedsUserSpace(gpa, size)
        self._read += 1
        return self.answers[self._read - 1]

    def write_memory(self, gpa: Gpa, size: int, value: int) -> None:
        """Write of device memory."""
        self.writes.append((gpa, size, value))

    def time_stamp(self) -> int:
        """The PC's counter."""
        return self._cpu.engine.count + self._cpu.engine.tsc_base

    @property
    def time_stamp_adjustment(self) -> int:
        """The counter is where it was."""
        return 0

    def move_time_stamp(self, adjustment: int) -> None:
        """User space keeps time.

        :raises ProcessorFault: #GP(0), unless the counter stays where it is.
        """
        if adjustment:
            raise general_protection(0)

    def report_x87_error(self) -> None:
        """FERR#: user space's board has no wire for it, as /dev/kvm has none, and the vCPU sleeps."""

    def disturbed(self) -> bool:
        """Repeated I/O stops at every iteration: user space sees each."""
        return True

    def read_port(self, port: Port, size: int) -> int:
        """Every port access exits before the bus is asked."""
        raise MonitorError(f"IN from port {port:#x}, {size} bytes, that did not exit")

    def write_port(self, port: Port, size: int, value: int) -> None:
        """Likewise."""
        raise MonitorError(f"OUT of {value:#x} to port {port:#x}, {size} bytes, that did not exit")
