"""Split virtqueues: rings in the guest's memory by which a driver hands buffers to a device.

Source: Virtual I/O Device (VIRTIO) 1.2, §2.7 "Split Virtqueues". What a driver does wrong there, a descriptor that is
not in the table, a chain in a circle, an index that has run ahead, memory that is none, ends in a `QueueError`, after
which the device asks to be reset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.direct_memory import MasterAbort

if TYPE_CHECKING:
    from simvirt.machine.direct_memory import DirectMemory

LARGEST_QUEUE: Final = 256
_DESCRIPTOR_SIZE: Final = 16
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT: Final = 1
_INDEX: Final = 0xFFFF


class QueueError(Exception):
    """The driver has broken the rules of the rings."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """All that a device knows of a queue."""

    size: int
    ready: bool
    descriptors: int
    driver: int
    device: int
    seen: int
    """Buffers taken from the available ring, modulo 65536."""
    used: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of guest-physical memory."""

    gpa: int
    size: int


@dataclass(frozen=True, slots=True)
class Chain:
    """One buffer: what the device may read, and behind it what it may write (§2.7.4.2)."""

    head: int
    readable: tuple[Piece, ...]
    writable: tuple[Piece, ...]

    @property
    def readable_size(self) -> int:
        """Bytes that the driver has for the device."""
        return sum(piece.size for piece in self.readable)

    @property
    def writable_size(self) -> int:
        """Bytes that the device may fill."""
        return sum(piece.size for piece in self.writable)

    def read(self, memory: DirectMemory, offset: int, size: int) -> bytes:
        """Bytes of the readable part.

        :raises MasterAbort: they are not in RAM.
        """
        return b"".join(memory.read(piece.gpa, piece.size) for piece in _cut(self.readable, offset, size))

    def write(self, memory: DirectMemory, offset: int, data: bytes) -> None:
        """Fill bytes of the writable part.

        :raises MasterAbort: they are not in RAM.
        """
        at = 0
        for piece in _cut(self.writable, offset, len(data)):
            memory.write(piece.gpa, data[at : at + piece.size])
            at += piece.size


def _cut(pieces: tuple[Piece, ...], offset: int, size: int) -> list[Piece]:
    found = []
    for piece in pieces:
        if size <= 0:
            break
        if offset < piece.size:
            length = min(piece.size - offset, size)
            found.append(Piece(piece.gpa + offset, length))
            size -= length
            offset = 0
        else:
            offset -= piece.size
    return found


class Virtqueue:
    """The device's side of one queue.

    :ivar size: entries, as the driver chose.
    :ivar descriptors: address of the first of its areas; the others are `driver`, the available ring, and
        `device`, the used ring.
    """

    def __init__(self, memory: DirectMemory) -> None:
        self._memory = memory
        self.reset()

    def reset(self) -> None:
        """As after a reset of the device."""
        self.size = LARGEST_QUEUE
        self.ready = False
        self.descriptors = self.driver = self.device = 0
        self._seen = self._used = 0

    def next(self) -> Chain | None:
        """The next buffer that the driver has made available, taken out of the ring; None when there is no more.

        :raises QueueError: the driver has broken the rules.
        """
        if not self.ready:
            return None
        try:
            waiting = self._memory.read_integer(self.driver + 2, 2) - self._seen & _INDEX
            if not waiting:
                return None
            if waiting > self.size:
                raise QueueError("the available ring's index has run ahead")
            head = self._memory.read_integer(self.driver + 4 + 2 * (self._seen % self.size), 2)
            self._seen = self._seen + 1 & _INDEX
            return self._chain(head)
        except MasterAbort as abort:
            raise QueueError(str(abort)) from None

    @property
    def has_buffers(self) -> bool:
        """Has the driver made any available? A ring outside memory has none."""
        if not self.ready:
            return False
        try:
            return bool(self._memory.read_integer(self.driver + 2, 2) - self._seen & _INDEX)
        except MasterAbort:
            return False

    def done(self, chain: Chain, written: int) -> bool:
        """Give a buffer back, with the number of bytes written to it; does the driver want an interrupt?

        :raises QueueError: the used ring is not in memory.
        """
        memory = self._memory
        try:
            entry = chain.head | written << 32
            memory.write_integer(self.device + 4 + 8 * (self._used % self.size), 8, entry)
            self._used = self._used + 1 & _INDEX
            memory.write_integer(self.device + 2, 2, self._used)
            return not memory.read_integer(self.driver, 2) & _NO_INTERRUPT
        except MasterAbort as abort:
            raise QueueError(str(abort)) from None

    def _chain(self, head: int) -> Chain:
        readable: list[Piece] = []
        writable: list[Piece] = []
        table, entries, number = self.descriptors, self.size, head
        followed, indirect = 0, False
        while True:
            if number >= entries:
                raise QueueError("a descriptor is not in its table")
            followed += 1
            if followed > entries:
                raise QueueError("a chain of descriptors goes in a circle")
            raw = self._memory.read(table + _DESCRIPTOR_SIZE * number, _DESCRIPTOR_SIZE)
            gpa, size = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:12], "little")
            flags, following = int.from_bytes(raw[12:14], "little"), int.from_bytes(raw[14:], "little")
            if flags & _INDIRECT:
                if indirect or flags & _NEXT or not size or size % _DESCRIPTOR_SIZE:
                    raise QueueError("an indirect table where none may be, or of a broken size")
                table, entries, number = gpa, min(size // _DESCRIPTOR_SIZE, LARGEST_QUEUE), 0
                followed, indirect = 0, True
                continue
            if flags & _WRITE:
                writable.append(Piece(gpa, size))
            elif writable:
                raise QueueError("a readable descriptor stands behind a writable one")
            else:
                readable.append(Piece(gpa, size))
            if not flags & _NEXT:
                return Chain(head, tuple(readable), tuple(writable))
            number = following

    def save(self) -> QueueState:
        """Everything, as a value."""
        return QueueState(self.size, self.ready, self.descriptors, self.driver, self.device, self._seen, self._used)

    def restore(self, state: QueueState) -> None:
        """Take up a saved state."""
        self.size, self.ready = state.size, state.ready
        self.descriptors, self.driver, self.device = state.descriptors, state.driver, state.device
        self._seen, self._used = state.seen, state.used
