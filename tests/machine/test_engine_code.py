"""Changes to the engine's code: made where the verified bytes are, and nowhere else."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator

import pytest

from simvirt.machine import platforms
from simvirt.machine.engine_code import change_code
from simvirt.machine.platforms import CodeSite

ORIGINAL, CHANGED = bytes.fromhex("4989f9 4989f0"), bytes.fromhex("c389f9 4989f0")
SITE = CodeSite(16, ORIGINAL, CHANGED)


@pytest.fixture
def page() -> Iterator[mmap.mmap]:
    """A page of its own, for its protection changes."""
    with mmap.mmap(-1, mmap.PAGESIZE) as mapped:
        yield mapped


def address(page: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(page))


def test_the_verified_bytes_are_changed_once(page: mmap.mmap) -> None:
    page[16:22] = ORIGINAL
    assert change_code(address(page), SITE)
    assert page[:32] == bytes(16) + CHANGED + bytes(10)
    assert change_code(address(page), SITE)
    assert page[16:22] == CHANGED


def test_other_bytes_are_left_alone(page: mmap.mmap) -> None:
    page[16:22] = b"others"
    assert not change_code(address(page), SITE)
    assert page[16:22] == b"others"
    assert not change_code(address(page), None)


@pytest.mark.parametrize("platform", platforms.VERIFIED.values(), ids=lambda platform: platform.name)
def test_a_change_keeps_the_length(platform: platforms.Platform) -> None:
    for site in (platform.bit_test_flags, platform.search_for_stores):
        assert site is not None
        assert len(site.original) == len(site.changed)
        assert site.original != site.changed
