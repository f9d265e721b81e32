"""What a guest is, as a value: bytes at guest-physical addresses, a place to start, and names for places.

::

    path or bytes ── recognise ──> GuestImage ── load ──> memory of the VM, and the BootState to start it in

A :class:`GuestImage` knows nothing of the machine that will run it. It is immutable, and what is costly to find
(symbols, source lines) is found when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING

from simvirt.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from simvirt.guests.lines import LineTable
    from simvirt.guests.symbols import SymbolTable
    from simvirt.x86.addresses import Gpa


class ImageKind(Enum):
    """The formats that can be loaded."""

    FLAT = "flat binary"
    ELF = "ELF"
    MULTIBOOT = "multiboot"


class BootProtocol(Enum):
    """The state of the machine on which the image's first instruction counts."""

    PROTECTED_FLAT = "32-bit protected mode, flat 4 GiB segments, paging off, interrupts masked"
    MULTIBOOT = "the same, and EAX holds multiboot's magic value, EBX the address of the information structure"


@dataclass(frozen=True, slots=True)
class Segment:
    """Guest-physical memory that the image fills: first ``data``, then zeros up to ``memory_size``."""

    gpa: Gpa
    data: bytes = field(repr=False)
    memory_size: int
    writable: bool = True
    executable: bool = True

    @property
    def end(self) -> int:
        """The first address behind the segment."""
        return self.gpa + self.memory_size

    def __contains__(self, address: int) -> bool:
        return self.gpa <= address < self.end


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A guest, recognised and checked, ready to be loaded."""

    name: str
    path: Path | None
    kind: ImageKind
    sha256: str
    segments: tuple[Segment, ...]
    entry: Gpa
    boot: BootProtocol
    symbols: SymbolTable = field(repr=False, compare=False)
    lines: LineTable | None = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class BootState:
    """The registers that the boot protocol fixes when the guest's first instruction runs.

    The rest of the state goes by :class:`BootProtocol`. ``esp`` is a courtesy: neither protocol promises a stack
    (Multiboot Specification 0.6.96 §3.2: ESP is undefined), yet a flat binary of a few lines should be able to push.
    """

    entry: Gpa
    eax: int
    ebx: int
    esp: int


def refuse_overlaps(segments: Sequence[Segment], subject: str) -> None:
    """Two segments cannot have the same memory.

    :raises ImageError: they do; ``subject`` is what the message speaks of.
    """
    ordered = sorted(segments, key=lambda segment: segment.gpa)
    for lower, upper in pairwise(ordered):
        if upper.gpa < lower.end:
            raise ImageError(
                subject,
                f"its segment at {upper.gpa:#x} overlaps the one from {lower.gpa:#x} to {lower.end:#x}",
                "check the linker script's addresses",
            )
