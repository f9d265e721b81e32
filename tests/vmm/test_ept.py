from __future__ import annotations

import pytest

from simvirt.errors import MonitorError
from simvirt.machine.memory import AddressSpace, Region, RegionKind
from simvirt.vmm.ept import ExtendedPageTables, OutOfTablePages, TablePages
from simvirt.x86.addresses import Gpa, Hpa
from simvirt.x86.vmx.ept import EptEntry, EptMemoryType, EptPointer

MIB, GIB = 1 << 20, 1 << 30


class Host:
    """A little host memory, and pages for tables from its start."""

    def __init__(self) -> None:
        self.memory = bytearray(1 * MIB)
        self.pages = TablePages(range(0x1000, 1 * MIB, 0x1000))
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def ept(host: Host) -> ExtendedPageTables:
    return ExtendedPageTables(memoryview(host.memory), host.pages, on_change=host.changed)


def test_small_pages_where_nothing_is_aligned(ept: ExtendedPageTables) -> None:
    ept.map(Gpa(0x5000), Hpa(0x123000), 0x3000)
    assert [ept.host(Gpa(gpa)) for gpa in (0x4FFF, 0x5000, 0x7FFF, 0x8000)] == [None, 0x123000, 0x125FFF, None]
    leaf = ept.walk(Gpa(0x6000))[-1]
    assert leaf.value == 0x124000 | EptMemoryType.WRITE_BACK << 3 | 7
    assert [step.level for step in ept.walk(Gpa(0x6000))] == [4, 3, 2, 1]


def test_large_pages_where_both_sides_are_aligned(host: Host, ept: ExtendedPageTables) -> None:
    ept.map(Gpa(0), Hpa(1 * GIB), 3 * GIB)
    assert [step.level for step in ept.walk(Gpa(2 * GIB + 5))] == [4, 3]
    assert ept.host(Gpa(2 * GIB + 5)) == 3 * GIB + 5
    used = host.pages.used
    ept.map(Gpa(8 * GIB), Hpa(2 * MIB), 4 * MIB)
    assert [step.level for step in ept.walk(Gpa(8 * GIB))] == [4, 3, 2]
    assert host.pages.used == used + 1


def test_a_change_to_a_part_splits_a_large_page(ept: ExtendedPageTables) -> None:
    ept.map(Gpa(0), Hpa(GIB), GIB)
    ept.set_rights(Gpa(5 * MIB), 0x1000, EptEntry.READ)
    assert [step.level for step in ept.walk(Gpa(5 * MIB))] == [4, 3, 2, 1]
    assert ept.walk(Gpa(5 * MIB))[-1].value & 7 == 1
    for gpa in (5 * MIB - 1, 5 * MIB + 0x1000, 6 * MIB, 700 * MIB + 3):
        assert ept.host(Gpa(gpa)) == GIB + gpa
        assert ept.walk(Gpa(gpa))[-1].value & 7 == 7
        assert ept.walk(Gpa(gpa))[-1].value >> 3 & 7 == EptMemoryType.WRITE_BACK


def test_unmapping(host: Host, ept: ExtendedPageTables) -> None:
    ept.map(Gpa(0), Hpa(2 * MIB), 2 * MIB)
    changes = host.changes
    ept.unmap(Gpa(0x3000), 0x2000)
    assert host.changes == changes + 1
    assert [ept.host(Gpa(gpa)) for gpa in (0x2000, 0x3000, 0x4FFF, 0x5000)] == [0x202000, None, None, 0x205000]


def test_an_address_space_maps_ram_and_rom_alone(ept: ExtendedPageTables) -> None:
    ept.map_space(
        AddressSpace(
            [
                Region(Gpa(0), 0x2000, RegionKind.RAM, Hpa(0x10000)),
                Region(Gpa(0x2000), 0x1000, RegionKind.ROM, Hpa(0x12000)),
                Region(Gpa(0x3000), 0x1000, RegionKind.MMIO),
            ]
        )
    )
    assert [ept.walk(Gpa(gpa))[-1].value & 7 for gpa in (0, 0x1000, 0x2000, 0x3000, 0x4000)] == [7, 7, 5, 0, 0]


def test_only_whole_pages(ept: ExtendedPageTables) -> None:
    with pytest.raises(MonitorError, match="only whole pages"):
        ept.map(Gpa(0x800), Hpa(0), 0x1000)


def test_the_pointer_goes_both_ways() -> None:
    """SDM Vol. 3C Table 25-9."""
    pointer = EptPointer(Hpa(0x123000), accessed_and_dirty=True)
    assert pointer.encode() == 0x123000 | 1 << 6 | 3 << 3 | 6
    assert EptPointer.decode(pointer.encode()) == pointer
    with pytest.raises(ValueError, match="2"):
        EptPointer.decode(0x123000 | 3 << 3 | 2)


def test_clearing_gives_the_tables_back(host: Host, ept: ExtendedPageTables) -> None:
    pointer = ept.pointer
    ept.map(Gpa(0x5000), Hpa(0x123000), 0x1000)
    ept.clear()
    assert host.pages.used == 1
    assert ept.pointer == pointer
    assert ept.host(Gpa(0x5000)) is None


def test_no_page_is_left_for_a_table(host: Host) -> None:
    small = ExtendedPageTables(memoryview(host.memory), TablePages(range(0x1000, 0x3000, 0x1000)))
    with pytest.raises(OutOfTablePages, match="all 2 pages"):
        small.map(Gpa(0), Hpa(0), 0x1000)


def test_only_what_was_mapped_before_has_to_be_invalidated(host: Host) -> None:
    ept = ExtendedPageTables(memoryview(host.memory), host.pages, on_change=host.changed)
    ept.map(Gpa(0x5000), Hpa(0x90000), 0x2000)
    assert host.changes == 0
    ept.map(Gpa(0x6000), Hpa(0x92000), 0x2000)
    assert host.changes == 1
    ept.unmap(Gpa(0x6000), 0x1000)
    assert host.changes == 2
    ept.map(Gpa(0x6000), Hpa(0x92000), 0x1000)
    assert host.changes == 2
