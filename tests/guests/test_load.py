from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from simvirt.errors import ImageError
from simvirt.guests import catalogue
from simvirt.guests.firmware_tables import firmware_tables
from simvirt.guests.flat import flat_image
from simvirt.guests.image import BootOptions, GuestImage, Segment
from simvirt.guests.load import load
from simvirt.guests.multiboot import INFORMATION_ADDRESS
from simvirt.guests.recognise import recognise
from simvirt.x86.addresses import Gpa
from tests.guests.elf_maker import CODE, Header, Load, make_elf, simple_elf

MIB = 1 << 20


class Memory:
    """Takes the loader's writes, and would notice two to one place."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}

    def write(self, gpa: Gpa, data: bytes) -> None:
        for offset, value in enumerate(data):
            assert gpa + offset not in self.bytes
            self.bytes[gpa + offset] = value

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(self.bytes.get(gpa + offset, 0) for offset in range(size))


def test_flat() -> None:
    memory = Memory()
    state = load(flat_image(CODE, "flat"), 2 * MIB, memory.write)
    assert memory.read(0x100000, len(CODE)) == CODE
    assert (state.entry, state.eax, state.ebx) == (0x100000, 0, 0)
    assert state.esp < 0x9FC00


def test_multiboot_state_points_to_the_information_structure() -> None:
    memory = Memory()
    image = replace(catalogue.find("hello").image(), options=BootOptions("one two"))
    state = load(image, 64 * MIB, memory.write)
    assert (state.entry, state.eax, state.ebx) == (image.entry, 0x2BADB002, INFORMATION_ADDRESS)
    for segment in image.segments:
        assert memory.read(segment.gpa, len(segment.data)) == segment.data
    command_line = struct.unpack("<I", memory.read(state.ebx + 16, 4))[0]
    assert memory.read(command_line, 8) == b"one two\0"


def test_information_structure_makes_way_for_the_image() -> None:
    memory = Memory()
    low = Segment(Gpa(0x8000), bytes(0x2000), 0x3000)
    image = replace(catalogue.find("hello").image(), segments=(low,), entry=low.gpa)
    state = load(image, 64 * MIB, memory.write)
    assert state.ebx not in low
    assert state.ebx < 0x9FC00
    assert memory.read(state.ebx, 4) != bytes(4)


def test_no_room_for_the_information_structure() -> None:
    image = catalogue.find("hello").image()
    everything = replace(image, segments=(Segment(Gpa(0), b"\xf4", 0xA0000),), entry=Gpa(0))
    with pytest.raises(ImageError, match="no room below 640 KiB"):
        load(everything, 64 * MIB, Memory().write)


def _refused(image: GuestImage, memory_size: int, message: str) -> None:
    memory = Memory()
    with pytest.raises(ImageError, match=message):
        load(image, memory_size, memory.write)
    assert not memory.bytes


def test_more_memory_than_given_is_refused_before_anything_is_written() -> None:
    data = make_elf(Header(0x100000), [Load(0x100000, CODE), Load(0x400000, CODE, memory_size=0x200000)])
    _refused(recognise(data, "big"), 5 * MIB, r"reaches to 0x600000.*at least 6 MiB")
    load(recognise(data, "big"), 6 * MIB, Memory().write)


def test_flat_binary_larger_than_memory() -> None:
    _refused(flat_image(bytes([0xF4]) * 4096, "flat"), MIB, "memory ends at 0x100000")


def test_huge_segment_is_refused_at_once() -> None:
    _refused(recognise(simple_elf(memory_size=0xEFF00000), "huge"), 64 * MIB, "reaches to 0xf0000000")


def test_overlapping_segments_are_refused() -> None:
    image = flat_image(CODE, "flat")
    twice = replace(image, segments=(*image.segments, Segment(Gpa(0x100002), CODE, 3)))
    _refused(twice, 2 * MIB, "overlaps")


def test_a_segment_of_zeros_costs_nothing() -> None:
    memory = Memory()
    load(recognise(simple_elf(memory_size=0x40000000), "sparse"), 0x50000000, memory.write)
    assert len(memory.bytes) == len(CODE) + len(firmware_tables())
