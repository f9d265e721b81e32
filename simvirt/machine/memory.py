"""Host-physical memory, and the regions of a physical address space.

Host-physical memory is one page-aligned numpy array that the engine shares: walkers, devices and results read and write
it without a call. A physical address space (the PC's own, or a VM's guest-physical one) is a list of regions that map
its pages to host pages or say that there is none.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE, Gpa, Hpa

if TYPE_CHECKING:
    from collections.abc import Sequence


A20_BIT: Final = 1 << 20
"""The address line that a PC can hold at 0."""


class RegionKind(IntEnum):
    """What answers at a region's addresses; the numbers are those of native/engine.c."""

    RAM = 0
    ROM = 1
    MMIO = 2
    HOLE = 3


@dataclass(frozen=True, slots=True)
class Region:
    """The guest-physical bytes [`start`, `start` + `size`), whole pages; RAM and ROM lie at `host` in host memory.

    :raises ValueError: `start`, `size` or `host` is no multiple of the page size, or nothing is in it.
    """

    start: Gpa
    size: int
    kind: RegionKind
    host: Hpa = Hpa(0)
    name: str = ""

    def __post_init__(self) -> None:
        if self.size <= 0 or (self.start | self.size | self.host) & (PAGE_SIZE - 1):
            raise ValueError(f"region {self.name or hex(self.start)}: start, size and host address are whole pages")

    @property
    def end(self) -> int:
        """The first address behind the region."""
        return self.start + self.size

    def __contains__(self, gpa: int) -> bool:
        return self.start <= gpa < self.end


class AddressSpace:
    """The regions of one physical address space; what no region covers is a hole.

    :raises ValueError: two regions overlap.

    >>> space = AddressSpace([Region(Gpa(0), 0x4000, RegionKind.RAM, Hpa(0x10000))])
    >>> hex(space.host(Gpa(0x1234)))
    '0x11234'
    >>> space.host(Gpa(0x4000)) is None
    True
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        self.regions = tuple(sorted(regions, key=lambda r: r.start))
        for a, b in zip(self.regions, self.regions[1:], strict=False):
            if a.end > b.start:
                raise ValueError(f"regions {a.name or hex(a.start)} and {b.name or hex(b.start)} overlap")

    def region(self, gpa: Gpa) -> Region | None:
        """The region that holds `gpa`; None in a hole that no region names."""
        for region in self.regions:
            if region.start <= gpa < region.start + region.size:
                return region
        return None

    def host(self, gpa: Gpa) -> Hpa | None:
        """Host-physical address of `gpa`, or None where no memory answers."""
        region = self.region(gpa)
        if region is None or region.kind > RegionKind.ROM:
            return None
        return Hpa(region.host + gpa - region.start)

    @property
    def ram(self) -> tuple[Region, ...]:
        """The regions that hold RAM."""
        return tuple(r for r in self.regions if r.kind is RegionKind.RAM)


class GatedAddressSpace(AddressSpace):
    """A physical address space behind an A20 gate, as the processor sees it: with the gate closed bit 20 is 0.

    >>> space = GatedAddressSpace([Region(Gpa(0), 0x200000, RegionKind.RAM)])
    >>> space.a20 = False
    >>> space.host(Gpa(0x123456))
    144470
    """

    def __init__(self, regions: Sequence[Region]) -> None:
        super().__init__(regions)
        self.a20 = True
        """Is the gate open?"""

    def through_gate(self, gpa: Gpa) -> Gpa:
        """The address that comes out of the gate."""
        return gpa if self.a20 else Gpa(gpa & ~A20_BIT)

    def region(self, gpa: Gpa) -> Region | None:
        """The region that the access reaches."""
        return super().region(self.through_gate(gpa))

    def host(self, gpa: Gpa) -> Hpa | None:
        """Host-physical address that the access reaches, or None where no memory answers."""
        return super().host(self.through_gate(gpa))


class HostMemory:
    """The PC's memory: `size` bytes, allocated lazily by the host's kernel, shared with the engine.

    `view` is a writable memoryview of all of it; `page_flags` holds one byte for each page (`machine.fills.PageFlag`).
    Whoever writes here from outside the engine tells it (`Engine.written`), so that translated code is never stale.

    :raises ValueError: `size` is no positive multiple of the page size.
    """

    def __init__(self, size: int) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise ValueError(f"memory of {size} bytes: a positive multiple of {PAGE_SIZE} is needed")
        import numpy as np

        self.size = size
        self.pages = size >> PAGE_SHIFT
        self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.array = np.frombuffer(self._map, dtype=np.uint8)
        self.view = memoryview(self._map)
        self.page_flags = np.zeros(self.pages, dtype=np.uint8)

    @property
    def address(self) -> int:
        """Address of the memory in this process."""
        return int(self.array.ctypes.data)
