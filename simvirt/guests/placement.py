"""What a boot protocol puts into memory, before any of it is written.

A protocol's module makes a `Placement` of an image and the size of the memory; `guests.load` checks and writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.x86.addresses import PAGE_SIZE, Gpa

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simvirt.guests.image import BootState, GuestImage, Segment


_STACK_TOP: Final = 0x80000


@dataclass(frozen=True, slots=True)
class Placement:
    """Everything that is to be in memory when the guest starts, and the state that it starts in."""

    segments: tuple[Segment, ...]
    state: BootState


def free_place(taken: Iterable[Segment], size: int, candidates: Iterable[int], end: int) -> Gpa | None:
    """The first candidate address with `size` bytes below `end` that no segment takes; None if there is none."""
    segments = list(taken)
    for candidate in candidates:
        last = candidate + size
        if last <= end and all(last <= segment.gpa or candidate >= segment.end for segment in segments):
            return Gpa(candidate)
    return None


def highest_place(taken: Iterable[Segment], size: int, start: int, end: int) -> Gpa | None:
    """The highest page-aligned address from `start` on with `size` free bytes below `end`."""
    top = end
    for segment in sorted(taken, key=lambda segment: -segment.end):
        candidate = (top - size) & ~(PAGE_SIZE - 1)
        if candidate < start:
            return None
        if candidate >= segment.end:
            return Gpa(candidate)
        top = min(top, segment.gpa)
    candidate = (top - size) & ~(PAGE_SIZE - 1)
    return Gpa(candidate) if candidate >= start else None


def stack_top(memory_size: int) -> int:
    """Where the stack of a guest begins that was promised none: below 640 KiB, far from what loaders put there."""
    return min(_STACK_TOP, memory_size & ~0xF)


def subject(image: GuestImage) -> str:
    """What errors about an image speak of."""
    return str(image.path or image.name)


def refuse_modules(image: GuestImage, what: str) -> None:
    """A protocol that hands nothing to the guest cannot take options.

    :raises ImageError: there are some.
    """
    if image.options.modules or image.options.command_line:
        raise ImageError(
            subject(image),
            f"{what}: it has no place for a command line or an initial RAM disk",
            "leave out --append and --initrd, or bring a Linux or multiboot kernel",
        )
