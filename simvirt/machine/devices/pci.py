"""PCI configuration space by configuration mechanism 1, and a host bridge as the only device in it.

Written from the PCI Local Bus Specification 2.1, section 3.7.4.1 "Configuration Mechanism #1" and chapter 6
"Configuration Space". The doubleword at 0xCF8 chooses bus, device, function and register; 0xCFC to 0xCFF are the
register's bytes. What is not there reads as all ones, as after a master abort. The bridge identifies itself as the
440FX of the chip set whose other parts this PC follows (Intel 82441FX data sheet, chapter 3), and keeps what is written
to the registers that data sheet lets be written, without any effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from simvirt.machine.bus import AccessSize

ADDRESS_PORTS: Final = range(0xCF8, 0xCFC)
DATA_PORTS: Final = range(0xCFC, 0xD00)
ENABLE: Final = 1 << 31
WRITABLE_ADDRESS: Final = 0x80FFFFFC
_SPACE: Final = 256

VENDOR_INTEL: Final = 0x8086
DEVICE_440FX: Final = 0x1237
CLASS_HOST_BRIDGE: Final = 0x0600
REVISION: Final = 2
COMMAND: Final = 0x0006
"""Memory access enable and bus master enable, which this bridge hard-wires to 1."""
STATUS: Final = 0x0200
_DEVICE_SPECIFIC: Final = range(0x50, 0x100)
_LATENCY_TIMER: Final = 0x0D


@dataclass(frozen=True, slots=True)
class PciState:
    """The configuration address, and the bridge's registers."""

    address: int
    registers: bytes


class PciHost:
    """The configuration address, and the host bridge at bus 0, device 0, function 0."""

    __slots__ = ("_address", "_registers")
    state_type: ClassVar[type] = PciState

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Power-on."""
        self._address = 0
        header = bytearray(_SPACE)
        for at, value in ((0, VENDOR_INTEL), (2, DEVICE_440FX), (4, COMMAND), (6, STATUS), (10, CLASS_HOST_BRIDGE)):
            header[at : at + 2] = value.to_bytes(2, "little")
        header[8] = REVISION
        self._registers = header

    def read(self, _offset: int, _size: AccessSize) -> int:
        """The configuration address; only doublewords reach it."""
        return self._address

    def write(self, _offset: int, _size: AccessSize, value: int) -> None:
        """Choose a register."""
        self._address = value & WRITABLE_ADDRESS

    def read_data(self, byte: int, size: AccessSize) -> int:
        """Bytes of the register that is chosen."""
        at = self._chosen(byte)
        if at is None:
            return (1 << 8 * size) - 1
        return int.from_bytes(self._registers[at : at + size], "little")

    def write_data(self, byte: int, size: AccessSize, value: int) -> None:
        """Write to the register that is chosen."""
        at = self._chosen(byte)
        if at is None:
            return
        for place, octet in enumerate(value.to_bytes(size, "little"), at):
            if place in _DEVICE_SPECIFIC or place == _LATENCY_TIMER:
                self._registers[place] = octet

    def save(self) -> PciState:
        """Everything, as a value."""
        return PciState(self._address, bytes(self._registers))

    def restore(self, state: PciState) -> None:
        """Take up a saved state."""
        self._address = state.address
        self._registers = bytearray(state.registers)

    def _chosen(self, byte: int) -> int | None:
        """The place in the bridge's configuration space; None where no device answers."""
        if self._address & ~0xFF != ENABLE:
            return None
        return (self._address & 0xFC) + byte


@dataclass(frozen=True, slots=True)
class PciDataState:
    """Nothing: the registers are the host's."""


class PciData:
    """The data ports of configuration space, which take accesses of every width."""

    __slots__ = ("_host",)
    state_type: ClassVar[type] = PciDataState

    def __init__(self, host: PciHost) -> None:
        self._host = host

    def read(self, offset: int, size: AccessSize) -> int:
        """Bytes of the register that the configuration address chooses."""
        return self._host.read_data(offset, size)

    def write(self, offset: int, size: AccessSize, value: int) -> None:
        """Write to that register."""
        self._host.write_data(offset, size, value)

    def reset(self) -> None:
        """Nothing to reset."""

    def save(self) -> PciDataState:
        """The (empty) state for a snapshot."""
        return PciDataState()

    def restore(self, state: PciDataState) -> None:
        """Take up a saved state."""
