"""The allocator of a de-privileging VMM: the guest's memory, and page tables that let it reach that and no more.

The real processor runs with the VMM's paging on while the guest believes that paging is off. Linear addresses that are
guest-physical memory map to the guest's frames; all others are not present. The topmost 4 MiB hold what the processor
needs to run the guest: the shadow descriptor tables. They are read-only, but readable in ring 1, since paging does not
tell rings 0 to 2 apart and a real VMM's protection, a truncated segment limit, is not enforced by this PC's engine
(docs/deviations.md). Once the guest turns its own paging on, `vmm.shadow_paging` takes over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.memory import A20_BIT, RegionKind
from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE, Gpa, Hpa

if TYPE_CHECKING:
    from simvirt.machine.engine import Engine
    from simvirt.machine.memory import GatedAddressSpace, HostMemory

VMM_RESERVE: Final = 16 << 20
"""Host memory in front of the guest's, in its VM's partition, that belongs to the VMM."""
VMM_LINEAR_BASE: Final = 0xFFC0_0000
"""Linear addresses from here on are the VMM's (address-space compression, Uhlig et al. 2005)."""

# Where what lies in that memory.
_DIRECTORY: Final = 0x10_0000
_TABLES: Final = 0x10_1000
_VMM_FRAMES: Final = 0x60_0000
_SHADOW_FRAMES: Final = 0x70_0000
_P, _W, _U, _A, _D = 1, 2, 4, 0x20, 0x40
_LEAF: Final = _P | _A | _D
_ENTRIES: Final = 1024


class Allocator:
    """Builds and changes the page tables under which the guest runs.

    :ivar directory: host address of the page directory, the real CR3 while the guest's paging is off.
    :ivar linear_base: linear address of the VMM's own pages then.
    :ivar shadow_frames: host pages for shadow page tables.
    :ivar vmm_pages: how many pages the VMM needs to run the guest.
    """

    linear_base = VMM_LINEAR_BASE
    vmm_pages = 34

    def __init__(self, engine: Engine, memory: HostMemory, space: GatedAddressSpace, partition: Hpa = Hpa(0)) -> None:
        import numpy as np

        self._vmm_frames, self._tables = partition + _VMM_FRAMES, partition + _TABLES
        self.shadow_frames = range(partition + _SHADOW_FRAMES >> PAGE_SHIFT, partition + VMM_RESERVE >> PAGE_SHIFT)
        self._engine = engine
        self._memory = memory
        self._space = space
        self.directory = Hpa(partition + _DIRECTORY)
        self._words = memory.view.cast("I")
        tables = (VMM_LINEAR_BASE >> 22) + 1
        directory = np.frombuffer(memory.view, dtype=np.uint32, count=_ENTRIES, offset=self.directory)
        directory[:tables] = (
            np.uint32(self._tables) + (np.arange(tables, dtype=np.uint32) << PAGE_SHIFT) | _P | _W | _U | _A
        )
        entries = np.frombuffer(memory.view, dtype=np.uint32, count=tables * _ENTRIES, offset=self._tables)
        self._guest_entries = entries[: VMM_LINEAR_BASE >> PAGE_SHIFT]
        self._vmm_entries = entries[VMM_LINEAR_BASE >> PAGE_SHIFT :]
        self._vmm_entries[: self.vmm_pages] = (
            np.uint32(self._vmm_frames) + (np.arange(self.vmm_pages, dtype=np.uint32) << PAGE_SHIFT) | _LEAF
        )
        self._map_guest()

    def _map_guest(self) -> None:
        """Map the guest's RAM, writable, and its ROM; behind a closed A20 gate each odd MByte is the even one below."""
        import numpy as np

        entries = self._guest_entries
        for region in self._space.regions:
            if region.kind > RegionKind.ROM or region.end > VMM_LINEAR_BASE:
                continue
            rights = _LEAF | _U | (_W if region.kind is RegionKind.RAM else 0)
            first, count = region.start >> PAGE_SHIFT, region.size >> PAGE_SHIFT
            frames = np.arange(count, dtype=np.uint32) + np.uint32(region.host >> PAGE_SHIFT)
            entries[first : first + count] = frames << PAGE_SHIFT | rights
        if not self._space.a20:
            megabytes = entries.reshape(-1, 2, A20_BIT >> PAGE_SHIFT)
            megabytes[:, 1] = megabytes[:, 0]

    def set_a20(self, is_open: bool) -> bool:
        """Open or close the guest's A20 gate; True if that has mapped its memory anew, and nothing is protected."""
        if is_open is self._space.a20:
            return False
        self._space.a20 = is_open
        self._guest_entries[:] = 0
        self._map_guest()
        self._engine.flush_tlb()
        return True

    def vmm_page(self, index: int) -> memoryview:
        """A view to write page `index` of the VMM's own by, which rings 0 to 2 read from `VMM_LINEAR_BASE` on."""
        host = self.vmm_host(index)
        return self._memory.view[host : host + PAGE_SIZE]

    def map_vmm_pages(self, count: int, *, present: bool) -> None:
        """Map the first pages of the VMM's own, or unmap them; they keep what they hold."""
        if present:
            self._vmm_entries[:count] |= _P
        else:
            self._vmm_entries[:count] &= ~_P & 0xFFFFFFFF
        self._engine.flush_tlb()

    def maps_vmm_page(self, index: int) -> bool:
        """Is page `index` of the VMM's own mapped?"""
        return bool(self._vmm_entries[index] & _P)

    def vmm_host(self, index: int) -> Hpa:
        """Host address of the VMM's page `index`."""
        return Hpa(self._vmm_frames + index * PAGE_SIZE)

    def owns(self, gpa: Gpa) -> bool:
        """Is there memory of the guest at this address?"""
        return self._space.host(gpa) is not None

    def protect(self, gpa: Gpa, *, writable: bool) -> None:
        """Forbid or allow writes to the guest page that holds `gpa`."""
        gpa = self._space.through_gate(gpa)
        for linear in {gpa} if self._space.a20 else {gpa, gpa | A20_BIT}:
            at = self._index(linear)
            entry = self._words[at]
            self._words[at] = entry | _W if writable else entry & ~_W
        self._engine.flush_tlb()

    def _index(self, linear: int) -> int:
        return self._tables // 4 + (linear >> PAGE_SHIFT)
