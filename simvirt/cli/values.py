"""Numbers as people type them: instruction counts and addresses.

Each function is a `type` of argparse: it raises `ArgumentTypeError` with a message that says what would be understood.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentTypeError
from decimal import Decimal
from pathlib import Path
from typing import Final

_DECIMAL: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_COUNT: Final = re.compile(r"(\d+(?:_\d+)*(?:\.\d+)?(?:e\d{1,2})?)([kmgt]?)", re.IGNORECASE | re.ASCII)
_LARGEST_COUNT: Final = 1 << 60


def instruction_count(text: str) -> int:
    """A number of instructions: plain, with underscores, with an exponent, or with k, M, G, T for powers of 1000.

    >>> [instruction_count(text) for text in ("10_000", "1e6", "2M", "1.5k")]
    [10000, 1000000, 2000000, 1500]

    Raises:
        ArgumentTypeError: it is none, or not a whole number.
    """
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise ArgumentTypeError(f"'{text}' is not a number of instructions; write for example 10_000, 1e6 or 2M")
    value = Decimal(match[1].replace("_", "")) * _DECIMAL[match[2].lower()]
    if value != int(value):
        raise ArgumentTypeError(f"'{text}' is not a whole number of instructions")
    if value > _LARGEST_COUNT:
        raise ArgumentTypeError(f"'{text}' is more than any run could reach; the most is 2^60")
    return int(value)


_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
_ESCAPED: Final = {"n": b"\n", "r": b"\r", "t": b"\t", "e": b"\x1b", "0": b"\0", "\\": b"\\"}


def escaped_bytes(text: str) -> bytes:
    r"""Console input: UTF-8, with \n, \r, \t, \e, \0, \\ and \xNN.

    >>> escaped_bytes(r"ls -l\n\x03")
    b'ls -l\n\x03'

    Raises:
        ArgumentTypeError: another escape.
    """
    found, at = bytearray(), 0
    for match in _ESCAPE.finditer(text):
        found += text[at : match.start()].encode("utf-8", "surrogateescape")
        name = match[1]
        if len(name) == 3:
            found.append(int(name[1:], 16))
        elif name in _ESCAPED:
            found += _ESCAPED[name]
        else:
            raise ArgumentTypeError(f"'\\{name}' means nothing; there are \\n, \\r, \\t, \\e, \\0, \\xNN and \\\\")
        at = match.end()
    return bytes(found + text[at:].encode("utf-8", "surrogateescape"))


def file_content(name: str) -> bytes:
    """The bytes of a file, or of standard input for a hyphen.

    Raises:
        ArgumentTypeError: it cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ArgumentTypeError(f"'{name}' cannot be read: {error.strerror}") from None


def positive_count(text: str) -> int:
    """As `instruction_count`, and not zero.

    Raises:
        ArgumentTypeError: it is zero, or no number.
    """
    value = instruction_count(text)
    if value == 0:
        raise ArgumentTypeError("it must be at least 1")
    return value


def address(text: str) -> int:
    """An address: hexadecimal, with or without 0x.

    >>> hex(address("100000")), hex(address("0xB8000"))
    ('0x100000', '0xb8000')

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = int(text, 16)
    except ValueError:
        raise ArgumentTypeError(f"'{text}' is not an address; write it in hexadecimal, for example 0x100000") from None
    if not 0 <= value < 1 << 64:
        raise ArgumentTypeError(f"'{text}' is not an address of 64 bits")
    return value


def whole_number(text: str) -> int:
    """A whole number, decimal or with 0x.

    >>> whole_number("7"), whole_number("0x10")
    (7, 16)

    Raises:
        ArgumentTypeError: it is none, or negative.
    """
    try:
        value = int(text, 0)
    except ValueError:
        raise ArgumentTypeError(f"'{text}' is not a whole number") from None
    if value < 0:
        raise ArgumentTypeError(f"'{text}' is negative; give 0 or more")
    return value
