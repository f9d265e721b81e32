from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from simvirt.errors import ImageError, UnknownNameError
from simvirt.guests.image import BootModule, BootOptions, BootProtocol, GuestImage, ImageKind
from simvirt.guests.linux import BOOT_PARAMETERS, COMMAND_LINE, GDT, PAGE_TABLES
from simvirt.guests.load import load
from simvirt.guests.recognise import BootKind, recognise
from simvirt.guests.resolve import resolve
from simvirt.machine.machine import Outcome
from simvirt.observe.session import run
from tests.guests.linux_maker import EXIT_42, make_bzimage

MIB = 1 << 20


class Memory(dict[int, bytes]):
    """What the loader wrote, by address."""

    def write(self, gpa: int, data: bytes) -> None:
        self[gpa] = data


def loaded(image: GuestImage, size: int = 64 * MIB) -> Memory:
    memory = Memory()
    load(image, size, memory.write)
    return memory


def with_options(image: GuestImage, command_line: str, *modules: bytes) -> GuestImage:
    return replace(image, options=BootOptions(command_line, tuple(BootModule("initrd", data) for data in modules)))


def test_a_bzimage_is_recognised_by_its_content() -> None:
    image = recognise(make_bzimage(setup_sectors=7), "vmlinuz")
    assert (image.kind, image.boot, image.entry) == (ImageKind.LINUX, BootProtocol.LINUX_32, MIB)
    (segment,) = image.segments
    assert segment.data.startswith(EXIT_42)
    assert segment.memory_size == 0x10000


def test_the_boot_parameters_hold_what_the_protocol_asks_for() -> None:
    image = with_options(recognise(make_bzimage(), "vmlinuz"), "console=ttyS0 quiet", b"one", b"two")
    memory = loaded(image)
    page = memory[BOOT_PARAMETERS]
    assert page[0x1F1:0x202] == make_bzimage()[0x1F1:0x202]
    assert page[0x210] == 0xFF
    ramdisk, size, _, _, command_line = struct.unpack_from("<5I", page, 0x218)
    assert memory[ramdisk] == b"onetwo"
    assert size == 6
    assert ramdisk % 4096 == 0
    assert command_line == COMMAND_LINE
    assert memory[COMMAND_LINE] == b"console=ttyS0 quiet\0"
    ranges = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(page[0x1E8])]
    assert (MIB, 63 * MIB, 1) in ranges
    assert struct.unpack_from("<I", page, 0x1E0)[0] == 63 * 1024


def test_the_initial_ram_disk_keeps_clear_of_the_kernel_and_below_its_limit() -> None:
    data = make_bzimage(initrd_addr_max=24 * MIB - 1, preferred_address=16 * MIB, init_size=4 * MIB)
    memory = loaded(with_options(recognise(data, "vmlinuz"), "", bytes(2 * MIB)))
    (at,) = [at for at, data in memory.items() if len(data) == 2 * MIB]
    assert at == 22 * MIB
    crowded = make_bzimage(initrd_addr_max=20 * MIB - 1, preferred_address=16 * MIB, init_size=4 * MIB)
    memory = loaded(with_options(recognise(crowded, "vmlinuz"), "", bytes(2 * MIB)))
    (at,) = [at for at, data in memory.items() if len(data) == 2 * MIB]
    assert at == 14 * MIB


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
@pytest.mark.parametrize("boot", [BootKind.LINUX_32, BootKind.LINUX_64])
def test_the_kernel_is_entered_by_both_protocols(boot: BootKind, strategy: str) -> None:
    result = run(recognise(make_bzimage(), "vmlinuz", boot), strategy, cpu="x86-64")
    assert (result.outcome, result.guest_status) == (Outcome.FINISHED, 42)


def test_the_64_bit_protocol_maps_memory_to_itself() -> None:
    image = recognise(make_bzimage(), "vmlinuz", BootKind.LINUX_64)
    memory = loaded(image)
    tables = memory[PAGE_TABLES]
    pml4, pdpt = struct.unpack_from("<Q", tables, 0)[0], struct.unpack_from("<Q", tables, 4096 + 8 * 3)[0]
    assert pml4 & ~0xFFF == PAGE_TABLES + 0x1000
    directory = (pdpt & ~0xFFF) - PAGE_TABLES
    assert struct.unpack_from("<Q", tables, directory + 8 * 511)[0] == 0xFFE00000 | 0x83
    assert struct.unpack_from("<4Q", memory[GDT]) == (0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)


BROKEN = {
    "cut in the header": (make_bzimage()[:0x280], "truncated"),
    "cut in the kernel": (make_bzimage()[:-40], "truncated Linux kernel"),
    "no kernel": (make_bzimage()[:1024], "truncated Linux kernel"),
    "old": (make_bzimage(version=0x0201), "boot protocol 2.01"),
    "low": (make_bzimage(load_flags=0), "zImage"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_bad_headers(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        recognise(data, "vmlinuz")


def test_what_does_not_fit_is_refused_before_anything_is_written() -> None:
    image = recognise(make_bzimage(), "vmlinuz")
    for options, memory_size, message in (
        (BootOptions("", (BootModule("initrd", bytes(2 * MIB)),)), 2 * MIB, "initial RAM disk of 2097152 bytes"),
        (BootOptions("x" * 2048), 64 * MIB, "command line of 2048 bytes, where this kernel takes 2047"),
    ):
        memory = Memory()
        with pytest.raises(ImageError, match=message):
            load(replace(image, options=options), memory_size, memory.write)
        assert not memory


def test_a_kernel_without_the_64_bit_entry() -> None:
    with pytest.raises(ImageError, match="without a 64-bit entry"):
        recognise(make_bzimage(extended_load_flags=0), "vmlinuz", BootKind.LINUX_64)


def test_the_kind_can_be_forced(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(make_bzimage())
    assert resolve(path, boot="flat").kind is ImageKind.FLAT
    with pytest.raises(ImageError, match="no multiboot header"):
        resolve(path, boot="multiboot")
    with pytest.raises(UnknownNameError, match="linux-32"):
        resolve(path, boot="linux-23")


def test_a_guest_without_a_boot_loader_takes_no_options(tmp_path: Path) -> None:
    path = tmp_path / "guest.bin"
    path.write_bytes(EXIT_42)
    with pytest.raises(ImageError, match="no place for a command line"):
        load(resolve(path, append="quiet"), 64 * MIB, Memory().write)
    with pytest.raises(ImageError, match="no such file"):
        resolve(path, initrd=[tmp_path / "missing"])
