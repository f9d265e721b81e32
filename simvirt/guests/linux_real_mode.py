"""Linux by its 16-bit boot protocol: entered in real-address mode, at its setup code.

That is how a PC's boot loaders have entered it from the beginning: the setup code asks the firmware for the memory map
and the screen, checks the processor, and goes to protected mode by itself. It is the only part of a kernel that can say
what it misses in a processor that cannot run the rest. The PC starts at its reset vector; the firmware finds in a word
of its ROM that the kernel is in memory already, and enters it (``firmware/entry.S``) in place of a boot sector.

Memory below 640 KiB, when the setup code starts::

    0x90000  setup code, and behind it its heap and stack
    0x9E000  or below, if it is long: the command line, up to the firmware's data
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.disk_boot import FIRMWARE, RESET_VECTOR, firmware
from simvirt.guests.image import BootMode, BootProtocol, BootState, GuestImage, Segment
from simvirt.guests.linux import UNDEFINED_LOADER, LoadFlag, command_line, initrd_place, read_setup_header
from simvirt.guests.memory_map import LOW_MEMORY_END
from simvirt.guests.placement import Placement, subject
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from simvirt.x86.cpuid import CpuModel

SETUP_CODE: Final = Gpa(0x90000)
HEAP_END: Final = 0xE000
"""Where heap and stack end, from the setup code on, where the command line leaves room for that."""
LEAST_HEAP_END: Final = 0x9800
"""The least for any kernel (boot.rst, "Memory Layout"): 32 KiB of setup code, and a stack."""
LARGEST_SETUP_CODE: Final = 0x8000
_BELOW_STACK: Final = 0x200
"""What the stack is to have of the heap: the field tells where that ends."""
LOADED_KERNEL: Final = 0xFFE0
"""Where in its ROM the firmware looks for a loaded kernel: the segment of its setup code, and SP (``firmware.ld``)."""
_PARAGRAPH: Final = 16

# Offsets in the setup header that a boot loader fills in.
_TYPE_OF_LOADER, _LOADFLAGS, _RAMDISK_IMAGE, _HEAP_END_PTR, _CMD_LINE_PTR = 0x210, 0x211, 0x218, 0x224, 0x228


def enter_in_real_mode(image: GuestImage) -> GuestImage:
    """The same kernel, by the 16-bit boot protocol."""
    return replace(image, boot=BootProtocol.LINUX_16, entry=RESET_VECTOR, setup_code_checks=frozenset())


def entered_on(image: GuestImage, cpu: CpuModel) -> GuestImage:
    """The image as a boot loader enters it on this processor.

    A kernel of which it is known that it cannot run there is entered at its setup code, which says why.

    :raises ImageError: it is to be entered in a mode that the processor does not have.
    """
    if image.boot is BootProtocol.LINUX_64 and not cpu.has_long_mode:
        raise ImageError(
            subject(image),
            f"linux-64 enters the kernel in 64-bit mode, which the CPU model {cpu.name} does not have",
            "leave out --boot, and the kernel says itself what it misses; or choose another --cpu",
        )
    return image if all(map(cpu.has, image.setup_code_checks)) else enter_in_real_mode(image)


def place_linux_16(image: GuestImage, memory_size: int) -> Placement:
    """The kernel, its setup code, command line and initial RAM disk, and a firmware that knows of them.

    :raises ImageError: something of them does not fit.
    """
    header = read_setup_header(image.setup, subject(image))
    if len(image.setup) > LARGEST_SETUP_CODE:
        raise ImageError(
            subject(image),
            f"setup code of {len(image.setup)} bytes, where the protocol has room for {LARGEST_SETUP_CODE}",
            "boot it as linux-32",
        )
    segments = list(image.segments)
    text = command_line(image, header)
    heap_end = min(HEAP_END, LOW_MEMORY_END - SETUP_CODE - len(text) & -_PARAGRAPH)
    if heap_end < LEAST_HEAP_END:
        raise ImageError(
            subject(image),
            f"a command line of {len(text) - 1} bytes leaves no room for the setup code's stack",
            "shorten --append",
        )
    text_at = Gpa(SETUP_CODE + heap_end)
    initrd = b"".join(module.data for module in image.options.modules)
    initrd_at = initrd_place(image, header, memory_size, len(initrd)) if initrd else Gpa(0)
    setup = bytearray(image.setup)
    setup[_TYPE_OF_LOADER] = UNDEFINED_LOADER
    setup[_LOADFLAGS] |= LoadFlag.CAN_USE_HEAP
    struct.pack_into("<II", setup, _RAMDISK_IMAGE, initrd_at, len(initrd))
    struct.pack_into("<H", setup, _HEAP_END_PTR, heap_end - _BELOW_STACK)
    struct.pack_into("<I", setup, _CMD_LINE_PTR, text_at)
    rom = bytearray(firmware())
    struct.pack_into("<HH", rom, LOADED_KERNEL, SETUP_CODE >> 4, heap_end)
    segments += [
        Segment(SETUP_CODE, bytes(setup), heap_end),
        Segment(text_at, text, len(text)),
        Segment(FIRMWARE, bytes(rom), len(rom), writable=False),
    ]
    if initrd:
        segments.append(Segment(initrd_at, initrd, len(initrd)))
    return Placement(tuple(segments), BootState(image.entry, mode=BootMode.RESET))
