from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from simvirt.errors import ImageError
from simvirt.guests.image import BootModule, BootOptions, BootProtocol, ImageKind
from simvirt.guests.load import load
from simvirt.guests.memory_map import MIB, MemoryType, memory_map
from simvirt.guests.multiboot import SEARCHED_BYTES, find_header, information_structure
from simvirt.guests.recognise import recognise
from simvirt.x86.addresses import Gpa
from tests.guests import qemu
from tests.guests.elf_maker import Header, make_elf

MAGIC = 0x1BADB002
ADDRESS_FIELDS = 1 << 16
# mov eax, 42; mov dx, 0xf4; out dx, eax; hlt
EXIT_42 = bytes.fromhex("b82a000000 66baf400 ef f4")


def header(flags: int, *fields: int, checksum_error: int = 0) -> bytes:
    return struct.pack(f"<3I{len(fields)}I", MAGIC, flags, (-(MAGIC + flags) + checksum_error) & 0xFFFFFFFF, *fields)


def flat(offset: int = 0, load: int = 0x100000, load_end: int = 0, bss_end: int = 0, entry: int | None = None) -> bytes:
    """An image with address fields, ``offset`` bytes of padding before its header, and the code behind it."""
    code_at = load + offset + 32
    head = header(ADDRESS_FIELDS, load + offset, load, load_end, bss_end, code_at if entry is None else entry)
    return bytes(offset) + head + EXIT_42


def test_header_is_found_on_a_4_byte_boundary_only() -> None:
    found = find_header(bytes(8) + header(0))
    assert found is not None
    assert found.offset == 8
    assert find_header(bytes(6) + header(0)) is None


def test_header_must_lie_wholly_within_the_first_8192_bytes() -> None:
    assert find_header(bytes(SEARCHED_BYTES - 12) + header(0)) is not None
    assert find_header(bytes(SEARCHED_BYTES - 8) + header(0) + bytes(100)) is None
    assert find_header(bytes(SEARCHED_BYTES - 16) + header(ADDRESS_FIELDS, 0, 0, 0, 0, 0)) is None


def test_a_wrong_checksum_is_no_header() -> None:
    assert find_header(header(0, checksum_error=1)) is None


def test_an_image_with_address_fields() -> None:
    data = flat(offset=64, bss_end=0x104000)
    image = recognise(data, "kludge")
    assert (image.kind, image.boot) == (ImageKind.MULTIBOOT, BootProtocol.MULTIBOOT)
    (segment,) = image.segments
    assert (segment.gpa, segment.data, segment.memory_size) == (0x100000, data, 0x4000)
    assert image.entry == 0x100060


def test_load_address_behind_the_files_start_skips_bytes() -> None:
    data = bytes(16) + header(ADDRESS_FIELDS, 0x100000, 0x100000, 0, 0, 0x100020) + EXIT_42
    (segment,) = recognise(data, "skips").segments
    assert segment.data == data[16:]


@pytest.mark.skipif(not qemu.is_installed(), reason="qemu-system-i386 is not installed")
@pytest.mark.parametrize("offset", [0, 64])
def test_qemu_boots_what_is_recognised_here(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "kludge.bin"
    path.write_bytes(flat(offset=offset, bss_end=0x104000))
    assert recognise(path).kind is ImageKind.MULTIBOOT
    assert qemu.run(path).guest_status == 42


@pytest.mark.skipif(not qemu.is_installed(), reason="qemu-system-i386 is not installed")
def test_address_fields_go_before_elf_headers(tmp_path: Path) -> None:
    path = tmp_path / "kernel64.elf"
    elf64 = make_elf(Header(0, elf_class=2, machine=62), [])
    path.write_bytes(elf64 + flat(offset=0, load=0x100000 + len(elf64)))
    image = recognise(path)
    assert image.kind is ImageKind.MULTIBOOT
    assert image.entry == 0x100000 + len(elf64) + 32
    assert qemu.run(path).guest_status == 42


BROKEN = {
    "video": (header(1 << 2), "video mode"),
    "unknown": (header(1 << 5), "undefined features"),
    "no fields": (header(0) + EXIT_42, "without address fields"),
    "load above header": (header(ADDRESS_FIELDS, 0x100000, 0x100010, 0, 0, 0x100020) + EXIT_42, "outside the file"),
    "load below file": (header(ADDRESS_FIELDS, 0x100000, 0xFF000, 0, 0, 0x100020) + EXIT_42, "outside the file"),
    "order": (flat(load_end=0x100020, bss_end=0x100010), "not in order"),
    "end before start": (flat(load_end=0xFF000), "not in order"),
    "short": (flat(load_end=0x200000), "more bytes than the file has"),
    "entry": (flat(entry=0x400000), "entry point 0x400000"),
    "wraps": (flat(load=0xFFFFFFE0, entry=0xFFFFFFE0), "wraps around"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_header_is_refused_with_the_reason(what: str) -> None:
    data, message = BROKEN[what]
    with pytest.raises(ImageError, match=message):
        recognise(data, "broken")


def _string(block: bytes, base: int, address: int) -> str:
    start = address - base
    return block[start : block.index(0, start)].decode()


def test_information_structure_has_the_specifications_layout() -> None:
    at = Gpa(0x9000)
    block = information_structure(at, 64 * MIB, "verbose root=none")
    flags, lower, upper, _, command_line = struct.unpack_from("<IIIII", block, 0)
    assert flags == 0b10_0100_0101  # memory, command line, memory map, loader name
    assert (lower, upper) == (639, 63 * 1024)
    assert _string(block, at, command_line) == "verbose root=none"
    map_length, map_at = struct.unpack_from("<II", block, 44)
    assert _string(block, at, *struct.unpack_from("<I", block, 64)) == "simvirt"
    ranges, position = [], map_at - at
    while position < map_at - at + map_length:
        size, base, length, kind = struct.unpack_from("<IQQI", block, position)
        ranges.append((base, length, kind))
        position += size + 4  # the size does not count itself
    assert ranges == [(r.base, r.size, r.type) for r in memory_map(64 * MIB)]


@pytest.mark.parametrize("memory", [64 * 1024, MIB, 2 * MIB, 64 * MIB, 3 << 30])
def test_memory_map_is_in_order_without_overlap_and_within_memory(memory: int) -> None:
    ranges = memory_map(memory)
    for lower, upper in pairwise(ranges):
        assert lower.base + lower.size <= upper.base
    available = [r for r in ranges if r.type is MemoryType.AVAILABLE]
    assert all(r.base + r.size <= memory for r in available)
    assert sum(r.size for r in available) >= min(memory, 0x9FC00)


def test_modules_are_told_with_their_arguments() -> None:
    modules = (BootModule("one.bin", b"first"), BootModule("two.bin --verbose", b"second"))
    image = replace(recognise(flat(), "kernel"), options=BootOptions("root=none", modules))
    memory: dict[int, bytes] = {}
    state = load(image, 64 * MIB, memory.__setitem__)
    block = memory[state.ebx]
    assert struct.unpack_from("<I", block, 0)[0] & 8
    count, table = struct.unpack_from("<II", block, 20)
    assert count == 2
    told = [struct.unpack_from("<4I", block, table - state.ebx + 16 * number) for number in range(count)]
    for (start, end, name, reserved), module in zip(told, modules, strict=True):
        assert memory[start] == module.data
        assert end - start == len(module.data)
        assert start % 4096 == 0
        assert _string(block, Gpa(state.ebx), name) == module.name
        assert reserved == 0
