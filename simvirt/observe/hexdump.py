"""Bytes as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_A_LINE: Final = 16


def hexdump(address: int, data: bytes) -> Iterator[str]:
    r"""Lines of an address, bytes, and characters.

    >>> list(hexdump(0x1000, b"hello\0"))
    ['00001000  68 65 6c 6c 6f 00                                hello.']
    """
    for offset in range(0, len(data), _A_LINE):
        line = data[offset : offset + _A_LINE]
        characters = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
        yield f"{address + offset:08x}  {line.hex(' '):47}  {characters}"
