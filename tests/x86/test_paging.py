from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.x86.paging import (
    PAGING_4_LEVEL,
    PAGING_32_BIT,
    PAGING_PAE,
    EptEntry,
    PageEntry,
    PageFaultErrorCode,
    PagingFormat,
    is_canonical,
)

FORMATS = (PAGING_32_BIT, PAGING_PAE, PAGING_4_LEVEL)


@pytest.mark.parametrize("paging", FORMATS, ids=lambda paging: paging.title)
def test_levels_share_the_linear_address_without_gap_or_overlap(paging: PagingFormat) -> None:
    bit = 12
    for level in reversed(paging.levels):
        assert level.shift == bit
        bit += level.index_bits
        # A table fills a page, or the four entries of a page-directory-pointer table.
        assert paging.entry_size << level.index_bits in (4096, 32)
    assert bit == paging.linear_bits


@given(st.sampled_from(FORMATS), st.integers(0, (1 << 48) - 1))
def test_indices_put_together_give_the_address(paging: PagingFormat, linear: int) -> None:
    linear &= (1 << paging.linear_bits) - 1
    assert sum(level.index(linear) << level.shift for level in paging.levels) == linear & ~0xFFF


# Typed from SDM Vol. 3A Tables 4-4, 4-8, 4-9, 4-10, 4-11, 4-15, 4-16, 4-18: entries that fault, with MAXPHYADDR 40.
RESERVED = [
    (PAGING_32_BIT, "PDE", True, True, 0x0020_0000),
    (PAGING_32_BIT, "PDE", False, True, 0),
    (PAGING_32_BIT, "PTE", True, True, 0),
    (PAGING_PAE, "PDPTE", False, True, 0xFFFF_FF00_0000_01E6),
    (PAGING_PAE, "PDE", True, True, 0x7FFF_FF00_001F_E000),
    (PAGING_PAE, "PDE", False, True, 0x7FFF_FF00_0000_0000),
    (PAGING_PAE, "PTE", True, False, 0xFFFF_FF00_0000_0000),
    (PAGING_4_LEVEL, "PML4E", False, True, 0x000F_FF00_0000_0080),
    (PAGING_4_LEVEL, "PDPTE", True, True, 0x000F_FF00_3FFF_E000),
    (PAGING_4_LEVEL, "PDE", True, False, 0x800F_FF00_001F_E000),
    (PAGING_4_LEVEL, "PTE", True, True, 0x000F_FF00_0000_0000),
]


@pytest.mark.parametrize(("paging", "name", "maps_page", "nxe", "mask"), RESERVED)
def test_reserved_bits(paging: PagingFormat, name: str, maps_page: bool, nxe: bool, mask: int) -> None:
    level = next(level for level in paging.levels if level.name == name)
    assert paging.reserved_mask(level, maps_page=maps_page, physical_bits=40, nxe=nxe) == mask


def test_pse36_follows_the_physical_address_width() -> None:
    pde = PAGING_32_BIT.levels[0]
    masks = [
        PAGING_32_BIT.reserved_mask(pde, maps_page=True, physical_bits=bits, nxe=False) for bits in (32, 36, 40, 52)
    ]
    assert masks == [0x3F_E000, 0x3E_0000, 0x20_0000, 0x20_0000]


def test_entry_and_error_code_bits() -> None:
    names = (
        "PRESENT",
        "WRITABLE",
        "USER",
        "WRITE_THROUGH",
        "CACHE_DISABLE",
        "ACCESSED",
        "DIRTY",
        "PAGE_SIZE",
        "GLOBAL",
    )
    assert [PageEntry[name] for name in names] == [1 << bit for bit in range(9)]
    assert PageEntry.EXECUTE_DISABLE == 1 << 63
    assert [PageFaultErrorCode[name] for name in ("P", "WR", "US", "RSVD", "ID", "PK", "SS")] == [
        1 << bit for bit in range(7)
    ]
    assert EptEntry.READ | EptEntry.WRITE | EptEntry.EXECUTE == 7


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "supervisor read, not present"),
        (2, "supervisor write, not present"),
        (0x15, "user instruction fetch, protection violation"),
        (0xD, "user read, reserved bit set"),
        (0x21, "supervisor read, protection violation, protection key"),
    ],
)
def test_error_codes_in_words(code: int, text: str) -> None:
    assert PageFaultErrorCode(code).description == text


@given(st.integers(0, (1 << 64) - 1))
def test_canonical_is_sign_extension_from_bit_47(linear: int) -> None:
    extended = ((linear & (1 << 48) - 1) ^ 1 << 47) - (1 << 47)
    assert is_canonical(linear) == (extended % (1 << 64) == linear)
