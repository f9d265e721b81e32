"""The access rights of a segment as a VMCS holds them, and an engine's hidden flags: two views of one descriptor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.x86.registers import Ring

if TYPE_CHECKING:
    from simvirt.x86.segments import Descriptor


@dataclass(frozen=True, slots=True)
class AccessRights:
    """Access rights of a segment in a VMCS (SDM Vol. 3C §25.4.1, Table 25-2): descriptor bits 55:40, and *unusable*.

    >>> from simvirt.x86.segments import Descriptor
    >>> hex(AccessRights.of(Descriptor.decode(0x0000FFFF, 0x00CF9B00)).encode())
    '0xc09b'
    """

    value: int

    UNUSABLE = 1 << 16

    @classmethod
    def of(cls, descriptor: Descriptor) -> AccessRights:
        """The rights that loading `descriptor` gives; limit 19:16 is not part of them."""
        return cls(descriptor.flags >> 8 & 0xF0FF)

    @classmethod
    def from_flags(cls, flags: int, *, usable: bool = True) -> AccessRights:
        """From the hidden flags of an engine (`HIDDEN_FLAGS_MASK`)."""
        return cls(flags >> 8 & 0xF0FF | (0 if usable else cls.UNUSABLE))

    @property
    def unusable(self) -> bool:
        """The segment register holds nothing that can be used: a null selector was loaded."""
        return bool(self.value & self.UNUSABLE)

    @property
    def flags(self) -> int:
        """As hidden flags of an engine, limit 19:16 left zero."""
        return (self.value & 0xF0FF) << 8

    @property
    def dpl(self) -> Ring:
        """Descriptor privilege level; that of SS is the CPL."""
        return Ring(self.value >> 5 & 3)

    def encode(self) -> int:
        """The 32-bit field."""
        return self.value
