from __future__ import annotations

import struct

import pytest

from simvirt.x86.tss import (
    TSS16_MINIMUM_LIMIT,
    TSS32_MINIMUM_LIMIT,
    TSS64_MINIMUM_LIMIT,
    Tss16,
    Tss32,
    Tss64,
    inner_stack_offsets,
)


def test_offsets_add_up_as_the_figures_draw_them() -> None:
    assert [int(field) for field in Tss16] == list(range(0, 44, 2))
    fields = [field for field in Tss32 if field not in (Tss32.TRAP, Tss32.IO_MAP_BASE)]
    assert [int(field) for field in fields] == list(range(0, 100, 4))
    assert (Tss32.TRAP, Tss32.IO_MAP_BASE) == (100, 102)
    # Three stack pointers behind a reserved doubleword, then eight reserved bytes and seven more.
    assert [int(field) for field in Tss64][:3] == [4, 12, 20]
    assert [int(field) for field in Tss64][3:10] == [20 + 8 + 8 + 8 * n for n in range(7)]


def test_minimum_limits_end_with_the_last_field() -> None:
    assert struct.calcsize("<22H") - 1 == TSS16_MINIMUM_LIMIT
    assert TSS32_MINIMUM_LIMIT == TSS64_MINIMUM_LIMIT == Tss32.IO_MAP_BASE + 1 == Tss64.IO_MAP_BASE + 1


@pytest.mark.parametrize("ring", [0, 1, 2])
def test_inner_stacks(ring: int) -> None:
    assert inner_stack_offsets(ring) == (Tss32[f"ESP{ring}"], Tss32[f"SS{ring}"])
    assert inner_stack_offsets(ring, is_32_bit=False) == (Tss16[f"SP{ring}"], Tss16[f"SS{ring}"])


def test_ring_3_has_no_stack_in_a_tss() -> None:
    with pytest.raises(ValueError, match="rings 0 to 2"):
        inner_stack_offsets(3)
