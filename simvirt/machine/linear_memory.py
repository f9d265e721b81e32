"""Memory by linear address as the processor's own accesses see it: through the page tables, with their faults.

An access that paging refuses raises `ProcessorFault` (#PF). Where the address leads outside memory, reads give ones and
writes are dropped, as on a bus that nobody answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.faults import ProcessorFault
from simvirt.machine.fills import Access, Refusal
from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SIZE, Hpa
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simvirt.machine.engine import Engine


class LinearMemory:
    """Reads and writes through an engine's page walk."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._view = engine.memory.view

    def _pieces(self, gva: int, size: int, access: Access, *, user: bool) -> Iterator[tuple[Hpa | None, int, int]]:
        """(host address or None, offset in the access, length) for each page; translated before it is handed out."""
        done = 0
        while done < size:
            address = gva + done
            length = min(size - done, PAGE_SIZE - (address & PAGE_OFFSET_MASK))
            host = self._engine.translate(address, access, user=user, commit=True)
            if host is None and (verdict := self._engine.verdict).refusal is Refusal.PAGE_FAULT:
                raise ProcessorFault(Vector.PF, verdict.error_code, address)
            yield host, done, length
            done += length

    def read(self, gva: int, size: int, *, user: bool = False) -> bytes:
        """`size` bytes at `gva`; `user` is a user-mode access, otherwise a supervisor-mode one.

        :raises ProcessorFault: #PF.
        """
        parts = [
            b"\xff" * length if host is None else bytes(self._view[host : host + length])
            for host, _, length in self._pieces(gva, size, Access.READ, user=user)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_integer(self, gva: int, size: int, *, user: bool = False) -> int:
        """A little-endian integer of `size` bytes.

        :raises ProcessorFault: #PF.
        """
        return int.from_bytes(self.read(gva, size, user=user), "little")

    def write(self, gva: int, data: bytes, *, user: bool = False) -> None:
        """Write `data` at `gva`; nothing is written when any page of it faults.

        :raises ProcessorFault: #PF.
        """
        for host, offset, length in list(self._pieces(gva, len(data), Access.WRITE, user=user)):
            if host is not None:
                self._view[host : host + length] = data[offset : offset + length]
                self._engine.written(host, length)

    def write_integer(self, gva: int, size: int, value: int, *, user: bool = False) -> None:
        """Write a little-endian integer of `size` bytes.

        :raises ProcessorFault: #PF.
        """
        self.write(gva, (value & (1 << 8 * size) - 1).to_bytes(size, "little"), user=user)
