"""What lies around the probed processor: one port with a device's register behind it, a clock, a name for CPUID."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.x86.cpuid import CpuModel, find_cpu_model

if TYPE_CHECKING:
    from simvirt.machine.devices.local_apic import LocalApic
    from simvirt.machine.memory import AddressSpace, Region
    from simvirt.x86.addresses import Gpa, Port


class Surroundings:
    """A processor's bus (`machine.processor_bus.Bus`) of which every answer is part of the state.

    :ivar port_value: what a device behind every port holds: IN reads it, OUT writes it.
    :ivar time: what the time-stamp counter reads.
    :ivar activity: in words: running, or in HLT.
    """

    def __init__(self, space: AddressSpace, cpu_model: str) -> None:
        self._space = space
        self.cpu_model: CpuModel = find_cpu_model(cpu_model)
        self.local_apic: LocalApic | None = None
        """None: the state that experiments compare is the processor's alone."""
        self.port_value = 0
        self.time = 0
        self.activity = "running"

    def set_cpu_model(self, name: str) -> None:
        """Answer CPUID as this model."""
        self.cpu_model = find_cpu_model(name)

    def read_port(self, port: Port, size: int) -> int:
        """The device's register, repeated as often as the access is wide."""
        del port
        return int.from_bytes(bytes([self.port_value]) * size, "little")

    def write_port(self, port: Port, size: int, value: int) -> None:
        """The low byte goes to the device's register."""
        del port, size
        self.port_value = value & 0xFF

    def report_x87_error(self) -> None:
        """FERR#: nobody listens."""

    def disturbed(self) -> bool:
        """Always: an experiment is one instruction, and of a repeated one a single iteration."""
        return True

    def claims_port(self, port: Port, size: int) -> bool:
        """A device answers at every port."""
        del port, size
        return True

    def read_memory(self, gpa: Gpa, size: int) -> int:
        """Nothing lies beside memory: ones."""
        del gpa
        return (1 << 8 * size) - 1

    def write_memory(self, gpa: Gpa, size: int, value: int) -> None:
        """Nothing lies beside memory."""

    @property
    def time_stamp_adjustment(self) -> int:
        """What it has been moved by is no part of that state."""
        return 0

    def move_time_stamp(self, adjustment: int) -> None:
        """WRMSR of the counter."""
        self.time = self.time + adjustment & 0xFFFF_FFFF_FFFF_FFFF

    def time_stamp(self) -> int:
        """The time-stamp counter: it stands still, being part of the state that an experiment sets."""
        return self.time

    def region(self, gpa: Gpa) -> Region | None:
        """The region that holds a guest-physical address, or None."""
        return self._space.region(gpa)
