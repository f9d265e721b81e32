"""A very small assembler: bytes with labels, for programs that tests make up as they go.

Instructions are given as bytes, the way the opcode map of SDM Vol. 2D prints them, so that a test depends on no
encoder; only displacements and addresses of labels are filled in later.
"""

from __future__ import annotations

from dataclasses import dataclass


def d16(value: int) -> bytes:
    """A word, little-endian."""
    return (value & 0xFFFF).to_bytes(2, "little")


def d32(value: int) -> bytes:
    """A doubleword, little-endian."""
    return (value & 0xFFFFFFFF).to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class _Fixup:
    at: int
    label: str
    size: int
    relative: bool
    addend: int = 0


class Assembler:
    """Code that grows from `origin` upwards.

    >>> a = Assembler(0x1000)
    >>> a.label("top")
    >>> a.emit("40").jump("eb", "top", size=1)
    >>> a.finish().hex(" ")
    '40 eb fd'
    """

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self._code = bytearray()
        self._labels: dict[str, int] = {}
        self._fixups: list[_Fixup] = []
        self._names = 0

    @property
    def here(self) -> int:
        """The address of the next byte."""
        return self.origin + len(self._code)

    def emit(self, code: str | bytes, *more: bytes) -> Assembler:
        """Append bytes, given as hexadecimal text or as they are; returns itself."""
        self._code += bytes.fromhex(code) if isinstance(code, str) else code
        for part in more:
            self._code += part
        return self

    def label(self, name: str) -> None:
        """Name the next byte."""
        if name in self._labels:
            raise ValueError(f"label {name} is defined twice")
        self._labels[name] = self.here

    def fresh(self, stem: str = "L") -> str:
        """A name that no other label has."""
        self._names += 1
        return f"{stem}_{self._names}"

    def jump(self, opcode: str, label: str, size: int = 4) -> None:
        """An instruction that ends in a displacement of `size` bytes to `label`."""
        self.emit(opcode)
        self._fixups.append(_Fixup(len(self._code), label, size, relative=True))
        self._code += bytes(size)

    def address(self, opcode: str, label: str, after: bytes = b"", addend: int = 0) -> None:
        """An instruction with the address of `label` (and `addend`) as four bytes, then the bytes `after`."""
        self.emit(opcode)
        self._fixups.append(_Fixup(len(self._code), label, 4, relative=False, addend=addend))
        self._code += bytes(4) + after

    def pad_to(self, address: int, filler: int = 0xCC) -> None:
        """Fill up to `address`."""
        if address < self.here:
            raise ValueError(f"{self.here:#x} is behind {address:#x} already")
        self._code += bytes([filler]) * (address - self.here)

    def finish(self) -> bytes:
        """The code, with every label filled in."""
        for fixup in self._fixups:
            target = self._labels[fixup.label] + fixup.addend
            if fixup.relative:
                target -= self.origin + fixup.at + fixup.size
                if not -(1 << 8 * fixup.size - 1) <= target < 1 << 8 * fixup.size - 1:
                    raise ValueError(f"{fixup.label} is too far for a displacement of {fixup.size} bytes")
            value = (target & (1 << 8 * fixup.size) - 1).to_bytes(fixup.size, "little")
            self._code[fixup.at : fixup.at + fixup.size] = value
        return bytes(self._code)

    def __getitem__(self, label: str) -> int:
        """The address of a label."""
        return self._labels[label]
