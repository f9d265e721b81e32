"""The memory bus: which device answers at which guest-physical addresses.

Accesses are powers of two of up to eight bytes, within one page, as `machine.device_access` makes them. Devices have
32 bits: eight bytes are two accesses, the lower one first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from simvirt.errors import MonitorError
from simvirt.x86.addresses import PAGE_SIZE

if TYPE_CHECKING:
    from simvirt.machine.bus import AccessSize, PortDevice
    from simvirt.x86.addresses import Gpa

WIDEST: Final = 4


class MemoryBus:
    """The devices of one PC or VM that have registers in memory.

    :ivar ranges: the guest-physical ranges that are claimed, whole pages, with the names of their owners.
    """

    def __init__(self) -> None:
        self.ranges: list[tuple[range, str]] = []
        self._devices: list[tuple[range, PortDevice]] = []

    def claim(self, device: PortDevice, name: str, addresses: range) -> None:
        """Let `device` answer at these addresses.

        :raises MonitorError: they are not whole pages, or another device is there.
        """
        if (addresses.start | addresses.stop) % PAGE_SIZE or not addresses:
            raise MonitorError(f"'{name}' claims the memory {addresses}: whole pages are needed")
        for other, owner in self.ranges:
            if other.start < addresses.stop and addresses.start < other.stop:
                raise MonitorError(f"'{name}' and '{owner}' claim the same memory, at {addresses.start:#x}")
        self.ranges.append((addresses, name))
        self._devices.append((addresses, device))

    def read(self, gpa: Gpa, size: int) -> int:
        """What the device gives; ones where there is none."""
        for addresses, device in self._devices:
            if gpa in addresses:
                offset = gpa - addresses.start
                if size > WIDEST:
                    return device.read(offset, 4) | device.read(offset + 4, 4) << 32
                return device.read(offset, cast("AccessSize", size))
        return (1 << 8 * size) - 1

    def write(self, gpa: Gpa, size: int, value: int) -> None:
        """Hand the value to the device; dropped where there is none."""
        for addresses, device in self._devices:
            if gpa in addresses:
                offset = gpa - addresses.start
                if size > WIDEST:
                    device.write(offset, 4, value & 0xFFFF_FFFF)
                    device.write(offset + 4, 4, value >> 32)
                else:
                    device.write(offset, cast("AccessSize", size), value)
                return
