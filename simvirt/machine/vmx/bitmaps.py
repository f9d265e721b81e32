"""I/O bitmaps and MSR bitmaps: 4-KByte pages in which each bit says whether one port, or one access to one MSR, exits.

They lie in host-physical memory at the addresses that the VMCS names (SDM Vol. 3C §25.6.4, §25.6.9), where the
processor reads them at each access.
"""

from __future__ import annotations

from typing import Final

from simvirt.x86.msrs import BITMAP_HIGH, BITMAP_LOW

_PORTS: Final = 0x10000
_READ_LOW, _READ_HIGH, _WRITE_LOW, _WRITE_HIGH = 0x000, 0x400, 0x800, 0xC00


def port_exits(memory: memoryview, bitmap_a: int, bitmap_b: int, port: int, size: int) -> bool:
    """Does an access to `size` ports from `port` exit? It does when any bit is 1, and when it wraps around port FFFFH.

    Bitmap A has ports 0000H to 7FFFH, bitmap B the others.
    """
    if port + size > _PORTS:
        return True
    for p in range(port, port + size):
        at = (bitmap_a if p < 0x8000 else bitmap_b) + ((p & 0x7FFF) >> 3)
        if _byte(memory, at) >> (p & 7) & 1:
            return True
    return False


def msr_exits(memory: memoryview, bitmaps: int, number: int, *, is_write: bool) -> bool:
    """Does RDMSR or WRMSR of `number` exit? An MSR outside both ranges always does (SDM Vol. 3C §26.1.3)."""
    at = msr_bit(number, is_write=is_write)
    return True if at is None else bool(_byte(memory, bitmaps + at[0]) >> at[1] & 1)


def _byte(memory: memoryview, at: int) -> int:
    """Where there is no memory, ones are read."""
    return memory[at] if at < len(memory) else 0xFF


def msr_bit(number: int, *, is_write: bool) -> tuple[int, int] | None:
    """Byte and bit of an access in the page of MSR bitmaps, or None when they do not cover it.

    >>> msr_bit(0x174, is_write=True), msr_bit(0xC0000080, is_write=False), msr_bit(0x4000_0000, is_write=False)
    ((2094, 4), (1040, 0), None)
    """
    if number in BITMAP_LOW:
        return (_WRITE_LOW if is_write else _READ_LOW) + (number >> 3), number & 7
    if number in BITMAP_HIGH:
        return (_WRITE_HIGH if is_write else _READ_HIGH) + ((number & 0x1FFF) >> 3), number & 7
    return None
