"""From an image to memory: the boot protocol's placement, the last checks, the writes, and the state to start in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.disk_boot import firmware_left_behind, place_firmware
from simvirt.guests.firmware_tables import TABLES, firmware_tables
from simvirt.guests.image import BootProtocol, BootState, GuestImage, Segment, refuse_overlaps
from simvirt.guests.linux import place_linux
from simvirt.guests.linux_real_mode import place_linux_16
from simvirt.guests.multiboot import place_multiboot
from simvirt.guests.placement import Placement, refuse_modules, stack_top, subject
from simvirt.guests.pvh import place_pvh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simvirt.machine.hardware import Hardware
    from simvirt.x86.addresses import Gpa


def load(
    image: GuestImage,
    memory_size: int,
    write: Callable[[Gpa, bytes], object],
    hardware: Hardware | None = None,
) -> BootState:
    """Writes an image, and what its boot protocol and its options add to it, into guest-physical memory.

    The memory must be zero where nothing has been written, as a PC's is here at power-on. Everything is checked before
    the first byte is written; only bytes that the file holds are written, so that a segment of zeros costs nothing,
    however large.

    :param memory_size: bytes of memory that the VM has, from address 0.
    :param write: called with a guest-physical address and bytes, for every piece.
    :param hardware: of what the firmware's tables tell, beyond what every PC has.
    :raises ImageError: a segment lies beyond the memory, two of them overlap, or no room is left for what the protocol
        adds.
    """
    _check(image.segments, memory_size, subject(image))
    placement = _PLACEMENTS[image.boot](image, memory_size)
    refuse_overlaps(placement.segments, subject(image))
    for segment in placement.segments:
        if segment.data:
            write(segment.gpa, segment.data)
    if image.boot in _BEHIND_A_BOOT_LOADER:
        for area in firmware_left_behind():
            if area.end <= memory_size and all(
                area.end <= each.gpa or each.end <= area.gpa for each in placement.segments
            ):
                write(area.gpa, area.data)
    rows = () if hardware is None else hardware.virtio_rows
    virtio = [(row.memory, row.irq) for row in rows if row.memory is not None and row.irq is not None]
    write(TABLES, firmware_tables(virtio))
    return placement.state


def _check(segments: Sequence[Segment], memory_size: int, subject: str) -> None:
    for segment in segments:
        if segment.gpa < 0 or len(segment.data) > segment.memory_size:
            raise ImageError(subject, f"its segment at {segment.gpa:#x} is malformed")
        if segment.end > memory_size:
            raise ImageError(
                subject,
                f"its segment at {segment.gpa:#x} reaches to {segment.end:#x}, but memory ends at {memory_size:#x}",
                f"give the VM at least {-(-segment.end // (1 << 20))} MiB (--memory), or link the guest lower",
            )
    refuse_overlaps(segments, subject)


def _place_flat(image: GuestImage, memory_size: int) -> Placement:
    """The image alone: no protocol adds anything."""
    refuse_modules(image, f"a guest that is {image.kind.value}")
    return Placement(image.segments, BootState(image.entry, esp=stack_top(memory_size)))


_BEHIND_A_BOOT_LOADER: Final = frozenset({BootProtocol.MULTIBOOT, BootProtocol.LINUX_32, BootProtocol.LINUX_64})
"""Protocols by which a kernel is entered on a PC whose BIOS has run."""

_PLACEMENTS: Final[dict[BootProtocol, Callable[[GuestImage, int], Placement]]] = {
    BootProtocol.PROTECTED_FLAT: _place_flat,
    BootProtocol.MULTIBOOT: place_multiboot,
    BootProtocol.PVH: place_pvh,
    BootProtocol.LINUX_16: place_linux_16,
    BootProtocol.LINUX_32: place_linux,
    BootProtocol.LINUX_64: place_linux,
    BootProtocol.FIRMWARE: place_firmware,
}
