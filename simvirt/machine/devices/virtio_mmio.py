"""virtio over memory-mapped registers: what all such devices share.

Source: VIRTIO 1.2, §2.1 "Device Status Field", §4.2 "Virtio Over MMIO". The interface is version 2, not the legacy one.
A driver's notification is dealt with `LATENCY_NS` of virtual time later, as a real device needs its time, all buffers
that are there by then at once. A driver that breaks the rules of the rings, or names memory that is none, finds
DEVICE_NEEDS_RESET in the status and an interrupt (§2.1.2); until it resets the device, nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from simvirt.machine.devices.virtqueue import LARGEST_QUEUE, QueueError, QueueState, Virtqueue
from simvirt.machine.direct_memory import MasterAbort

if TYPE_CHECKING:
    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.direct_memory import DirectMemory
    from simvirt.machine.event_queue import EventQueue

LATENCY_NS: Final = 20_000
MAGIC: Final = int.from_bytes(b"virt", "little")
INTERFACE_VERSION: Final = 2
VENDOR: Final = int.from_bytes(b"simv", "little")


class MmioRegister(IntEnum):
    """Offsets (VIRTIO 1.2 Table 4.1)."""

    MAGIC = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR_ID = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SEL = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SEL = 0x024
    QUEUE_SEL = 0x030
    QUEUE_SIZE_MAX = 0x034
    QUEUE_SIZE = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    QUEUE_DESC_LOW = 0x080
    QUEUE_DESC_HIGH = 0x084
    QUEUE_DRIVER_LOW = 0x090
    QUEUE_DRIVER_HIGH = 0x094
    QUEUE_DEVICE_LOW = 0x0A0
    QUEUE_DEVICE_HIGH = 0x0A4
    CONFIG_GENERATION = 0x0FC
    CONFIG = 0x100


class Status(IntFlag):
    """The device status field (VIRTIO 1.2 §2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class InterruptCause(IntFlag):
    """Bits of InterruptStatus."""

    USED_BUFFER = 1
    CONFIGURATION_CHANGE = 2


INDIRECT_DESCRIPTORS: Final = 1 << 28
VERSION_1: Final = 1 << 32
_R: Final = MmioRegister
_AREAS: Final = {
    _R.QUEUE_DESC_LOW: ("descriptors", 0), _R.QUEUE_DESC_HIGH: ("descriptors", 32),
    _R.QUEUE_DRIVER_LOW: ("driver", 0), _R.QUEUE_DRIVER_HIGH: ("driver", 32),
    _R.QUEUE_DEVICE_LOW: ("device", 0), _R.QUEUE_DEVICE_HIGH: ("device", 32),
}  # fmt: skip


DeviceContent: TypeAlias = tuple[tuple[int, bytes], ...]
"""What a kind of device knows itself, as numbered pieces."""


@dataclass(frozen=True, slots=True)
class VirtioState:
    """What the transport knows of a device, and what the device knows itself."""

    status: int
    interrupts: int
    features: int
    device_features_sel: int
    driver_features_sel: int
    queue_sel: int
    queues: tuple[QueueState, ...]
    device: DeviceContent


class VirtioMmio:
    """The registers of a virtio device; a kind of device says what it is, and deals with its queues' buffers."""

    state_type: ClassVar[type] = VirtioState
    device_id: ClassVar[int]
    queue_count: ClassVar[int]
    features: ClassVar[int] = 0
    """Of the device's kind, beside those of every device here."""

    def __init__(self, name: str, clock: Clock, events: EventQueue, line: InterruptLine, memory: DirectMemory) -> None:
        self._event = f"{name}.work"
        self._clock = clock
        self._events = events
        self._line = line
        self.memory = memory
        self.queues = tuple(Virtqueue(memory) for _ in range(self.queue_count))
        events.register(self._event, self._work)
        self._status = self._interrupts = self._features = 0
        self._device_features_sel = self._driver_features_sel = self._queue_sel = 0

    # ---------------------------------------------------------------------------------------- the device's kind

    def configuration(self) -> bytes:
        """The device's configuration space."""
        return b""

    def serve(self) -> bool:
        """Deal with the buffers that are there; does the driver want an interrupt?

        :raises QueueError: the driver has broken the rules of the rings.
        :raises MasterAbort: a buffer is not in memory.
        """
        raise NotImplementedError

    def reset_device(self) -> None:
        """The device's own part of a reset."""

    def save_device(self) -> DeviceContent:
        """The device's own state, as a value."""
        return ()

    def restore_device(self, content: DeviceContent) -> None:
        """Take it up."""

    # ---------------------------------------------------------------------------------------- work

    @property
    def running(self) -> bool:
        """Has a driver taken the device over, and broken no rule?"""
        return self._status & (Status.DRIVER_OK | Status.DEVICE_NEEDS_RESET) == Status.DRIVER_OK

    def notify(self) -> None:
        """There may be something to do, a little later."""
        if self.running and self._events.pending(self._event) is None:
            self._events.schedule(self._event, self._clock.now() + LATENCY_NS)

    def _work(self) -> None:
        if not self.running:
            return
        try:
            if self.serve():
                self._raise(InterruptCause.USED_BUFFER)
        except (QueueError, MasterAbort):
            self._status |= Status.DEVICE_NEEDS_RESET
            self._raise(InterruptCause.CONFIGURATION_CHANGE)

    def _raise(self, cause: InterruptCause) -> None:
        self._interrupts |= int(cause)
        self._line(True)

    # ---------------------------------------------------------------------------------------- registers

    def read(self, offset: int, size: AccessSize) -> int:
        """A register, which takes 32-bit accesses alone, or bytes of the configuration space (§4.2.2.2)."""
        if offset >= _R.CONFIG:
            at = offset - _R.CONFIG
            return int.from_bytes(self.configuration()[at : at + size].ljust(size, b"\0"), "little")
        return self._read_register(offset) if size == 4 and not offset & 3 else 0

    def _read_register(self, offset: int) -> int:
        queue = self._queue
        values = {
            _R.MAGIC: MAGIC,
            _R.VERSION: INTERFACE_VERSION,
            _R.DEVICE_ID: self.device_id,
            _R.VENDOR_ID: VENDOR,
            _R.DEVICE_FEATURES: _half(self._offered, self._device_features_sel),
            _R.QUEUE_SIZE_MAX: 0 if queue is None else LARGEST_QUEUE,
            _R.QUEUE_READY: 0 if queue is None else int(queue.ready),
            _R.INTERRUPT_STATUS: self._interrupts,
            _R.STATUS: self._status,
        }
        return values.get(offset, 0)  # type: ignore[call-overload,no-any-return]  # a plain integer looks up enum keys

    @property
    def _offered(self) -> int:
        return self.features | INDIRECT_DESCRIPTORS | VERSION_1

    @property
    def _queue(self) -> Virtqueue | None:
        return self.queues[self._queue_sel] if self._queue_sel < self.queue_count else None

    def write(self, offset: int, size: AccessSize, value: int) -> None:
        """A register; nothing in the configuration space can be written."""
        if size != 4 or offset & 3 or offset >= _R.CONFIG:
            return
        if offset == _R.DEVICE_FEATURES_SEL:
            self._device_features_sel = value
        elif offset == _R.DRIVER_FEATURES_SEL:
            self._driver_features_sel = value
        elif offset == _R.DRIVER_FEATURES:
            self._take_features(value)
        elif offset == _R.QUEUE_SEL:
            self._queue_sel = value
        elif offset == _R.QUEUE_NOTIFY:
            self.notify()
        elif offset == _R.INTERRUPT_ACK:
            self._interrupts &= ~value
            self._line(bool(self._interrupts))
        elif offset == _R.STATUS:
            self._write_status(value)
        elif self._queue is not None:
            self._write_queue(self._queue, offset, value)

    def _take_features(self, value: int) -> None:
        if self._status & Status.FEATURES_OK or self._driver_features_sel > 1:
            return
        shift = 32 * self._driver_features_sel
        self._features = self._features & ~(0xFFFF_FFFF << shift) | value << shift

    def _write_queue(self, queue: Virtqueue, offset: int, value: int) -> None:
        if offset == _R.QUEUE_READY:
            queue.ready = bool(value & 1)
        elif queue.ready:
            return  # its areas stay where they are (§4.2.2.2)
        elif offset == _R.QUEUE_SIZE:
            if 0 < value <= LARGEST_QUEUE and not value & value - 1:
                queue.size = value
        elif offset in _AREAS:
            name, shift = _AREAS[MmioRegister(offset)]
            address: int = getattr(queue, name)
            setattr(queue, name, address & ~(0xFFFF_FFFF << shift) | value << shift)

    def _write_status(self, value: int) -> None:
        if value == 0:
            self.reset()
            return
        kept = self._status & Status.DEVICE_NEEDS_RESET
        self._status = value & 0xBF | kept
        # A driver of the legacy interface, or one that wants what is not offered, is refused here (§3.1.1).
        if self._features & ~self._offered or not self._features & VERSION_1:
            self._status &= ~int(Status.FEATURES_OK)
        self.notify()

    # ---------------------------------------------------------------------------------------- state

    def reset(self) -> None:
        """As at power-on."""
        self._status = self._interrupts = self._features = 0
        self._device_features_sel = self._driver_features_sel = self._queue_sel = 0
        for queue in self.queues:
            queue.reset()
        self._events.cancel(self._event)
        self._line(False)
        self.reset_device()

    def save(self) -> VirtioState:
        """Everything, as a value."""
        return VirtioState(
            self._status, self._interrupts, self._features, self._device_features_sel, self._driver_features_sel,
            self._queue_sel, tuple(queue.save() for queue in self.queues), self.save_device(),
        )  # fmt: skip

    def restore(self, state: VirtioState) -> None:
        """Take up a saved state."""
        self._status, self._interrupts, self._features = state.status, state.interrupts, state.features
        self._device_features_sel, self._driver_features_sel = state.device_features_sel, state.driver_features_sel
        self._queue_sel = state.queue_sel
        for queue, saved in zip(self.queues, state.queues, strict=True):
            queue.restore(saved)
        self.restore_device(state.device)


def _half(features: int, select: int) -> int:
    return features >> 32 * select & 0xFFFF_FFFF if select < 2 else 0
