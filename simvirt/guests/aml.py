"""ACPI Machine Language, as much of it as describes devices: names, packages, resources.

Source: ACPI Specification 6.5, Chapter 20 "ACPI Machine Language (AML) Specification", and §6.4 for resources. Each
function gives the encoding of one term.
"""

from __future__ import annotations

import struct
from typing import Final

_NAME, _BYTE, _WORD, _DWORD, _STRING = b"\x08", b"\x0a", b"\x0b", b"\x0c", b"\x0d"
_SCOPE, _BUFFER, _PACKAGE, _DEVICE = b"\x10", b"\x11", b"\x12", b"\x5b\x82"
_END_TAG: Final = b"\x79\x00"
_ONE_BYTE_LENGTH: Final = 63


def name(segment: str, value: bytes) -> bytes:
    r"""`Name(segment, value)`.

    >>> name("_UID", integer(0))
    b'\x08_UID\x00'
    """
    return _NAME + _name_string(segment) + value


def integer(value: int) -> bytes:
    """A constant, in the shortest form."""
    if value in (0, 1):
        return bytes([value])
    if value < 1 << 8:
        return _BYTE + struct.pack("<B", value)
    return _WORD + struct.pack("<H", value) if value < 1 << 16 else _DWORD + struct.pack("<I", value)


def string(text: str) -> bytes:
    """A string."""
    return _STRING + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """`EisaId("PNP0A03")`: the compressed form of a Plug and Play identifier.

    >>> eisa_id("PNP0A03").hex()
    '0c41d00a03'
    """
    letters = [ord(letter) - 0x40 for letter in text[:3]]
    packed = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return _DWORD + struct.pack(">I", packed)


def package(*elements: bytes) -> bytes:
    """A package of constant length."""
    return _PACKAGE + _with_length(bytes([len(elements)]) + b"".join(elements))


def scope(path: str, *terms: bytes) -> bytes:
    """`Scope(path) { terms }`."""
    return _SCOPE + _with_length(_name_string(path) + b"".join(terms))


def device(segment: str, *terms: bytes) -> bytes:
    """`Device(segment) { terms }`."""
    return _DEVICE + _with_length(_name_string(segment) + b"".join(terms))


def resources(*descriptors: bytes) -> bytes:
    """`ResourceTemplate() { descriptors }`."""
    content = b"".join(descriptors) + _END_TAG
    return _BUFFER + _with_length(integer(len(content)) + content)


def io(ports: range) -> bytes:
    """I/O ports, 16 bits decoded (§6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, ports.start, ports.start, 1, len(ports))


def irq(number: int) -> bytes:
    """An interrupt line of the 8259A's, edge triggered (§6.4.2.1)."""
    return struct.pack("<BH", 0x22, 1 << number)


def interrupt(number: int, *, level: bool) -> bytes:
    """A global system interrupt, active high (§6.4.3.6)."""
    return struct.pack("<BHBBI", 0x89, 6, 0x01 | (0 if level else 0x02), 1, number)


def memory(addresses: range) -> bytes:
    """A fixed range of 32-bit memory (§6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, 1, addresses.start, len(addresses))


def bus_numbers(last: int) -> bytes:
    """Bus numbers 0 to `last` that a bridge produces (§6.4.3.5.3)."""
    return struct.pack("<BHBBB5H", 0x88, 13, 2, 0x0C, 0, 0, 0, last, 0, last + 1)


def io_window(ports: range) -> bytes:
    """I/O ports that a bridge passes on (§6.4.3.5.3)."""
    return struct.pack("<BHBBB5H", 0x88, 13, 1, 0x0C, 3, 0, ports.start, ports.stop - 1, 0, len(ports))


def memory_window(addresses: range) -> bytes:
    """32-bit memory that a bridge passes on (§6.4.3.5.2)."""
    return struct.pack("<BHBBB5I", 0x87, 23, 0, 0x0C, 1, 0, addresses.start, addresses.stop - 1, 0, len(addresses))


def _name_string(path: str) -> bytes:
    r"""A name of up to four characters, or such with a root prefix."""
    root, segment = (b"\\", path[1:]) if path.startswith("\\") else (b"", path)
    return root + segment.ljust(4, "_").encode("ascii")


def _with_length(content: bytes) -> bytes:
    """The content behind its PkgLength, which counts itself (§20.2.4)."""
    if len(content) + 1 <= _ONE_BYTE_LENGTH:
        return bytes([len(content) + 1]) + content
    for more in (1, 2, 3):
        length = len(content) + 1 + more
        if length < 1 << 4 + 8 * more:
            lead = more << 6 | length & 0xF
            return bytes([lead]) + (length >> 4).to_bytes(more, "little") + content
    raise ValueError(f"{len(content)} bytes are too many for one package")
