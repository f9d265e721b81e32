"""The walk of the guest's tables against one written from SDM Vol. 3A chapter 4: random entries, accesses, controls."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from simvirt.machine.fills import Access
from simvirt.vmm.shadow_paging.guest_walk import GuestWalker, PagingControls
from simvirt.x86.flags import Cr0, Cr4, Efer
from simvirt.x86.paging import PAGING_4_LEVEL, PAGING_32_BIT, PAGING_PAE, PagingFormat
from tests.support import page_walk

WALKS: dict[PagingFormat, Callable[..., page_walk.Walk]] = {
    PAGING_32_BIT: page_walk.walk_32,
    PAGING_PAE: page_walk.walk_pae,
    PAGING_4_LEVEL: page_walk.walk_4_level,
}


class _Entries:
    """Memory that is full of likely entries, the same at each look."""

    def __init__(self, rng: random.Random, form: PagingFormat) -> None:
        self._rng = rng
        self._form = form
        self._known: dict[int, int] = {}

    def read(self, at: int, size: int) -> int:
        assert size == self._form.entry_size
        return self._known.setdefault(at, self._entry())

    def _entry(self) -> int:
        rng = self._rng
        if not self._known and self._form is PAGING_PAE:  # a PDPTE has hardly any bits, and none that is reserved
            return rng.getrandbits(20) << 12 | (rng.random() < 0.95)
        bits = sum(bit for bit in (1, 2, 4) if rng.random() < 0.9) | rng.choice((0, 0x20, 0x60, 0x1E0, 0x80, 0x80))
        entry = rng.getrandbits(20) << 12 | bits
        if bits & 0x80 and rng.random() < 0.8:
            entry &= ~0x3FFFF000 | rng.choice((0, 0x2000, 0x1E000))
        if self._form.entry_size == 8:
            entry |= rng.choice((0, 0, 0, 1 << 63, 1 << 51, 1 << 40, 1 << 36, 1 << 35))
        return entry


def _controls(rng: random.Random, form: PagingFormat, physical_bits: int) -> PagingControls:
    def flag(bit: int) -> int:
        return bit if rng.random() < 0.5 else 0

    cr0 = int(Cr0.PG | Cr0.PE) | flag(int(Cr0.WP))
    cr4 = (
        flag(int(Cr4.PSE)) | flag(int(Cr4.SMEP)) | flag(int(Cr4.SMAP)) | (0 if form is PAGING_32_BIT else int(Cr4.PAE))
    )
    efer = flag(int(Efer.NXE)) | (int(Efer.LME | Efer.LMA) if form is PAGING_4_LEVEL else 0)
    return PagingControls.of(cr0, cr4, efer, physical_bits, gigabyte_pages=rng.random() < 0.5)


@pytest.mark.parametrize("form", WALKS, ids=lambda form: form.title)
def test_it_is_the_manual_s(form: PagingFormat) -> None:
    rng = random.Random(form.title)
    granted = 0
    for _ in range(5000):
        bits = rng.choice((32, 36, 39, 40))
        controls = _controls(rng, form, bits)
        assert controls.form is form
        entries = _Entries(rng, form)
        linear, cr3 = rng.getrandbits(32 if form.linear_bits == 32 else 47), rng.getrandbits(31)
        access, user, ac = rng.choice(list(Access)), rng.random() < 0.5, rng.random() < 0.5
        walker = GuestWalker(controls, entries.read)
        found = walker.walk(controls.root(cr3), linear, access, user=user, smap_suspended=ac)
        expected = WALKS[form](
            entries.read,
            cr3,
            linear,
            page_walk.Access(
                write=access is Access.WRITE, fetch=access is Access.FETCH, user=user, wp=controls.write_protect,
                nxe=controls.execute_disable, smep=controls.smep, smap=controls.smap, ac=ac,
                pse=controls.page_size_extensions, pae=form is not PAGING_32_BIT,
                gigabyte_pages=controls.gigabyte_pages,
            ),
            bits,
        )  # fmt: skip
        if expected.gpa is None:
            assert found.error_code == expected.error
        else:
            assert (found.error_code, found.gpa) == (None, expected.gpa)
            assert found.entries[-1][0] == expected.leaf
            granted += 1
    assert granted > 100


def test_without_paging_there_is_nothing_to_walk() -> None:
    controls = PagingControls.of(1, 0, 0, 36, gigabyte_pages=False)
    found = GuestWalker(controls, lambda _at, _size: 0).walk(0, 0x1_2345_6789, Access.WRITE, user=True)
    assert (found.gpa, found.error_code, found.entries) == (0x2345_6789, None, [])
