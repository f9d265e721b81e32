from __future__ import annotations

import io

import pytest

from simvirt.cli.table import Style, coloured, paint, table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_columns_line_up_and_the_last_is_wrapped() -> None:
    text = table(("name", "what"), [("a", "word " * 40), ("long-name", "x")])
    lines = text.splitlines()
    assert lines[0] == "name       what"
    assert lines[1].startswith("a          word word")
    assert lines[2].startswith("           word")
    assert max(map(len, lines)) <= 120
    assert lines[-1] == "long-name  x"


def test_numbers_are_flush_right() -> None:
    assert table(("n", "x"), [("1", "a"), ("100", "b")], right=frozenset({0})).splitlines() == [
        "  n  x",
        "  1  a",
        "100  b",
    ]


def test_colour_only_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not coloured(io.StringIO())
    assert coloured(Terminal())
    assert paint("x", Style.BAD, Terminal()) == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", Style.BAD, Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not coloured(Terminal())
