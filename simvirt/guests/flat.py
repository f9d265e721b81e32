"""Flat binaries: bytes that are loaded as they are, and entered at the first of them."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from simvirt.errors import ImageError
from simvirt.guests.image import BootProtocol, GuestImage, ImageKind, Segment
from simvirt.guests.symbols import SymbolTable
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from pathlib import Path

LOAD_ADDRESS: Final = Gpa(0x100000)
"""1 MiB: the first address above the PC's adapter and firmware area."""


def flat_image(data: bytes, name: str, path: Path | None = None) -> GuestImage:
    """Any bytes at all as a guest: loaded at 1 MiB and entered there in 32-bit protected mode.

    :raises ImageError: there are no bytes.
    """
    if not data:
        raise ImageError(name, "the file is empty", "a guest image has at least one instruction")
    segment = Segment(LOAD_ADDRESS, data, len(data))
    return GuestImage(
        name=name,
        path=path,
        kind=ImageKind.FLAT,
        sha256=sha256(data).hexdigest(),
        segments=(segment,),
        entry=LOAD_ADDRESS,
        boot=BootProtocol.PROTECTED_FLAT,
        symbols=SymbolTable.of(()),
        lines=None,
    )
