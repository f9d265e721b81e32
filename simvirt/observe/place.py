"""A place in a guest: one instruction, and what the guest's author calls it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.x86.decode import decode, disassemble

if TYPE_CHECKING:
    from simvirt.x86.addresses import Gva
    from simvirt.x86.instruction import Bits, Instruction


@dataclass(frozen=True, slots=True)
class Place:
    """An instruction in a guest.

    Attributes:
        address: its linear address.
        code: its bytes; empty where they cannot be fetched.
        symbol: the place by the guest's own names, as ``main+0x10``.
        source: the place as ``file:line``.
    """

    address: Gva
    ip: int
    code: bytes
    bits: Bits
    symbol: str | None = None
    source: str | None = None

    @property
    def instruction(self) -> Instruction:
        """Decoded."""
        return decode(self.code, self.ip, self.bits)

    @property
    def text(self) -> str:
        """Disassembled, for people."""
        return disassemble(self.code, self.ip, self.bits) if self.code else "(no code can be fetched here)"

    @property
    def name(self) -> str:
        """Address, symbol and source line."""
        return " ".join(
            [
                f"{self.address:#010x}",
                *([f"<{self.symbol}>"] if self.symbol else []),
                *([f"({self.source})"] if self.source else []),
            ]
        )
