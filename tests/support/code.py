"""Hand-assembled code for tests: bytes with a comment on each line, which a decoder checks against the bytes.

::

    code('''
        b8 05 00 00 00      ; mov eax, 5
        f4                  ; hlt
    ''')

The first word of each comment must be the mnemonic that the decoder finds, and the bytes must be exactly that one
instruction, so a wrong byte or a wrong comment fails at once. A comment that begins with `data` or `raw` is unchecked.
"""

from __future__ import annotations

from simvirt.x86.decode import decode


def code(text: str, bits: int = 32) -> bytes:
    """The bytes of a listing, checked line by line."""
    result = bytearray()
    for line in text.splitlines():
        digits, _, comment = line.partition(";")
        data = bytes.fromhex(digits)
        if not data:
            continue
        word = comment.split()[0] if comment.split() else ""
        assert word, f"{line.strip()!r} has no comment that says what it is"
        if word not in ("data", "raw"):
            words = comment.split()
            if word in ("rep", "repne", "lock"):
                word = words[1]
            found = decode(data + b"\x90" * 8, 0, bits)
            assert found.length == len(data), f"{line.strip()!r} has {len(data)} bytes, the instruction {found.length}"
            assert found.mnemonic == word, f"{line.strip()!r} is {found.mnemonic}"
        result += data
    return bytes(result)


def le(value: int, size: int = 4) -> str:
    """`value` as the hex digits of its little-endian bytes, for use inside a listing."""
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little").hex()
