"""docs/cli.md and the help tell what the command line is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from simvirt.cli.parser import COMMANDS
from simvirt.cli.step import help_text
from simvirt.cli.words import command_line
from simvirt.machine.machine import Outcome
from simvirt.observe.comparison import Equivalence
from simvirt.observe.costs import DEFAULT_COSTS
from simvirt.observe.session import DEFAULT_MAX_INSTRUCTIONS, DEFAULT_MEMORY, memory_size
from simvirt.x86.cpuid import DEFAULT_CPU_MODEL

if TYPE_CHECKING:
    from tests.cli.conftest import Simvirt

_DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
_SECTIONS = {text.split("\n", 1)[0]: text for text in re.split(r"^## ", _DOCUMENT, flags=re.MULTILINE)[1:]}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name: str) -> None:
    command = next(command for command in command_line() if command.name == name)
    text = _SECTIONS[name] + (_SECTIONS["run"] if name in {"compare", "gdb", "pages", "profile"} else "")
    for option in command.options:
        if not {"--help", "--debug"} & set(option.names):
            assert all(written in text for written in option.names), option.names


def test_no_option_is_documented_that_is_not_there() -> None:
    known = {name for command in command_line() for option in command.options for name in option.names}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", _DOCUMENT)) <= known | {"--version"}


def test_every_command_outcome_and_verdict_is_documented() -> None:
    assert set(COMMANDS) <= set(_SECTIONS)
    for value in (*(outcome.value for outcome in Outcome), *(verdict.value for verdict in Equivalence)):
        assert f"`{value}`" in _DOCUMENT


def test_every_step_command_is_documented() -> None:
    for line in help_text().splitlines():
        usage = line.split("  ")[0].strip()
        assert f"`{usage.replace('|', chr(92) + '|')}`" in _SECTIONS["run"]


@pytest.mark.parametrize("command", ["run", "compare"])
def test_the_help_states_the_library_s_defaults(simvirt: Simvirt, command: str) -> None:
    text = " ".join(simvirt(command, "--help").out.split())
    assert memory_size("64M") == DEFAULT_MEMORY
    assert int(1e10) == DEFAULT_MAX_INSTRUCTIONS
    for default in ("64M", "1e10", DEFAULT_COSTS, DEFAULT_CPU_MODEL):
        assert f"(default: {default})" in text
