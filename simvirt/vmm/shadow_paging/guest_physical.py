"""The guest's physical memory, as a walk of its page tables reads it and as accessed and dirty flags are set in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.memory import A20_BIT, RegionKind
from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.memory import GatedAddressSpace, HostMemory


class GuestPhysical:
    """Reads ones where nothing is, as the bus does, and drops what is written there.

    :ivar on_flag: called with the guest-physical address and size of an entry in which a flag was set.
    """

    def __init__(self, memory: HostMemory, space: GatedAddressSpace, written: Callable[[int, int], None]) -> None:
        self._space = space
        self._view = memory.view
        self._words = {4: memory.view.cast("I"), 8: memory.view.cast("Q")}
        self._written = written
        self._regions = tuple(
            (r.start, r.end, r.host - r.start, r.kind is RegionKind.RAM)
            for r in space.regions
            if r.kind <= RegionKind.ROM
        )
        self.on_flag: Callable[[int, int], None] = lambda _gpa, _size: None

    @property
    def is_gated(self) -> bool:
        """Is the guest's A20 gate closed?"""
        return not self._space.a20

    def through_gate(self, gpa: int) -> int:
        """The address that comes out of the A20 gate."""
        return gpa if self._space.a20 else gpa & ~A20_BIT

    def host(self, gpa: int) -> int | None:
        """Host-physical address, None where no memory answers."""
        if not self._space.a20:
            gpa &= ~A20_BIT
        for start, end, offset, _ in self._regions:
            if start <= gpa < end:
                return gpa + offset
        return None

    def is_ram(self, gpa: int) -> bool:
        """May the guest write there?"""
        gpa = self.through_gate(gpa)
        for start, end, _, ram in self._regions:
            if start <= gpa < end:
                return ram
        return False

    def gpa(self, host: int) -> int | None:
        """The guest-physical address of host memory, None where that is not the guest's."""
        for start, end, offset, _ in self._regions:
            if start <= host - offset < end:
                return host - offset
        return None

    def read_entry(self, gpa: int, size: int) -> int:
        """One entry of a page table."""
        if not self._space.a20:
            gpa &= ~A20_BIT
        for start, end, offset, _ in self._regions:  # as `host`, without another call
            if start <= gpa < end:
                return self._words[size][(gpa + offset) // size]
        return (1 << 8 * size) - 1

    def read_page(self, frame: int) -> bytes:
        """A whole page of guest memory, by number."""
        host = self.host(frame << PAGE_SHIFT)
        return b"\xff" * PAGE_SIZE if host is None else bytes(self._view[host : host + PAGE_SIZE])

    def set_flags(self, gpa: int, size: int, flags: int) -> None:
        """OR `flags` into an entry, as the processor sets A and D."""
        if not self.is_ram(gpa):
            return
        host = self.host(gpa)
        if host is None:
            return
        self._words[size][host // size] |= flags
        self._written(host, size)
        self.on_flag(gpa, size)
