"""The port bus: who answers which I/O port, and what happens when nobody does.

The 64 Ki ports are an address space of their own, reached by IN and OUT in widths of 8, 16 and 32 bits (SDM Vol. 1
§19.3 "I/O Address Space"). Most devices of a PC are eight bits wide. As on the ISA bus, an access that is wider than
the device is cut in halves until the device can take the pieces, lower port first: a word read of port 0x40 becomes a
byte read of 0x40 and one of 0x41. A device that is wider says so when it claims its ports, per width; two devices may
even share a port in different widths, as the PCI configuration address (a doubleword at 0xCF8) and the reset control
register (a byte at 0xCF9) do.

Where nobody answers, the data lines float high: a read gives all ones, a write is lost. Each such access is counted
in `unclaimed`, so that a report can say which hardware a guest looked for and did not find.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from simvirt.errors import MonitorError
from simvirt.x86.addresses import Port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

AccessSize: TypeAlias = Literal[1, 2, 4]
"""Bytes that one IN or OUT moves."""

ACCESS_SIZES: Final[tuple[AccessSize, ...]] = (1, 2, 4)

UNCLAIMED_LIMIT: Final = 1024
"""Different unclaimed accesses that are kept apart; a guest that probes every port must not fill the host's memory."""


class IoDirection(Enum):
    """Which way the data goes, seen from the processor."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the bus looks unclaimed accesses up by it

    IN = "in"
    OUT = "out"


class PortDevice(Protocol):
    """What the bus needs of a device; `offset` counts the ports that the device claimed, in that order, from zero."""

    def read(self, offset: int, size: AccessSize, /) -> int:
        """Answer an IN of a width that the device claimed; the value has no bit above that width."""
        ...

    def write(self, offset: int, size: AccessSize, value: int, /) -> None:
        """Take an OUT of a width that the device claimed."""
        ...


@dataclass(frozen=True, slots=True)
class UnclaimedAccess:
    """An access that no device answered, and how often it happened.

    An access that hit a device with a part of its bytes is listed by the bytes that it missed with.
    """

    port: Port
    size: int
    """Bytes: 1, 2 or 4."""
    direction: IoDirection
    value: int
    """The value written last; for a read the all ones that it gave."""
    count: int


@dataclass(frozen=True, slots=True)
class BusState:
    """What a snapshot holds of the bus. The claims are made by the board and are not part of it."""

    unclaimed: tuple[UnclaimedAccess, ...]
    unlisted: int


class PortBus:
    """The I/O ports of one PC or VM.

    >>> bus = PortBus()
    >>> hex(bus.read(Port(0x80), 2))
    '0xffff'
    >>> bus.unclaimed[0].count
    1
    """

    __slots__ = ("_log", "_readers", "_writers", "unlisted")

    def __init__(self) -> None:
        # By width, then by the access's first port. Bound methods and offsets are looked up once here, not at every
        # access.
        self._readers: dict[int, dict[int, tuple[Callable[[int, AccessSize], int], int]]] = {1: {}, 2: {}, 4: {}}
        self._writers: dict[int, dict[int, tuple[Callable[[int, AccessSize, int], None], int]]] = {1: {}, 2: {}, 4: {}}
        self._log: dict[tuple[Port, int, IoDirection], list[int]] = {}
        self.unlisted = 0
        """Unclaimed accesses beyond the first UNCLAIMED_LIMIT different ones: counted, not listed."""

    def claim(self, device: PortDevice, *ports: range, widths: Iterable[AccessSize] = (1,)) -> None:
        """Let `device` answer these ports, in accesses of these widths. Wider ones are split for it.

        A wide access must lie inside one of the ranges to reach the device whole.

        Raises:
            MonitorError: a port is outside 0 to 0xFFFF, or another device answers it in the same width. Nothing is
                claimed then.
        """
        entries: dict[tuple[AccessSize, int], int] = {}
        first_offset = 0
        for span in ports:
            if not span or span.step != 1 or span.start < 0 or span.stop > 0x10000:
                raise MonitorError(f"cannot claim the ports {span}: a claim is a run of ports within 0 to 0xFFFF")
            for width in widths:
                for port in range(span.start, span.stop - width + 1):
                    if port in self._readers[width] or (width, port) in entries:
                        owner = self._owner(width, port) or "the same claim"
                        raise MonitorError(
                            f"port {port:#x} is claimed twice in width {width}, by {owner} and by "
                            f"{type(device).__name__}: give the devices different ports"
                        )
                    entries[width, port] = first_offset + port - span.start
            first_offset += len(span)
        for (width, port), offset in entries.items():
            self._readers[width][port] = (device.read, offset)
            self._writers[width][port] = (device.write, offset)

    def read(self, port: Port, size: AccessSize) -> int:
        """IN: the value that the device at `port` gives, or all ones where there is none."""
        entry = self._readers[size].get(port)
        if entry is not None:
            return entry[0](entry[1], size)
        if size == 1 or not self._answers_part(port, size):
            value = (1 << 8 * size) - 1
            self._note(port, size, IoDirection.IN, value)
            return value
        half: AccessSize = 2 if size == 4 else 1
        low = self.read(port, half)
        return low | self.read(Port(port + half), half) << 8 * half

    def write(self, port: Port, size: AccessSize, value: int) -> None:
        """OUT: hand `value` to the device at `port`; where there is none it is lost."""
        entry = self._writers[size].get(port)
        if entry is not None:
            entry[0](entry[1], size, value)
        elif size == 1 or not self._answers_part(port, size):
            self._note(port, size, IoDirection.OUT, value)
        else:
            half: AccessSize = 2 if size == 4 else 1
            self.write(port, half, value & (1 << 8 * half) - 1)
            self.write(Port(port + half), half, value >> 8 * half)

    def answers(self, port: Port, size: int) -> bool:
        """Whether a device would take any part of this access."""
        return port in self._readers[size] or (size > 1 and self._answers_part(port, size))

    @property
    def unclaimed(self) -> list[UnclaimedAccess]:
        """What nobody answered, in the order in which it was first tried."""
        return [
            UnclaimedAccess(port, size, direction, value, count)
            for (port, size, direction), (value, count) in self._log.items()
        ]

    def clear_unclaimed(self) -> None:
        """Forget what nobody answered."""
        self._log.clear()
        self.unlisted = 0

    def save(self) -> BusState:
        """The state for a snapshot."""
        return BusState(tuple(self.unclaimed), self.unlisted)

    def restore(self, state: BusState) -> None:
        """Take up a saved state."""
        self._log = {(entry.port, entry.size, entry.direction): [entry.value, entry.count] for entry in state.unclaimed}
        self.unlisted = state.unlisted

    def _owner(self, width: int, port: int) -> str | None:
        entry = self._readers[width].get(port)
        return type(getattr(entry[0], "__self__", entry[0])).__name__ if entry else None

    def _answers_part(self, port: int, size: int) -> bool:
        """Whether any piece of a wide access would find a device."""
        words = self._readers[2]
        if size == 4 and (port in words or port + 2 in words):
            return True
        single = self._readers[1]
        return any(port + i in single for i in range(size))

    def _note(self, port: Port, size: int, direction: IoDirection, value: int) -> None:
        entry = self._log.get((port, size, direction))
        if entry is not None:
            entry[0] = value
            entry[1] += 1
        elif len(self._log) < UNCLAIMED_LIMIT:
            self._log[port, size, direction] = [value, 1]
        else:
            self.unlisted += 1
