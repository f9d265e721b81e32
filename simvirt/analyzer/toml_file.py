"""TOML files that people write by hand: read into typed values, with complaints that lead to the line."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

import msgspec

from simvirt.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]\]?")
_KEY: Final = re.compile(r"\s*([\w\-]+)\s*=")
_PLACE: Final = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_STEP: Final = re.compile(r"([\w\-]+)|\[(\d+)\]|\[\.\.\.\]")
_FIELD: Final = re.compile(r"field `([^`]+)`")

_Place: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a file."""

    line: int
    text: str


class TomlFileError(UsageError):
    """A file that is not what it should be; every problem with its line."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.path = path
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(f"{path}:{problem.line}: {problem.text}" for problem in self.problems))


_S = TypeVar("_S", bound=msgspec.Struct)


@dataclass
class TomlFile(Generic[_S]):
    """A file, what it says, and what is wrong with it.

    :ivar content: the file as typed values.
    """

    path: Path
    content: _S
    _lines: dict[_Place, int]
    problems: list[Problem] = field(default_factory=list)

    def line(self, *place: str | int) -> int:
        """The line of a table or key: ``line("instruction", 2, "encoding")``; the nearest that is in the file."""
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def complain(self, text: str, *place: str | int) -> None:
        """Note a problem; `check` raises."""
        self.problems.append(Problem(self.line(*place), text))

    def check(self) -> None:
        """Go on only if nothing is wrong.

        :raises TomlFileError: something is.
        """
        if self.problems:
            raise TomlFileError(self.path, self.problems)


def read(path: Path, schema: type[_S]) -> TomlFile[_S]:
    """A TOML file as a value of `schema`.

    :raises TomlFileError: it cannot be read, is no TOML, or has a field that is unknown, missing or of the wrong kind.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TomlFileError(
            path, [Problem(1, f"cannot be read: {getattr(error, 'strerror', None) or error}")]
        ) from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"line (\d+)", str(error))
        line = int(at.group(1)) if at else max(1, len(text.splitlines()))
        raise TomlFileError(path, [Problem(line, f"not TOML: {error}")]) from None
    lines = _locate(text)
    try:
        content = msgspec.convert(data, schema)
    except msgspec.ValidationError as error:
        raise TomlFileError(path, [_translate(str(error), lines)]) from None
    return TomlFile(path, content, lines)


def _locate(text: str) -> dict[_Place, int]:
    """The lines of tables and keys. Keys within inline tables have the line of what they are in."""
    lines: dict[_Place, int] = {}
    counts: dict[str, int] = {}
    table: _Place = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            brackets, name = header.groups()
            table = tuple(name.split("."))
            if brackets == "[[":
                counts[name] = counts.get(name, -1) + 1
                table = (*table, counts[name])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, key.group(1)), number)
    return lines


def _translate(message: str, lines: dict[_Place, int]) -> Problem:
    """Msgspec's complaint, with the line that it is about."""
    place: list[str | int] = []
    if at := _PLACE.search(message):
        message = message[: at.start()]
        for name, index in _STEP.findall(at.group("path")):
            if name or index:
                place.append(name or int(index))
    if (named := _FIELD.search(message)) and (*place, named.group(1)) in lines:
        place.append(named.group(1))
    where = ".".join(str(step) for step in place if isinstance(step, str))
    while place and tuple(place) not in lines:
        place.pop()
    text = message.replace("Object contains unknown", "unknown").replace("Object missing required", "missing")
    return Problem(lines.get(tuple(place), 1), f"{where}: {text}" if where else text)
