"""The VM's guest-physical memory: its EPT, and what a walk through the guest's page tables finds where it has nothing.

Accesses to holes and to devices exit, and the VMM does each on the VM's own bus; but where the VM's maker says so,
reads find what they give in a page that is mapped read-only: ones, where adapters could have ROMs, and the registers of
a device that no read changes. A page table in a hole cannot be served like that:
the processor reads it on its own behalf, again and again. So the VMM maps a page of ones there, read-only, which is
what the bus of the bare PC gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import UnsupportedGuestError
from simvirt.machine.memory import RegionKind
from simvirt.vmm.ept import ExtendedPageTables, OutOfTablePages, TablePages
from simvirt.x86.addresses import PAGE_SIZE, Gpa
from simvirt.x86.vmx.ept import EptEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from simvirt.machine.engine import Engine
    from simvirt.machine.memory import AddressSpace
    from simvirt.strategies.vtx.controls import VmmPages
    from simvirt.x86.addresses import Hpa


ADAPTER_ROMS: Final = range(0xC0000, 0xF0000)
"""Where adapters could have their ROMs, which booting systems search word by word."""


class VmMemory:
    """One VM's memory.

    :ivar pages: where the VMM keeps what belongs to the VM.
    :ivar space: its regions.
    :ivar ept: the tables that map its RAM and ROM.

    `readable` are pages that are no memory of the VM's and of which the VMM wants to hear no reads, and the host pages
    that show what reads give.
    """

    def __init__(
        self, engine: Engine, pages: VmmPages, space: AddressSpace, readable: Mapping[Gpa, Hpa] | None = None
    ) -> None:
        self.pages = pages
        self.space = space
        self.ept = ExtendedPageTables(engine.memory.view, TablePages(pages.ept), on_change=engine.flush_tlb)
        self._readable = dict(readable or {})
        self._absent: list[Gpa] = []
        self._map_all()

    def _map_all(self) -> None:
        self.ept.map_space(self.space)
        for gpa, host in self._readable.items():
            self.ept.map(gpa, host, PAGE_SIZE, EptEntry.READ)

    @property
    def absent_page_tables(self) -> tuple[int, ...]:
        """The pages in holes that the guest has used for page tables, as a snapshot holds them."""
        return tuple(self._absent)

    def serve_page_table(self, gpa: Gpa) -> None:
        """Give the walk that met an EPT violation at `gpa` what it would find on the bare PC.

        :raises UnsupportedGuestError: it is a page table in ROM, in which the processor wants to set a flag.
        """
        region = self.space.region(gpa)
        if region is not None and region.kind is RegionKind.ROM:
            raise UnsupportedGuestError(
                f"a page table in ROM at guest-physical {gpa:#x}: the processor cannot set accessed flags there. Copy "
                "the tables to memory, or run the guest on bare-metal"
            )
        page = Gpa(gpa & ~(PAGE_SIZE - 1))
        try:
            self._map_absent(page)
        except OutOfTablePages:  # a guest has used page tables all over the place: forget those
            self.restore(())
            self._map_absent(page)

    def _map_absent(self, page: Gpa) -> None:
        self.ept.map(page, self.pages.absent_page, PAGE_SIZE, EptEntry.READ)
        self._absent.append(page)

    def restore(self, absent: Iterable[int]) -> None:
        """Build the tables anew, with these pages of ones."""
        self.ept.clear()
        self._map_all()
        self._absent.clear()
        for page in absent:
            self._map_absent(Gpa(page))
