"""What a person types for a guest: a name of the catalogue, or a path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from simvirt.errors import UnknownNameError
from simvirt.guests import catalogue
from simvirt.guests.recognise import recognise

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage


def resolve(name_or_path: str | Path) -> GuestImage:
    """The image that a catalogue name or a path stands for.

    A catalogue name comes first; ``./hello`` is always the file. A word that is neither a name nor a file, and looks
    like no path, is taken for a misspelt name.

    >>> resolve("hello").name
    'hello'

    :raises UnknownNameError: no such guest.
    :raises ImageError: the path is no usable image.
    """
    if isinstance(name_or_path, str):
        try:
            return catalogue.find(name_or_path).image()
        except UnknownNameError:
            looks_like_path = any(separator in name_or_path for separator in (os.sep, "/", ".", "\0"))
            if not looks_like_path and not Path(name_or_path).exists():
                raise
    return recognise(Path(name_or_path))
