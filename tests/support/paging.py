"""32-bit page tables for tests that care about what paging does rather than about its formats."""

from __future__ import annotations

from typing import Final

from tests.support.pc import PAGE_TABLES, Pc, flat_pc

DIRECTORY: Final = PAGE_TABLES
FIRST_TABLE: Final = PAGE_TABLES + 0x1000
"""Page tables of the first 8 MiB, at consecutive pages."""
PRESENT, WRITABLE, USER, ACCESSED, DIRTY = 1, 2, 4, 0x20, 0x40
WP: Final = 1 << 16


def paged_pc(
    *, cr0: int = WP, cr4: int = 0, efer: int = 0, flags: int = PRESENT | WRITABLE | USER, **options: object
) -> Pc:
    """`flat_pc` with 32-bit paging: the first 8 MiB mapped to themselves by user pages."""
    pc = flat_pc(**options)
    for i in range(2):
        pc.write32(DIRECTORY + 4 * i, FIRST_TABLE + 0x1000 * i | PRESENT | WRITABLE | USER)
    for page in range(2048):
        pc.write32(FIRST_TABLE + 4 * page, page << 12 | flags)
    pc.set_paging(DIRECTORY, cr0=cr0, cr4=cr4, efer=efer)
    return pc


def entry_address(linear: int) -> int:
    """Where the PTE of a linear address below 8 MiB lies."""
    return FIRST_TABLE + 4 * (linear >> 12)


def set_page(pc: Pc, linear: int, entry: int) -> None:
    """Give one page of the first 8 MiB another entry, as an operating system does: with an INVLPG."""
    pc.write32(entry_address(linear), entry)
    pc.engine.flush_tlb()


def protect(pc: Pc, linear: int, *, clear: int = 0, set_: int = 0) -> None:
    """Change flags of one page's entry."""
    set_page(pc, linear, pc.read(entry_address(linear), 4) & ~clear | set_)
