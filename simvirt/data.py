"""Where simvirt's data lies: the instruction sets and the lessons.

In the source tree they are the top-level folders ``isa/`` and ``lessons/``; a wheel carries them inside the package, as
``_isa`` and ``_lessons``. What needs them asks here and works from both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from simvirt.errors import UnsupportedError

_PACKAGE: Final = Path(__file__).resolve().parent


def isa_directory() -> Path:
    """The folder of instruction sets as data.

    Raises:
        UnsupportedError: this installation carries no data.
    """
    return _find("isa")


def lessons_directory() -> Path:
    """The folder of the course's lessons.

    Raises:
        UnsupportedError: this installation carries no data.
    """
    return _find("lessons")


def _find(name: str) -> Path:
    places = (_PACKAGE / f"_{name}", _PACKAGE.parent / name)
    for place in places:
        if place.is_dir():
            return place
    raise UnsupportedError(
        f"simvirt's folder '{name}' is not there (looked for {places[0]} and {places[1]}); install simvirt again"
    )
