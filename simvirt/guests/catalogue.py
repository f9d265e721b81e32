"""The guests that ship with simvirt: what each is for, what it is built from, and what it must print.

The table is ``catalogue.toml``; the expected consoles lie in ``expected/`` and were recorded from QEMU, an
implementation of the PC that shares nothing with this one.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import Enum
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from simvirt.errors import ImageError, UnknownNameError
from simvirt.guests.recognise import recognise

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage

FOLDER: Final = Path(__file__).parent
TABLE: Final = FOLDER / "catalogue.toml"
SOURCES: Final = FOLDER / "sources"
IMAGES: Final = FOLDER / "images"
EXPECTED: Final = FOLDER / "expected"


class Ending(Enum):
    """How a guest's run ends on the bare PC."""

    FINISHED = "finished"
    """By the debug-exit port."""
    TRIPLE_FAULT = "triple-fault"
    LIMIT = "limit"
    """Never: whoever runs it has to stop it."""
    WAITING_FOR_INPUT = "waiting-for-input"
    """Asleep until there is console input, which a run without any does not bring."""


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One guest of the catalogue."""

    name: str
    summary: str
    shows: str
    tags: tuple[str, ...]
    sha256: str
    ending: Ending
    guest_status: int | None
    source: str
    """The folder in ``sources``: the guest's name, but where several guests are flavours of one source."""
    macros: tuple[str, ...]
    """What the preprocessor has defined, to tell the flavours apart."""

    @property
    def source_folder(self) -> Path:
        """Where the files are that are the guest's own; the runtime that all share lies in ``sources/lib``."""
        return SOURCES / self.source

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files in the source's folder."""
        return tuple(sorted(path for path in self.source_folder.iterdir() if path.is_file()))

    @property
    def image_path(self) -> Path:
        """The committed image."""
        return IMAGES / f"{self.name}.elf"

    @property
    def console(self) -> str:
        """What the guest prints on the bare PC, to the last character."""
        return (EXPECTED / f"{self.name}.txt").read_bytes().decode("ascii")

    def image(self) -> GuestImage:
        """The image, checked against its recorded digest.

        :raises ImageError: the file is not the one that the catalogue describes.
        """
        image = recognise(self.image_path, self.name)
        if image.sha256 != self.sha256:
            raise ImageError(
                str(self.image_path),
                "not the image that the catalogue describes (its SHA-256 differs)",
                "install simvirt again",
            )
        return image


@cache
def guests() -> tuple[CatalogueEntry, ...]:
    """All guests, in the order in which a newcomer should meet them."""
    table = _table()
    return tuple(_entry(row) for row in table["guest"])


def find(name: str) -> CatalogueEntry:
    """The guest of this name.

    :raises UnknownNameError: there is none; the message names the nearest.
    """
    for entry in guests():
        if entry.name == name:
            return entry
    raise UnknownNameError("guest", name, [entry.name for entry in guests()])


def ziglang_version() -> str:
    """The version of the ziglang package that built the committed images; another one may build other bytes."""
    return str(_table()["ziglang"])


def digest(path: Path) -> str:
    """The SHA-256 of a file, as the catalogue records it."""
    return sha256(path.read_bytes()).hexdigest()


def _table() -> dict[str, Any]:
    with TABLE.open("rb") as file:
        return tomllib.load(file)


def _entry(row: dict[str, Any]) -> CatalogueEntry:
    return CatalogueEntry(
        name=row["name"],
        summary=row["summary"],
        shows=row["shows"],
        tags=tuple(row["tags"]),
        sha256=row["sha256"],
        ending=Ending(row["ending"]),
        guest_status=row.get("guest_status"),
        source=row.get("source", row["name"]),
        macros=tuple(row.get("macros", ())),
    )
