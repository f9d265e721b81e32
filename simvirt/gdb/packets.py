"""Packets: how the remote protocol frames what it says.

A packet is ``$data#checksum``; binary data escapes the framing's own characters. Beside packets there are single bytes:
acknowledgements, and 03H, by which gdb asks for a stop while the guest runs.

>>> encode(b"OK")
b'$OK#9a'
>>> Decoder().feed(b"+$g#67")
[<Signal.ACK: 43>, Packet(data=b'g')]
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

_BEGIN, _END, _ESCAPE, _REPEAT = b"$#}*"
_ESCAPED: Final = frozenset({_BEGIN, _END, _ESCAPE, _REPEAT})
_FLIP: Final = 0x20
LARGEST_PACKET: Final = 0x4000
"""Bytes of data of the largest packet that is understood; gdb is told."""


class Signal(Enum):
    """A byte outside of packets, or a packet that has not arrived whole."""

    ACK = ord("+")
    NAK = ord("-")
    INTERRUPT = 3
    DAMAGED = 0
    """A packet whose checksum is not its own, or that is too long."""


@dataclass(frozen=True, slots=True)
class Packet:
    """What stands between ``$`` and ``#``, unescaped."""

    data: bytes


Item = Packet | Signal


def checksum(data: bytes) -> int:
    """The sum of the bytes, modulo 256."""
    return sum(data) & 0xFF


def escape(data: bytes) -> bytes:
    r"""Binary data as it may stand in a packet.

    >>> escape(b"a#b}")
    b'a}\x03b}]'
    """
    return b"".join(bytes((_ESCAPE, byte ^ _FLIP)) if byte in _ESCAPED else bytes((byte,)) for byte in data)


def unescape(data: bytes) -> bytes:
    """What `escape` was given."""
    result = bytearray()
    rest = iter(data)
    for byte in rest:
        result.append(next(rest, 0) ^ _FLIP if byte == _ESCAPE else byte)
    return bytes(result)


def encode(data: bytes) -> bytes:
    """A packet with this data, which is escaped already where it needs to be."""
    return b"$" + data + b"#%02x" % checksum(data)


class Decoder:
    """Takes bytes as they come and gives packets and signals."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> list[Item]:
        """What is complete by now; noise between packets is dropped."""
        self._waiting += data
        items: list[Item] = []
        while self._waiting:
            first = self._waiting[0]
            if first != _BEGIN:
                del self._waiting[0]
                if first in (Signal.ACK.value, Signal.NAK.value, Signal.INTERRUPT.value):
                    items.append(Signal(first))
                continue
            end = self._waiting.find(b"#")
            if end < 0:
                if len(self._waiting) > LARGEST_PACKET:
                    self._waiting.clear()
                    items.append(Signal.DAMAGED)
                break
            if len(self._waiting) < end + 3:
                break
            items.append(self._packet(bytes(self._waiting[1:end]), bytes(self._waiting[end + 1 : end + 3])))
            del self._waiting[: end + 3]
        return items

    @staticmethod
    def _packet(data: bytes, digits: bytes) -> Item:
        try:
            right = int(digits, 16) == checksum(data)
        except ValueError:
            right = False
        return Packet(data) if right and len(data) <= LARGEST_PACKET else Signal.DAMAGED
