"""The guest's linear memory as its own processor would see it, for the VMM's work on the guest's behalf.

With the guest's paging off, linear addresses are guest-physical addresses. The VMM reaches them through its map of the
guest's memory and never through the real page tables, where its own pages are visible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.linear_memory import LinearMemory
from simvirt.x86.addresses import Gpa, Hpa

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.engine import Engine
    from simvirt.machine.fills import Access
    from simvirt.machine.memory import AddressSpace


class GuestMemory(LinearMemory):
    """Linear memory of a guest without paging; `user` and `explicit` make no difference to it.

    :ivar on_write: called with the guest-physical address and size of every write that the VMM makes for the guest.
    """

    def __init__(self, engine: Engine, space: AddressSpace) -> None:
        super().__init__(engine)
        self._space = space
        self.on_write: Callable[[Gpa, int], None] = lambda _gpa, _size: None

    def _translate(self, gva: int, access: Access, *, user: bool, explicit: bool) -> Hpa | None:
        del access, user, explicit
        return self._space.host(Gpa(gva & 0xFFFFFFFF))

    def write(self, gva: int, data: bytes, *, user: bool = False, explicit: bool = False) -> None:
        """Write for the guest, and tell `on_write`; what lies outside the guest's memory is dropped."""
        super().write(gva, data, user=user, explicit=explicit)
        self.on_write(Gpa(gva & 0xFFFFFFFF), len(data))
