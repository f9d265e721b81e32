"""Regions, address spaces and host memory."""

from __future__ import annotations

import pytest

from simvirt.machine.memory import AddressSpace, HostMemory, Region, RegionKind
from simvirt.x86.addresses import PAGE_SIZE, Gpa, Hpa


def region(start: int, size: int, kind: RegionKind = RegionKind.RAM, host: int = 0) -> Region:
    return Region(Gpa(start), size, kind, Hpa(host))


@pytest.mark.parametrize(
    ("start", "size", "host"), [(1, PAGE_SIZE, 0), (0, 100, 0), (0, PAGE_SIZE, 7), (0, 0, 0), (0, -PAGE_SIZE, 0)]
)
def test_regions_are_whole_pages(start: int, size: int, host: int) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        region(start, size, host=host)


def test_a_region_holds_its_first_byte_and_not_its_end() -> None:
    r = region(0x2000, 0x2000)
    assert [at in r for at in (0x1FFF, 0x2000, 0x3FFF, 0x4000)] == [False, True, True, False]
    assert r.end == 0x4000


def test_regions_are_sorted_and_may_touch() -> None:
    space = AddressSpace([region(0x2000, 0x1000, host=0x5000), region(0, 0x2000)])
    assert [r.start for r in space.regions] == [0, 0x2000]
    assert space.host(Gpa(0x1FFF)) == 0x1FFF
    assert space.host(Gpa(0x2001)) == 0x5001


def test_overlapping_regions_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        AddressSpace([region(0, 0x2000), region(0x1000, 0x1000)])


def test_only_ram_and_rom_have_host_memory() -> None:
    space = AddressSpace(
        [
            region(0, 0x1000),
            region(0x1000, 0x1000, RegionKind.ROM, 0x8000),
            region(0x2000, 0x1000, RegionKind.MMIO),
            region(0x3000, 0x1000, RegionKind.HOLE),
        ]
    )
    assert [space.host(Gpa(at)) for at in (0x10, 0x1010, 0x2010, 0x3010, 0x4010)] == [0x10, 0x8010, None, None, None]
    assert [r.start for r in space.ram] == [0]


@pytest.mark.parametrize("size", [0, -PAGE_SIZE, PAGE_SIZE + 1])
def test_host_memory_is_whole_pages(size: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        HostMemory(size)


def test_host_memory_is_zero_aligned_and_shared() -> None:
    memory = HostMemory(4 * PAGE_SIZE)
    assert memory.address % PAGE_SIZE == 0
    assert not memory.array.any()
    memory.view[5] = 7
    assert memory.array[5] == 7
    assert len(memory.page_flags) == memory.pages == 4
