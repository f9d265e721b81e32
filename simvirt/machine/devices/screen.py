"""What a text screen shows, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_GRAPHIC: Final = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
_DELETE: Final = "⌂"
_FONT: Final = _GRAPHIC + bytes(range(0x20, 0x7F)).decode("ascii") + _DELETE + bytes(range(0x80, 0x100)).decode("cp437")
"""The character generator's glyphs, code page 437, those of the control characters too."""


@dataclass(frozen=True, slots=True)
class Screen:
    r"""Rows of characters with their attributes.

    >>> print(Screen(4, b"Hi  \x01   ", bytes(8), None).text)
    Hi
    ☺
    """

    columns: int
    characters: bytes
    """Codes of the adapter's font, row after row."""
    attributes: bytes
    """Colours: foreground in the lower half, background in the upper."""
    cursor: tuple[int, int] | None
    """Row and column, counted from zero; None if it is off or out of sight."""

    @property
    def lines(self) -> tuple[str, ...]:
        """All rows as text, without the blanks at their ends."""
        text = "".join(map(_FONT.__getitem__, self.characters))
        return tuple(text[at : at + self.columns].rstrip() for at in range(0, len(text), self.columns))

    @property
    def text(self) -> str:
        """The rows down to the last that is not blank, as text."""
        return "\n".join(self.lines).rstrip()

    def __str__(self) -> str:
        return self.text
