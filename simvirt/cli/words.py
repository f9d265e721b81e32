"""The command line as data: each command's options and positional arguments, and what can stand for their values.

Read off the parser, so that completion can never know another command line than the one that is parsed. What a value
is, a guest, a file, a strategy, is told by its metavar.
"""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser
from dataclasses import dataclass
from enum import Enum
from typing import Final

from simvirt.cli.parser import COMMANDS, build_parser


class ValueKind(Enum):
    """What completes a value; the value is the metavar by which options and arguments ask for it."""

    NONE = ""
    """An option without value, or a value that cannot be guessed."""
    CHOICE = "one of the listed words"
    GUEST = "GUEST"
    STRATEGY = "STRATEGY"
    STRATEGIES = "STRATEGY,..."
    CPU = "CPU"
    PRESET = "PRESET"
    ISA = "ISA"
    INSTRUCTION = "INSTRUCTION"
    FILE = "FILE"
    SOURCE = "SOURCE"
    DIRECTORY = "DIRECTORY"

    @property
    def takes_files(self) -> bool:
        """Whether names of files complete it, besides its words."""
        return self in {ValueKind.GUEST, ValueKind.FILE, ValueKind.SOURCE, ValueKind.ISA}


@dataclass(frozen=True, slots=True)
class Values:
    """What can stand for a value."""

    kind: ValueKind
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a command."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    values: Values


@dataclass(frozen=True, slots=True)
class CommandWords:
    """What may follow one command."""

    name: str
    summary: str
    options: tuple[Option, ...]
    positional: Values


def command_line() -> tuple[CommandWords, ...]:
    """All commands, in the order of the help."""
    names = _names()
    return tuple(_command(parser, name, names) for name, parser in _subparsers(build_parser()).items())


def _subparsers(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    """The parser of each command."""
    for action in parser._actions:  # argparse offers no other way to look at a parser
        if isinstance(action.choices, dict):
            return action.choices
    return {}


def _command(parser: ArgumentParser, name: str, names: dict[ValueKind, tuple[str, ...]]) -> CommandWords:
    actions = parser._actions
    options = tuple(
        Option(tuple(action.option_strings), _help(action), action.nargs != 0, _values(action, names))
        for action in actions
        if action.option_strings
    )
    positional = next(
        (_values(action, names) for action in actions if not action.option_strings), Values(ValueKind.NONE)
    )
    return CommandWords(name, COMMANDS[name].summary, options, positional)


def _help(action: Action) -> str:
    return "" if action.help in {None, SUPPRESS} else str(action.help).replace("%%", "%")


def _values(action: Action, names: dict[ValueKind, tuple[str, ...]]) -> Values:
    if action.nargs == 0:
        return Values(ValueKind.NONE)
    if action.choices is not None:
        return Values(ValueKind.CHOICE, tuple(map(str, action.choices)))
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    kind = _KINDS.get(metavar, ValueKind.NONE)
    return Values(kind, names.get(kind, ()))


_KINDS: Final = {kind.value: kind for kind in ValueKind if kind not in {ValueKind.NONE, ValueKind.CHOICE}}


def _names() -> dict[ValueKind, tuple[str, ...]]:
    """The names that the catalogue and the registries hold now."""
    from simvirt.analyzer.registry import INSTRUCTION_SETS
    from simvirt.guests.catalogue import guests
    from simvirt.observe.costs import cost_presets
    from simvirt.strategies.registry import STRATEGIES
    from simvirt.x86.cpuid import CPU_MODELS
    from simvirt.x86.operations import Operation

    strategies = tuple(strategy.info.name for strategy in STRATEGIES)
    return {
        ValueKind.GUEST: tuple(guest.name for guest in guests()),
        ValueKind.STRATEGY: strategies,
        ValueKind.STRATEGIES: (*strategies, "all"),
        ValueKind.CPU: tuple(CPU_MODELS),
        ValueKind.ISA: tuple(row.info.name for row in INSTRUCTION_SETS),
        ValueKind.INSTRUCTION: ("exit", *sorted({op.value for op in Operation} - {Operation.OTHER, Operation.INVALID})),
        ValueKind.PRESET: tuple(preset.name for preset in cost_presets()),
    }
