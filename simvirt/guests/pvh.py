"""PVH: a kernel's 32-bit entry without firmware, as Xen, QEMU and Firecracker use it (Xen's docs/misc/pvh.pandoc).

The kernel is an ELF file whose note XEN_ELFNOTE_PHYS32_ENTRY names the entry. It finds in EBX the address of the *start
information* (`struct hvm_start_info`, Xen's public/arch-x86/hvm/start_info.h), which points to the command line, the
modules and the memory map.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.image import BootState, GuestImage, Segment
from simvirt.guests.memory_map import LOW_MEMORY_END, MIB, memory_map
from simvirt.guests.placement import Placement, free_place, highest_place, subject
from simvirt.x86.addresses import PAGE_SIZE, Gpa

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC: Final = 0x336EC578
VERSION: Final = 1
"""The first that has a memory map."""
START_INFORMATION: Final = Gpa(0x6000)
"""Where the start information goes unless the image itself is there."""

_INFO: Final = struct.Struct("<4I4Q2I")
_MODULE: Final = struct.Struct("<4Q")
_RANGE: Final = struct.Struct("<2Q2I")


def start_information(
    at: Gpa, memory_size: int, command_line: str, modules: Sequence[tuple[int, int, str]] = ()
) -> bytes:
    """The start information with what it points to, laid out from `at` on; a module is its address, size and name."""
    ranges = memory_map(memory_size)
    modules_at = at + _INFO.size
    ranges_at = modules_at + _MODULE.size * len(modules)
    text_at = ranges_at + _RANGE.size * len(ranges)
    texts, places = bytearray(), []
    for text in (command_line, *(name for _, _, name in modules)):
        places.append(text_at + len(texts))
        texts += text.encode() + b"\0"
    info = _INFO.pack(
        MAGIC, VERSION, 0, len(modules), modules_at if modules else 0, places[0], 0, ranges_at, len(ranges), 0
    )
    table = b"".join(
        _MODULE.pack(address, size, place, 0) for (address, size, _), place in zip(modules, places[1:], strict=True)
    )
    return info + table + b"".join(_RANGE.pack(*one, 0) for one in ranges) + bytes(texts)


def place_pvh(image: GuestImage, memory_size: int) -> Placement:
    """The kernel, its modules, each on pages of its own, and the start information in low memory.

    :raises ImageError: something of them does not fit.
    """
    segments = list(image.segments)
    modules = []
    for module in image.options.modules:
        size = max(len(module.data), 1)
        at = highest_place(segments, size, MIB, memory_size)
        if at is None:
            raise ImageError(
                subject(image),
                f"the module '{module.name}' of {len(module.data)} bytes does not fit into memory beside the kernel",
                "give the machine more memory (--memory)",
            )
        segments.append(Segment(at, module.data, size))
        modules.append((at, len(module.data), module.name))
    command_line = image.options.command_line
    size = len(start_information(START_INFORMATION, memory_size, command_line, modules))
    end = min(memory_size, LOW_MEMORY_END)
    place = free_place(segments, size, (START_INFORMATION, *range(PAGE_SIZE, end, PAGE_SIZE)), end)
    if place is None:
        raise ImageError(
            subject(image), "no room below 640 KiB for the start information", "link the guest at 1 MiB, as is usual"
        )
    information = start_information(place, memory_size, command_line, modules)
    segments.append(Segment(place, information, len(information)))
    return Placement(tuple(segments), BootState(image.entry, ebx=place))
