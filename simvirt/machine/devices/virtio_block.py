"""A disk by virtio (VIRTIO 1.2 §5.2 "Block Device").

Requests are in, out, flush and get-ID; others are answered with VIRTIO_BLK_S_UNSUPP. A request that reaches beyond the
disk, or has a part of a sector, moves nothing and gives VIRTIO_BLK_S_IOERR.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.virtio_mmio import VirtioMmio
from simvirt.machine.devices.virtqueue import QueueError
from simvirt.machine.disk import SECTOR

if TYPE_CHECKING:
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.devices.virtio_mmio import DeviceContent
    from simvirt.machine.devices.virtqueue import Chain
    from simvirt.machine.direct_memory import DirectMemory
    from simvirt.machine.disk import DiskImage
    from simvirt.machine.event_queue import EventQueue

SEGMENTS: Final = 126
LARGEST_REQUEST: Final = 16 << 20
"""Bytes that one request moves at most; a longer one is an error, for it could hold the host for minutes."""
IDENTITY: Final = b"simvirt disk".ljust(20, b"\0")
_HEADER: Final = struct.Struct("<IIQ")
_SEG_MAX, _BLK_SIZE, _FLUSH = 1 << 2, 1 << 6, 1 << 9


class RequestType(IntEnum):
    """VIRTIO_BLK_T_*."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8


class RequestStatus(IntEnum):
    """VIRTIO_BLK_S_*, the last byte of a request."""

    OK = 0
    IOERR = 1
    UNSUPP = 2


class VirtioBlock(VirtioMmio):
    """The disk."""

    device_id: ClassVar[int] = 2
    queue_count: ClassVar[int] = 1
    features: ClassVar[int] = _SEG_MAX | _BLK_SIZE | _FLUSH

    def __init__(
        self, clock: Clock, events: EventQueue, line: InterruptLine, memory: DirectMemory, disk: DiskImage
    ) -> None:
        self._disk = disk
        super().__init__("virtio-block", clock, events, line, memory)

    def configuration(self) -> bytes:
        """§5.2.4: capacity in sectors, segments of a request, size of a block."""
        return struct.pack("<QII4xI", self._disk.sectors, 0, SEGMENTS, SECTOR).ljust(60, b"\0")

    def serve(self) -> bool:
        """All requests that wait."""
        wanted = False
        queue = self.queues[0]
        while (chain := queue.next()) is not None:
            wanted |= queue.done(chain, self._perform(chain))
        return wanted

    def _perform(self, chain: Chain) -> int:
        """Do a request; gives the bytes written to its buffers."""
        room = chain.writable_size - 1
        if chain.readable_size < _HEADER.size or room < 0:
            raise QueueError("a request without its header or its status")
        kind, _, sector = _HEADER.unpack(chain.read(self.memory, 0, _HEADER.size))
        status, written = RequestStatus.OK, 0
        if kind == RequestType.IN:
            status, written = self._read(chain, sector, room), room
        elif kind == RequestType.OUT:
            status = self._write(chain, sector, chain.readable_size - _HEADER.size)
        elif kind == RequestType.GET_ID:
            chain.write(self.memory, 0, IDENTITY[:room])
            written = min(room, len(IDENTITY))
        elif kind == RequestType.FLUSH:
            self._disk.flush()
        else:
            status = RequestStatus.UNSUPP
        chain.write(self.memory, room, bytes([status]))
        return (written if status is RequestStatus.OK else 0) + 1

    def _reaches(self, sector: int, size: int) -> bool:
        return not size % SECTOR and size <= LARGEST_REQUEST and sector + size // SECTOR <= self._disk.sectors

    def _read(self, chain: Chain, sector: int, size: int) -> RequestStatus:
        if not self._reaches(sector, size):
            return RequestStatus.IOERR
        for piece in chain.writable:
            self.memory.require(piece.gpa, piece.size)
        for number in range(size // SECTOR):
            chain.write(self.memory, number * SECTOR, self._disk.read(sector + number))
        return RequestStatus.OK

    def _write(self, chain: Chain, sector: int, size: int) -> RequestStatus:
        if not self._reaches(sector, size):
            return RequestStatus.IOERR
        data = chain.read(self.memory, _HEADER.size, size)  # all of it, before the first sector changes
        for number in range(size // SECTOR):
            self._disk.write(sector + number, data[number * SECTOR : (number + 1) * SECTOR])
        return RequestStatus.OK

    def save_device(self) -> DeviceContent:
        """The sectors that differ from the disk's file."""
        return tuple(self._disk.save().items())

    def restore_device(self, content: DeviceContent) -> None:
        """Go back to that."""
        self._disk.restore(dict(content))
