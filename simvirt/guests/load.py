"""From an image to memory: the last checks, the writes, and the state to start in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.image import BootProtocol, BootState, GuestImage, Segment, refuse_overlaps
from simvirt.guests.multiboot import LOADER_MAGIC, LOW_MEMORY_END, information_structure
from simvirt.x86.addresses import PAGE_SIZE, Gpa

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

INFORMATION_ADDRESS: Final = Gpa(0x9000)
"""Where the multiboot information structure goes unless the image itself is there."""
STACK_TOP: Final = 0x80000


def load(
    image: GuestImage, memory_size: int, write: Callable[[Gpa, bytes], object], command_line: str = ""
) -> BootState:
    """Writes an image into guest-physical memory.

    The memory must be zero where nothing has been written, as a PC's is here at power-on. Everything is checked before
    the first byte is written; only bytes that the file holds are written, so that a segment of zeros costs nothing,
    however large.

    :param memory_size: bytes of memory that the VM has, from address 0.
    :param write: called with a guest-physical address and bytes, for every piece.
    :param command_line: the multiboot command line.
    :raises ImageError: a segment lies beyond the memory, two of them overlap, or no room is left for the boot
        information.
    """
    subject = str(image.path or image.name)
    _check(image.segments, memory_size, subject)
    information_at, information = 0, b""
    if image.boot is BootProtocol.MULTIBOOT:
        information_at, information = _place_information(image, memory_size, command_line, subject)
    for segment in image.segments:
        if segment.data:
            write(segment.gpa, segment.data)
    if information:
        write(Gpa(information_at), information)
    esp = min(STACK_TOP, memory_size & ~0xF)
    if image.boot is BootProtocol.MULTIBOOT:
        return BootState(image.entry, LOADER_MAGIC, information_at, esp)
    return BootState(image.entry, 0, 0, esp)


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


def _place_information(image: GuestImage, memory_size: int, command_line: str, subject: str) -> tuple[Gpa, bytes]:
    """A place for the information structure in low memory: the usual one, or the first page clear of the image."""
    size = len(information_structure(INFORMATION_ADDRESS, memory_size, command_line))
    end_of_low_memory = min(memory_size, LOW_MEMORY_END)
    for candidate in (INFORMATION_ADDRESS, *range(PAGE_SIZE, end_of_low_memory, PAGE_SIZE)):
        end = candidate + size
        if end <= end_of_low_memory and all(
            end <= segment.gpa or candidate >= segment.end for segment in image.segments
        ):
            at = Gpa(candidate)
            return at, information_structure(at, memory_size, command_line)
    raise ImageError(
        subject, "no room below 640 KiB for the multiboot information structure", "link the guest at 1 MiB, as is usual"
    )
