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
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from simvirt.guests.lines import LineTable
    from simvirt.guests.symbols import SymbolTable
    from simvirt.x86.cpuid import Feature


class ImageKind(Enum):
    """The formats that can be loaded."""

    FLAT = "flat binary"
    ELF = "ELF"
    MULTIBOOT = "multiboot"
    LINUX = "Linux kernel"
    PVH = "ELF with a PVH entry"
    DISK = "bootable disk image"


class BootProtocol(Enum):
    """The state of the machine on which the image's first instruction counts."""

    PROTECTED_FLAT = "32-bit protected mode, flat 4 GiB segments, paging off, interrupts masked"
    MULTIBOOT = "the same, and EAX holds multiboot's magic value, EBX the address of the information structure"
    PVH = "32-bit protected mode, paging off, and EBX holds the address of Xen's start information"
    LINUX_16 = "the processor after reset, and a firmware that enters the setup code of Linux in real-address mode"
    LINUX_32 = "32-bit protected mode, paging off, and ESI holds the address of Linux's boot parameters"
    LINUX_64 = "64-bit mode, memory mapped to itself, and RSI holds the address of Linux's boot parameters"
    FIRMWARE = "the processor after reset, and a firmware that boots from the disk"


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
class BootModule:
    """A file that the boot loader puts into memory beside the kernel: an initial RAM disk, a multiboot module."""

    name: str
    """What a multiboot kernel is told of it: the file's name and arguments."""
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BootOptions:
    """What a boot loader hands to the kernel besides itself."""

    command_line: str = ""
    modules: tuple[BootModule, ...] = ()
    """Multiboot knows them one by one; for Linux, one behind the other, they are the initial RAM disk."""


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
    options: BootOptions = BootOptions()
    setup: bytes = field(default=b"", repr=False)
    """A Linux kernel's setup code, with its header, of which its boot parameters are made."""
    setup_code_checks: frozenset[Feature] = frozenset()
    """Features that a Linux kernel's setup code may look for: on a processor without them it is entered there."""
    boot_disk: Path | None = None
    """The file that is the machine's disk, for an image that is booted from it."""

    @property
    def needs_firmware(self) -> bool:
        """Does the machine start with its firmware, which boots the guest?"""
        return self.boot in {BootProtocol.FIRMWARE, BootProtocol.LINUX_16}


class BootMode(Enum):
    """The mode that a boot loader leaves the processor in."""

    PROTECTED = "32-bit protected mode, flat 4 GiB segments, paging off"
    LONG = "64-bit mode, memory mapped to itself"
    RESET = "none: the processor as it is after reset, in real-address mode"


@dataclass(frozen=True, slots=True)
class BootState:
    """What the boot protocol fixes when the guest's first instruction runs; other registers are zero.

    ``esp`` is a courtesy: multiboot promises no stack (Multiboot Specification 0.6.96 §3.2: ESP is undefined), yet a
    flat binary of a few lines should be able to push.
    """

    entry: Gpa
    eax: int = 0
    ebx: int = 0
    esp: int = 0
    esi: int = 0
    mode: BootMode = BootMode.PROTECTED
    code_selector: int = 0x08
    data_selector: int = 0x10
    gdt: range = range(0)
    """Linear addresses of a GDT that has these selectors; empty where the protocol promises none."""
    page_tables: Gpa = Gpa(0)
    """Address of the PML4 in :attr:`BootMode.LONG`."""


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
