"""Lesson 2's self-check tells a machine with the wanted hole from others."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from simvirt.analyzer.model.analysis import analyze
from simvirt.analyzer.model.properties import Property
from simvirt.analyzer.registry import find
from tests.lessons.refresh_notebooks import LESSONS, ROOT
from tests.lessons.test_lessons import blocks

PAGE: Final = (ROOT / "docs" / "how-to" / "add-an-instruction-set.md").read_text(encoding="utf-8")


@pytest.fixture
def check_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], dict[str, bool]]:
    """The function of the lesson's last cell."""
    monkeypatch.chdir(tmp_path)  # where the cell finds no machine of anybody's
    (lesson,) = (lesson for lesson in LESSONS if lesson.parent.name == "02-when-a-vmm-is-possible")
    (block,) = (block for block in blocks(lesson, "python") if "def check_machine(" in block)
    names: dict[str, Any] = {"find": find, "analyze": analyze, "Property": Property}
    exec(compile(block, str(lesson), "exec"), names)
    function: Callable[[Path], dict[str, bool]] = names["check_machine"]
    return function


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """The machine of the how-to page: one of its critical instructions is a no-op in user mode, the other is not."""
    for name in ("timer.py", "timer.toml"):
        block = re.search(rf"^`{re.escape(name)}`:\n\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
        assert block is not None
        (tmp_path / name).write_text(block.group(1), encoding="utf-8")
    return tmp_path / "timer.toml"


def test_a_solution_reaches_every_goal(check_machine: Callable[[Path], dict[str, bool]], machine: Path) -> None:
    assert all(check_machine(machine).values())


def test_a_no_op_in_user_mode_is_critical_and_not_what_was_asked_for(
    check_machine: Callable[[Path], dict[str, bool]], machine: Path
) -> None:
    module = machine.with_name("timer.py")
    text = module.read_text(encoding="utf-8")
    module.write_text(text.replace("    cpu.A = cpu.TIMER", "    cpu.require_privilege()\n    cpu.A = cpu.TIMER"))
    goals = check_machine(machine)
    assert goals["it has a critical instruction"]
    assert not goals["that is no no-op in user mode"]


def test_a_machine_too_large_to_be_tried_is_not_proved(
    check_machine: Callable[[Path], dict[str, bool]], machine: Path
) -> None:
    text = machine.read_text(encoding="utf-8").replace(
        'title = "accumulator"\nbits = 5', 'title = "accumulator"\nbits = 8'
    )
    machine.write_text(text, encoding="utf-8")
    goals = check_machine(machine)
    assert goals["that is no no-op in user mode"]
    assert not goals["and that is proved"]


def test_nothing_is_no_machine(check_machine: Callable[[Path], dict[str, bool]], tmp_path: Path) -> None:
    assert not any(check_machine(tmp_path / "nothing.toml").values())
