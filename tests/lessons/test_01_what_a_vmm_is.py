"""Lesson 1's self-check tells a solution from the template and from what the exercise forbids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import simvirt
from simvirt.guests.build import available, build
from simvirt.guests.template import new
from tests.lessons.refresh_notebooks import LESSONS
from tests.lessons.test_lessons import blocks

pytestmark = pytest.mark.skipif(not available(), reason="no toolchain to build a guest with is installed")

READS_CS: Final = """
#include "guest.h"
u32 guest_main(void) {
    u32 cs;
    __asm__ volatile("mov %%cs, %0" : "=r"(cs));
    return cs & 3 ? 1 : 0;
}
"""
READS_FLAGS: Final = """
#include "guest.h"
u32 guest_main(void) {
    u32 flags;
    __asm__ volatile("pushfl; popl %0" : "=r"(flags));
    return flags & FLAG_INTERRUPT ? 1 : 0;
}
"""


@pytest.fixture
def check_spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], dict[str, bool]]:
    """The function of the lesson's last cell."""
    monkeypatch.chdir(tmp_path)  # where the cell finds no guest of anybody's
    (lesson,) = (lesson for lesson in LESSONS if lesson.parent.name == "01-what-a-vmm-is")
    (block,) = (block for block in blocks(lesson, "python") if "def check_spy(" in block)
    names: dict[str, Any] = {"simvirt": simvirt}
    exec(compile(block, str(lesson), "exec"), names)
    function: Callable[[Path], dict[str, bool]] = names["check_spy"]
    return function


def test_a_solution_reaches_every_goal(check_spy: Callable[[Path], dict[str, bool]], tmp_path: Path) -> None:
    source, *_ = new("spy", tmp_path)
    source.write_text(READS_CS, encoding="utf-8")
    assert all(check_spy(build(source, tmp_path / "spy" / "spy.elf")).values())


def test_the_template_is_no_solution(check_spy: Callable[[Path], dict[str, bool]], tmp_path: Path) -> None:
    source, *_ = new("spy", tmp_path)
    goals = check_spy(build(source, tmp_path / "spy" / "spy.elf"))
    assert not goals["status 1 under trap-and-emulate"]
    assert goals["equivalent under vtx"]


def test_looking_at_the_flags_is_no_solution(check_spy: Callable[[Path], dict[str, bool]], tmp_path: Path) -> None:
    source, *_ = new("spy", tmp_path)
    source.write_text(READS_FLAGS, encoding="utf-8")
    goals = check_spy(build(source, tmp_path / "spy" / "spy.elf"))
    assert [goal for goal, reached in goals.items() if not reached] == [
        "gives itself away by something other than the flags"
    ]
