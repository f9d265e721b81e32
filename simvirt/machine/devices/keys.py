"""The keys of a 104-key keyboard: their scan codes, and which of them type a text on the US layout.

The codes are those of IBM's "Keyboard (101- and 102-Key)" in the Personal System/2 Hardware Interface Technical
Reference, tables "Scan Code Set 1" to "3"; those of the Windows keys are in Microsoft's "Keyboard Scan Code
Specification". Set 1 is what the keyboard controller makes of set 2 by `TRANSLATION`, so it is not listed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from simvirt.errors import UsageError

TRANSLATION: Final = bytes.fromhex(
    "ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59"
    "65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b"
    "67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d"
    "69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f"
    "6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61"
    "6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76"
    "55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f"
    "52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54"
    "80 81 82 41 54"
) + bytes(range(0x85, 0x100))  # fmt: skip
"""What the 8042 makes of a byte of set 2 (8042 firmware's table; the break prefix F0 becomes bit 7)."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its make code in set 2, with the prefix E0 where it has one, and in set 3."""

    name: str
    set2: int
    set3: int
    extended: bool = False

    @property
    def set1(self) -> int:
        """Its make code in set 1, without the prefix."""
        return TRANSLATION[self.set2]


def _rows(*rows: str, extended: bool = False) -> list[Key]:
    keys = []
    for row in rows:
        for entry in row.split():
            name, set2, set3 = entry.rsplit(":", 2)
            keys.append(Key(name, int(set2, 16), int(set3, 16), extended))
    return keys


KEYS: Final[dict[str, Key]] = {
    key.name: key
    for key in (
        *_rows(
            "Esc:76:08 F1:05:07 F2:06:0f F3:04:17 F4:0c:1f F5:03:27 F6:0b:2f F7:83:37 F8:0a:3f F9:01:47 F10:09:4f",
            "F11:78:56 F12:07:5e ScrollLock:7e:5f",
            "`:0e:0e 1:16:16 2:1e:1e 3:26:26 4:25:25 5:2e:2e 6:36:36 7:3d:3d 8:3e:3e 9:46:46 0:45:45 -:4e:4e =:55:55",
            "Backspace:66:66 Tab:0d:0d q:15:15 w:1d:1d e:24:24 r:2d:2d t:2c:2c y:35:35 u:3c:3c i:43:43 o:44:44 p:4d:4d",
            "[:54:54 ]:5b:5b \\:5d:5c CapsLock:58:14 a:1c:1c s:1b:1b d:23:23 f:2b:2b g:34:34 h:33:33 j:3b:3b k:42:42",
            "l:4b:4b ;:4c:4c ':52:52 Enter:5a:5a Shift:12:12 z:1a:1a x:22:22 c:21:21 v:2a:2a b:32:32 n:31:31 m:3a:3a",
            ",:41:41 .:49:49 /:4a:4a RightShift:59:59 Ctrl:14:11 Alt:11:19 Space:29:29 NumLock:77:76 KeypadStar:7c:7e",
            "KeypadMinus:7b:84 KeypadPlus:79:7c Keypad0:70:70 KeypadPoint:71:71 Keypad1:69:69 Keypad2:72:72",
            "Keypad3:7a:7a Keypad4:6b:6b Keypad5:73:73 Keypad6:74:74 Keypad7:6c:6c Keypad8:75:75 Keypad9:7d:7d",
        ),
        *_rows(
            "RightAlt:11:39 RightCtrl:14:58 Insert:70:67 Home:6c:6e PageUp:7d:6f Delete:71:64 End:69:65 PageDown:7a:6d",
            "Up:75:63 Left:6b:61 Down:72:60 Right:74:6a KeypadSlash:4a:77 KeypadEnter:5a:79",
            "Windows:1f:8b RightWindows:27:8c Menu:2f:8d",
            extended=True,
        ),
    )
}  # fmt: skip
"""The keys by name; those of the main part that type a character are named by it. PrintScreen and Pause, whose codes
have a form of their own, are not here."""

_SHIFTED: Final = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))
_CONTROL: Final = {"\n": "Enter", "\r": "Enter", "\t": "Tab", "\b": "Backspace", "\x7f": "Backspace", "\x1b": "Esc"}
_NAMED: Final = re.compile(r"<([A-Za-z0-9][^<>\s]*)>")
_MODIFIERS: Final = {"ctrl": "Ctrl", "alt": "Alt", "shift": "Shift", "windows": "Windows"}
_BY_LOWER: Final = {name.lower(): name for name in KEYS} | {"del": "Delete", "escape": "Esc", "return": "Enter"}


@dataclass(frozen=True, slots=True)
class Stroke:
    """A key goes down or comes up; without a key, a pause of one second."""

    key: str
    pressed: bool


PAUSE: Final = Stroke("", False)


def strokes(text: str) -> tuple[Stroke, ...]:
    """The strokes that type a text on the US layout.

    Keys that type nothing stand in angle brackets, with modifiers in front: ``<F1>``, ``<Up>``, ``<Ctrl-C>``,
    ``<Ctrl-Alt-Delete>``; ``<Wait>`` lets a second pass. Any other ``<`` is itself.

    >>> [stroke.key + "+-"[not stroke.pressed] for stroke in strokes("Q<F1>")]
    ['Shift+', 'q+', 'q-', 'Shift-', 'F1+', 'F1-']

    Raises:
        UsageError: no key types a character, or no key has a name.
    """
    found: list[Stroke] = []
    at = 0
    while at < len(text):
        named = _NAMED.match(text, at)
        if named:
            found += _named(named[1])
            at = named.end()
        else:
            found += _chord(_for_character(text[at]))
            at += 1
    return tuple(found)


def _chord(keys: list[str]) -> list[Stroke]:
    return [Stroke(key, True) for key in keys] + [Stroke(key, False) for key in reversed(keys)]


def _for_character(character: str) -> list[str]:
    if character in _CONTROL:
        return [_CONTROL[character]]
    if character == " ":
        return ["Space"]
    if character in _SHIFTED:
        return ["Shift", _SHIFTED[character]]
    if character.isascii() and character.isupper():
        return ["Shift", character.lower()]
    if character in KEYS:
        return [character]
    if character < " ":
        return ["Ctrl", *_for_character(chr(ord(character) | 0x60))]
    raise UsageError(f"no key of a US keyboard types {character!r}: use ASCII, and names like <F1> for other keys")


def _named(name: str) -> list[Stroke]:
    if name.lower() == "wait":
        return [PAUSE]
    *modifiers, key = name.split("-")
    chord = []
    for modifier in modifiers:
        if modifier.lower() not in _MODIFIERS:
            raise UsageError(f"<{name}>: '{modifier}' is no modifier; there are {', '.join(_MODIFIERS.values())}")
        chord.append(_MODIFIERS[modifier.lower()])
    if key.lower() in _BY_LOWER:
        return _chord([*chord, _BY_LOWER[key.lower()]])
    raise UsageError(f"<{name}>: no key is called '{key}'; there are for example F1, Up, Enter, PageDown, Ctrl-C")
