"""Values of components as people read them."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from simvirt.analyzer.model.state import Value

_SHORT: Final = 16


def text(value: Value | None) -> str:
    """Small numbers as such, others hexadecimal, long byte strings by their length and a checksum.

    >>> text(3), text(0x3202), text(None)
    ('3', '0x3202', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, bytes):
        return value.hex(" ") if len(value) <= _SHORT else f"{len(value)} bytes, CRC {zlib.crc32(value):08x}"
    return f"{value:#x}" if isinstance(value, int) and value > 9 else str(value)
