"""Lesson 3's self-check tells a guest with the wanted exits from others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import simvirt
from tests.lessons.refresh_notebooks import LESSONS
from tests.lessons.test_lessons import blocks

Check = Callable[[Path], dict[str, bool]]
END = bytes.fromhex("31 c0 e7 f4")
"""xor eax, eax; out 0xf4, eax."""
FLUSH = bytes.fromhex("0f 01 38")
"""invlpg [eax]."""


@pytest.fixture
def check_flusher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    """The function of the lesson's last cell."""
    monkeypatch.chdir(tmp_path)  # where the cell finds no guest of anybody's
    (lesson,) = (lesson for lesson in LESSONS if lesson.parent.name == "03-a-whole-kernel")
    (block,) = (block for block in blocks(lesson, "python") if "def check_flusher(" in block)
    names: dict[str, Any] = {"simvirt": simvirt, "strategies": ("bare-metal", "trap-and-emulate", "vtx")}
    exec(compile(block, str(lesson), "exec"), names)
    function: Check = names["check_flusher"]
    return function


@pytest.mark.parametrize(
    ("code", "reached"),
    [
        (FLUSH * 5 + END, [True, True, True]),
        (FLUSH + b"\xfa\xfa" + END, [True, False, True]),  # CLI, CLI: more often than INVLPG
        (END, [True, False, True]),
        (FLUSH * 5 + b"\xeb\xfe", [False, True, True]),  # it never ends
        (FLUSH * 5 + b"\xf4", [False, True, True]),  # HLT for ever
    ],
)
def test_what_is_reached(check_flusher: Check, tmp_path: Path, code: bytes, reached: list[bool]) -> None:
    guest = tmp_path / "flusher.bin"
    guest.write_bytes(code)
    assert list(check_flusher(guest).values()) == reached
