"""Direct memory access: how a device reaches the guest's memory without the processor.

A device's access goes to RAM and nowhere else: not to ROM, not to another device, not to a hole. One that leaves RAM is
refused whole, before a byte has been moved, as an IOMMU or a host bridge would abort it; what a device makes of that is
its own affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.memory import RegionKind
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simvirt.machine.memory import AddressSpace


class MasterAbort(Exception):  # noqa: N818 - the bus's name for it; a device's to deal with
    """An access by a device that no RAM answers."""


class DirectMemory:
    """The way to memory that a board's devices share; whoever drives the board connects it to the machine's memory."""

    def __init__(self) -> None:
        self._space: AddressSpace | None = None
        self._view = memoryview(b"")
        self._written: Callable[[int, int], None] = lambda _at, _size: None

    def connect(self, view: memoryview, space: AddressSpace, written: Callable[[int, int], None]) -> None:
        """Lead to `space` in the host memory `view`; `written` is told of host bytes that were written."""
        self._view, self._space, self._written = view, space, written

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes of guest-physical memory.

        :raises MasterAbort: some of them are no RAM.
        """
        return b"".join(bytes(self._view[host : host + length]) for host, length in list(self._pieces(gpa, size)))

    def write(self, gpa: int, data: bytes) -> None:
        """Write guest-physical memory.

        :raises MasterAbort: some of it is no RAM. Nothing is written then.
        """
        at = 0
        for host, length in list(self._pieces(gpa, len(data))):
            self._view[host : host + length] = data[at : at + length]
            self._written(host, length)
            at += length

    def read_integer(self, gpa: int, size: int) -> int:
        """A little-endian integer.

        :raises MasterAbort: it is not in RAM.
        """
        return int.from_bytes(self.read(gpa, size), "little")

    def write_integer(self, gpa: int, size: int, value: int) -> None:
        """Write a little-endian integer.

        :raises MasterAbort: it is not in RAM.
        """
        self.write(gpa, value.to_bytes(size, "little"))

    def require(self, gpa: int, size: int) -> None:
        """Is all of this RAM?

        :raises MasterAbort: it is not.
        """
        for _ in self._pieces(gpa, size):
            pass

    def _pieces(self, gpa: int, size: int) -> Iterator[tuple[int, int]]:
        while size:
            region = None if self._space is None else self._space.region(Gpa(gpa))
            if region is None or region.kind is not RegionKind.RAM:
                raise MasterAbort(f"no RAM at {gpa:#x}")
            length = min(size, region.end - gpa)
            yield region.host + gpa - region.start, length
            gpa, size = gpa + length, size - length
