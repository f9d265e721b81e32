"""Memory by linear address as the processor's own accesses see it: through the page tables, with their faults.

An access that paging refuses raises `ProcessorFault` (#PF), one that an EPT refuses `EptRefused`. Where the address
leads outside memory, reads give ones and writes are dropped, as on a bus that nobody answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.events import ept_event
from simvirt.machine.faults import EptRefused, ProcessorFault, general_protection
from simvirt.machine.fills import EPT_REFUSALS, Access, Refusal
from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SIZE, Hpa
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simvirt.machine.engine import Engine
    from simvirt.machine.events import EptRefusal


class LinearMemory:
    """Reads and writes through an engine's page walk.

    An access is a user-mode access (`user`) or a supervisor-mode one; the latter is `explicit` when it is an
    instruction's own, and implicit when the processor reads its own tables, which SMAP always keeps from user pages
    (SDM Vol. 3A §4.6.1).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._view = engine.memory.view
        self.on_ept_refusal: Callable[[EptRefusal], bool] | None = None
        """What a VMM that accesses guest memory does about an EPT's refusal: True to have the access tried again, False
        to find no memory there. None raises `EptRefused`."""

    def host(self, gva: int, access: Access, *, user: bool = False) -> Hpa | None:
        """Where an explicit access to an address ends in host memory; None where there is no memory.

        :raises ProcessorFault: #PF, #GP(0).
        """
        return self._translate(gva, access, user=user, explicit=True)

    def _pieces(
        self, gva: int, size: int, access: Access, *, user: bool, explicit: bool
    ) -> Iterator[tuple[Hpa | None, int, int]]:
        """(host address or None, offset in the access, length) for each page; translated before it is handed out."""
        done = 0
        while done < size:
            address = gva + done
            length = min(size - done, PAGE_SIZE - (address & PAGE_OFFSET_MASK))
            yield self._translate(address, access, user=user, explicit=explicit), done, length
            done += length

    def _translate(self, gva: int, access: Access, *, user: bool, explicit: bool) -> Hpa | None:
        """Where an address lies in host memory; None where there is no memory.

        :raises ProcessorFault: #PF, #GP(0).
        :raises EptRefused: the VMM has to look at it first.
        """
        while True:
            host = self._engine.translate(gva, access, user=user, commit=True, explicit=explicit)
            if host is not None or not self._refused(gva):
                return host

    def _refused(self, address: int) -> bool:
        """Raise the exception that the last refused translation calls for; none where there merely is no memory.

        :return: is the access to be tried again?
        """
        verdict = self._engine.verdict
        if verdict.refusal is Refusal.PAGE_FAULT:
            mask = 0xFFFF_FFFF_FFFF_FFFF if self._engine.state.long_mode else 0xFFFF_FFFF
            raise ProcessorFault(Vector.PF, verdict.error_code, address & mask)
        if verdict.refusal is Refusal.NON_CANONICAL:
            raise general_protection()
        if verdict.refusal in EPT_REFUSALS:
            refused = EptRefused(ept_event(verdict))
            if self.on_ept_refusal is None:
                raise refused
            return self.serve_refusal(refused)
        return False

    def serve_refusal(self, refused: EptRefused) -> bool:
        """Let whoever wants it do something about what the EPT refused; is the access to be tried again?"""
        return self.on_ept_refusal is not None and self.on_ept_refusal(refused.event)

    def read(self, gva: int, size: int, *, user: bool = False, explicit: bool = False) -> bytes:
        """`size` bytes at `gva`.

        :raises ProcessorFault: #PF, #GP(0) at an address that is not canonical.
        """
        if (gva & PAGE_OFFSET_MASK) + size <= PAGE_SIZE:  # in one page, as nearly all accesses are
            host = self._translate(gva, Access.READ, user=user, explicit=explicit)
            return b"\xff" * size if host is None else bytes(self._view[host : host + size])
        parts = [
            b"\xff" * length if host is None else bytes(self._view[host : host + length])
            for host, _, length in self._pieces(gva, size, Access.READ, user=user, explicit=explicit)
        ]
        return b"".join(parts)

    def read_integer(self, gva: int, size: int, *, user: bool = False, explicit: bool = False) -> int:
        """A little-endian integer of `size` bytes.

        :raises ProcessorFault: #PF, #GP(0).
        """
        return int.from_bytes(self.read(gva, size, user=user, explicit=explicit), "little")

    def write(self, gva: int, data: bytes, *, user: bool = False, explicit: bool = False) -> None:
        """Write `data` at `gva`; nothing is written when any page of it faults.

        :raises ProcessorFault: #PF, #GP(0).
        """
        if (gva & PAGE_OFFSET_MASK) + len(data) <= PAGE_SIZE:
            host = self._translate(gva, Access.WRITE, user=user, explicit=explicit)
            if host is not None:
                self._view[host : host + len(data)] = data
                self._engine.written(host, len(data))
            return
        pieces = list(self._pieces(gva, len(data), Access.WRITE, user=user, explicit=explicit))
        for host, offset, length in pieces:
            if host is not None:
                self._view[host : host + length] = data[offset : offset + length]
                self._engine.written(host, length)

    def probe_write(self, gva: int, size: int) -> None:
        """Translate as for a write that is to come, which cannot fault afterwards.

        :raises ProcessorFault: #PF, #GP(0).
        """
        for _ in self._pieces(gva, size, Access.WRITE, user=False, explicit=False):
            pass

    def write_integer(self, gva: int, size: int, value: int, *, user: bool = False, explicit: bool = False) -> None:
        """Write a little-endian integer of `size` bytes.

        :raises ProcessorFault: #PF, #GP(0).
        """
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.write(gva, data, user=user, explicit=explicit)
