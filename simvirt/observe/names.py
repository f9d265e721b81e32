"""What people call things in a run: places by symbols, exits by their reasons, interrupts and exceptions by vectors."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnknownNameError, UsageError
from simvirt.x86.addresses import Gva
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage
    from simvirt.strategies.strategy import Strategy

_VECTORS: Final = 256
_PLACE: Final = re.compile(r"([A-Za-z_.$][\w.$]*)(?:\+(0x[0-9a-fA-F]+|\d+))?")
_ADDRESS: Final = re.compile(r"(?:0x)?([0-9a-fA-F]{1,16})")
_NEAREST: Final = 3


def address_named(image: GuestImage, word: str) -> Gva:
    """A linear address, from a symbol of the image, a symbol and a distance, or hexadecimal digits.

    Raises:
        UsageError: it is none of these; the message names the nearest symbols.
    """
    match = _PLACE.fullmatch(word)
    if match is not None and (address := image.symbols.address(match[1])) is not None:
        return Gva(address + (int(match[2], 0) if match[2] else 0))
    digits = _ADDRESS.fullmatch(word)
    if digits is not None:
        return Gva(int(digits[1], 16))
    names = [symbol.name for symbol in image.symbols]
    nearest = get_close_matches(match[1] if match is not None else word, names, n=_NEAREST, cutoff=0.5)
    if nearest:
        advice = f"did you mean {' or '.join(nearest)}?"
    elif names:
        advice = f"no symbol of {image.name} is like it; addresses are hexadecimal"
    else:
        advice = f"{image.name} has no symbols; give an address in hexadecimal, for example 0x100000"
    raise UsageError(f"'{word}' is not an address or symbol: {advice}")


def event_named(strategy: Strategy, word: str) -> int | str:
    """A vector, from a number or the manual's name for it, or an exit reason of this strategy, by its name.

    Raises:
        UnknownNameError: it is neither; the message names the nearest.
    """
    name = word.upper().replace("-", "_")
    try:
        number = int(word, 0)
    except ValueError:
        number = -1
    if 0 <= number < _VECTORS:
        return number
    if name.startswith("#") and name[1:] in Vector.__members__:
        return int(Vector[name[1:]])
    reasons = [reason.name for reason in strategy.info.exit_reasons or ()]
    if name in reasons:
        return name
    if name in Vector.__members__:
        return int(Vector[name])
    known = [*reasons, *(f"#{vector.name}" for vector in Vector)]
    raise UnknownNameError("exit reason or vector", word, known, [name.lower() for name in known])
