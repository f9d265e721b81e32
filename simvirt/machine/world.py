"""A world: all that an engine holds of one machine's processor, so that several can take turns on it.

What a VMM exchanges in a world switch (Sugerman, Venkitachalam and Lim 2001): the
architectural state, and with it what this engine is told of whoever runs: the count of instructions, which is the
machine's virtual time, its EPT pointer and A20 gate, what is handed over, what has been delivered. Memory is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.native.layout import SharedRecord

if TYPE_CHECKING:
    from simvirt.machine.delivery_log import DeliveryLog
    from simvirt.machine.memory import AddressSpace
    from simvirt.machine.svm import Intercepts


def _bytes(first: str, last: str) -> slice:
    """The bytes of the shared record from one member to another, both included."""
    end = getattr(SharedRecord, last)
    return slice(getattr(SharedRecord, first).offset, end.offset + end.size)


WORLD_BYTES: Final = (
    _bytes("a20_mask", "a20_mask"),
    _bytes("max_physical_bits", "absent_page"),
    _bytes("passed_pc", "floating_passed"),
    _bytes("native_far_transfers", "native_far_transfers"),
    _bytes("count", "count"),
    _bytes("tsc_base", "cpuid"),
    _bytes("last_delivery", "faults"),
)
"""What in the record that Python and the native callbacks share belongs to a world."""


@dataclass(frozen=True, slots=True)
class World:
    """One machine's processor while another one has the engine."""

    image: bytes
    """The engine's state image as it is, intercepts included."""
    record: tuple[bytes, ...]
    """The parts `WORLD_BYTES` of the shared record."""
    intercepts: Intercepts
    cr4_features: int
    address_space: AddressSpace
    breakpoints: tuple[int, ...]
    watches: tuple[tuple[int, int, bool, bool], ...]
    deliveries: DeliveryLog
    nmi_pending: bool
