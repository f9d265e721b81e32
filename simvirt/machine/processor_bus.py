"""The processor's bus, as the processor sees it: whatever answers its accesses and questions, a PC or a VMM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from simvirt.machine.devices.local_apic import LocalApic
    from simvirt.machine.memory import Region
    from simvirt.x86.addresses import Gpa, Port
    from simvirt.x86.cpuid import CpuModel


class Bus(Protocol):
    """What lies outside the processor: ports, device memory, time, and the model that CPUID tells of."""

    cpu_model: CpuModel

    @property
    def local_apic(self) -> LocalApic | None:
        """The processor's local APIC, if it has one."""
        ...

    def read_port(self, port: Port, size: int) -> int:
        """IN of `size` bytes: 1, 2 or 4."""
        ...

    def write_port(self, port: Port, size: int, value: int) -> None:
        """OUT of `size` bytes."""
        ...

    def disturbed(self) -> bool:
        """Does a device want something of the processor now: an interrupt, a moment that has come, the run's end?"""
        ...

    def read_memory(self, gpa: Gpa, size: int) -> int:
        """Read of device memory."""
        ...

    def write_memory(self, gpa: Gpa, size: int, value: int) -> None:
        """Write of device memory."""
        ...

    def region(self, gpa: Gpa) -> Region | None:
        """The region that holds a guest-physical address, or None in a hole."""
        ...

    def report_x87_error(self) -> None:
        """FERR#: an x87 exception is to be reported, and CR0.NE is 0 (SDM Vol. 1 §8.7.2)."""
        ...

    def time_stamp(self) -> int:
        """What RDTSC reads."""
        ...

    @property
    def time_stamp_adjustment(self) -> int:
        """What the time-stamp counter has been moved by, modulo 2**64: IA32_TSC_ADJUST (SDM Vol. 3B §18.17.3)."""
        ...

    def move_time_stamp(self, adjustment: int) -> None:
        """Set that, and with it the counter."""
        ...
