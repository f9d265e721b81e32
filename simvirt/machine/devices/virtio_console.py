"""A console by virtio (VIRTIO 1.2 §5.3 "Console Device"): one port, without a size.

Input that the driver has no buffer for waits at the other end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.virtio_mmio import VirtioMmio
from simvirt.machine.devices.virtqueue import QueueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.clock import Clock
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.devices.virtio_mmio import DeviceContent
    from simvirt.machine.direct_memory import DirectMemory
    from simvirt.machine.event_queue import EventQueue

RECEIVE, TRANSMIT = 0, 1
LARGEST_OUTPUT: Final = 1 << 20
"""Bytes that one buffer may hold for output; a longer one is an error of the driver's."""


class VirtioConsole(VirtioMmio):
    """The console; `on_output` takes each byte of output."""

    device_id: ClassVar[int] = 3
    queue_count: ClassVar[int] = 2

    def __init__(
        self,
        clock: Clock,
        events: EventQueue,
        line: InterruptLine,
        memory: DirectMemory,
        on_output: Callable[[int], None],
    ) -> None:
        self._on_output = on_output
        self._input = bytearray()
        super().__init__("virtio-console", clock, events, line, memory)

    def receive(self, data: bytes) -> None:
        """Input, for the driver to receive."""
        self._input += data
        self.notify()

    def awaits_input(self) -> bool:
        """Would input reach a driver that has a buffer for it?"""
        return self.running and self.queues[RECEIVE].has_buffers

    def serve(self) -> bool:
        """Output, and as much input as there are buffers for."""
        wanted = False
        transmit, receive = self.queues[TRANSMIT], self.queues[RECEIVE]
        while (chain := transmit.next()) is not None:
            if chain.readable_size > LARGEST_OUTPUT:
                raise QueueError("a buffer of output is too long")
            for byte in chain.read(self.memory, 0, chain.readable_size):
                self._on_output(byte)
            wanted |= transmit.done(chain, 0)
        while self._input and (chain := receive.next()) is not None:
            data = bytes(self._input[: chain.writable_size])
            chain.write(self.memory, 0, data)
            del self._input[: len(data)]
            wanted |= receive.done(chain, len(data))
        return wanted

    def save_device(self) -> DeviceContent:
        """The input that waits."""
        return ((RECEIVE, bytes(self._input)),)

    def restore_device(self, content: DeviceContent) -> None:
        """Take it up."""
        self._input = bytearray(dict(content)[RECEIVE])
