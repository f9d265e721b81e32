"""The guest's linear memory as its own processor would see it, for the VMM's work on the guest's behalf.

The VMM reaches it through the guest's page tables, or their shadows, and through its map of the guest's memory; never
through real page tables where its own pages are visible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.fills import Access
from simvirt.machine.linear_memory import LinearMemory
from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SIZE, Gpa, Gva, Hpa

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.engine import Engine
    from simvirt.machine.memory import AddressSpace
    from simvirt.vmm.shadow_paging.shadow_mmu import ShadowMmu


class GuestMemory(LinearMemory):
    """Linear memory of a guest; while its paging is off, `user` and `explicit` make no difference to it.

    :ivar mmu: the guest's paging; None where there is none yet.
    :ivar on_write: called with the guest-physical address and size of every write that the VMM makes for the guest.
    """

    def __init__(self, engine: Engine, space: AddressSpace) -> None:
        super().__init__(engine)
        self._space = space
        self.mmu: ShadowMmu | None = None
        self.on_write: Callable[[Gpa, int], None] = lambda _gpa, _size: None

    def _physical(self, gva: int, access: Access, *, user: bool, explicit: bool) -> Gpa:
        if self.mmu is None or not self.mmu.paging:
            return Gpa(gva & 0xFFFFFFFF)
        return self.mmu.translate(Gva(gva), access, user=user, explicit=explicit)

    def _translate(self, gva: int, access: Access, *, user: bool, explicit: bool) -> Hpa | None:
        return self._space.host(self._physical(gva, access, user=user, explicit=explicit))

    def write(self, gva: int, data: bytes, *, user: bool = False, explicit: bool = False) -> None:
        """Write for the guest, and tell `on_write`; what lies outside the guest's memory is dropped."""
        pieces: list[tuple[Gpa, int, int]] = []
        done = 0
        while done < len(data):
            at = gva + done
            length = min(len(data) - done, PAGE_SIZE - (at & PAGE_OFFSET_MASK))
            pieces.append((self._physical(at, Access.WRITE, user=user, explicit=explicit), done, length))
            done += length
        for gpa, offset, length in pieces:
            host = self._space.host(gpa)
            if host is not None:
                self._view[host : host + length] = data[offset : offset + length]
                self._engine.written(host, length)
                self.on_write(gpa, length)

    def peek(self, gva: int, size: int) -> bytes:
        """What is at an address, without setting flags and without faults: zeros where nothing is mapped."""
        if self.mmu is None or not self.mmu.paging:
            return self.read(gva, size)
        parts = []
        done = 0
        while done < size:
            at = gva + done
            length = min(size - done, PAGE_SIZE - (at & PAGE_OFFSET_MASK))
            gpa = self.mmu.peek(at)
            host = None if gpa is None else self._space.host(gpa)
            nothing = b"\0" if gpa is None else b"\xff"
            parts.append(nothing * length if host is None else bytes(self._view[host : host + length]))
            done += length
        return b"".join(parts)
