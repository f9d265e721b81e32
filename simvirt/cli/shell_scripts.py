"""Completion scripts for bash, zsh and fish, from the command line as data.

The scripts stand alone: they need no package of completion functions, start no process while a word is completed, and
know the guests and strategies of the version that printed them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.cli.words import ValueKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simvirt.cli.words import CommandWords, Option, Values


def _quoted(text: str) -> str:
    """A word in single quotes, which all three shells read alike but for the quote itself."""
    return "'" + text.replace("'", "’") + "'"


# ----------------------------------------------------------------------------------------------------------------- bash

_BASH = """\
# Completion of simvirt in bash. Put this into ~/.bashrc:
#     source <(simvirt completion bash)
_simvirt() {{
    local IFS=$' \\t\\n' command= prefix= index
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    COMPREPLY=()
    # bash takes --option=value apart into three words
    if [[ $current == "=" ]]; then
        current=
    elif [[ $previous == "=" ]]; then
        previous=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    for ((index = 1; index < COMP_CWORD; index++)); do
        if [[ ${{COMP_WORDS[index]}} != -* ]]; then
            command=${{COMP_WORDS[index]}}
            break
        fi
    done
    case "$command $previous" in
{values}
    esac
    case "$command $current" in
{options}
    esac
    case $command in
    "") _simvirt_words {commands} ;;
{positional}
    esac
}}
_simvirt_words() {{
    COMPREPLY+=($(compgen -P "$prefix" -W "$1" -- "$current"))
}}
_simvirt_list() {{
    if [[ $current == *,* ]]; then
        prefix=${{current%,*}},
        current=${{current##*,}}
    fi
    _simvirt_words "$1"
}}
_simvirt_files() {{
    local IFS=$'\\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY+=($(compgen -f -- "$current"))
}}
_simvirt_directories() {{
    local IFS=$'\\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY+=($(compgen -d -- "$current"))
}}
complete -F _simvirt simvirt
"""


def bash_script(commands: Sequence[CommandWords]) -> str:
    """A script for bash 3.2 and newer."""
    values = [
        f"    {_quoted(f'{command.name} {name}')}) {_bash_action(option.values)}return ;;"
        for command in commands
        for option in command.options
        if option.takes_value
        for name in option.names
    ]
    options = [
        f"    {_quoted(f'{command.name} -')}*) _simvirt_words {_quoted(' '.join(_names(command.options)))}; return ;;"
        for command in commands
    ]
    positional = [
        f"    {command.name}) {_bash_action(command.positional)};;"
        for command in commands
        if command.positional.kind is not ValueKind.NONE
    ]
    return _BASH.format(
        values="\n".join(values),
        options="\n".join(["    ' -'*) _simvirt_words '--help --version'; return ;;", *options]),
        commands=_quoted(" ".join(command.name for command in commands)),
        positional="\n".join(positional),
    )


def _bash_action(values: Values) -> str:
    if values.kind is ValueKind.DIRECTORY:
        return "_simvirt_directories; "
    lister = "_simvirt_list" if values.kind is ValueKind.STRATEGIES else "_simvirt_words"
    words = f"{lister} {_quoted(' '.join(values.words))}; " if values.words else ""
    return words + ("_simvirt_files; " if values.kind.takes_files else "")


# ------------------------------------------------------------------------------------------------------------------ zsh

_ZSH = """\
#compdef simvirt
# Completion of simvirt in zsh. Put this into ~/.zshrc, after compinit:
#     source <(simvirt completion zsh)
_simvirt() {{
    local curcontext=$curcontext state line
    typeset -A opt_args
    _arguments -C '--help[show the help]' '--version[show the version]' '1: :->command' '*:: :->argument'
    case $state in
    command)
        local -a commands
        commands=(
{commands}
        )
        _describe -t commands command commands
        ;;
    argument)
        case $line[1] in
{cases}
        esac
        ;;
    esac
}}
_simvirt_guests() {{
    _alternative {guests}'files:file:_files'
}}
if [[ $funcstack[1] == _simvirt ]]; then
    _simvirt "$@"
else
    compdef _simvirt simvirt
fi
"""


def zsh_script(commands: Sequence[CommandWords]) -> str:
    """A script for zsh: a file _simvirt in the fpath, or sourced."""
    cases: list[str] = []
    for command in commands:
        specs = [_zsh_option(option) for option in command.options]
        if command.positional.kind is not ValueKind.NONE:
            specs.append(_quoted(f"*: :{_zsh_action(command.positional)}"))
        arguments = " \\\n                ".join(["_arguments", *specs])
        cases.append(f"        {command.name})\n            {arguments}\n            ;;")
    guests = " ".join(next((c.positional.words for c in commands if c.positional.kind is ValueKind.GUEST), ()))
    return _ZSH.format(
        commands="\n".join(" " * 12 + _quoted(f"{command.name}:{_zsh_text(command.summary)}") for command in commands),
        cases="\n".join(cases),
        guests=_quoted(f"guests:guest:({guests})") + " ",
    )


def _zsh_option(option: Option) -> str:
    """One option's specification; names that mean the same exclude each other."""
    help_text = f"[{_zsh_text(option.help)}]"
    value = f": :{_zsh_action(option.values)}" if option.takes_value else ""
    equals = "=" if option.takes_value else ""
    specs = [name + (equals if name.startswith("--") else "") + help_text + value for name in option.names]
    exclusive = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    return " ".join(_quoted(exclusive + spec) for spec in specs)


def _zsh_text(text: str) -> str:
    for special in ("\\", "[", "]", ":"):
        text = text.replace(special, f"\\{special}")
    return text


def _zsh_action(values: Values) -> str:
    match values.kind:
        case ValueKind.GUEST:
            return "_simvirt_guests"
        case ValueKind.STRATEGIES:
            return f"_values -s , strategy {' '.join(values.words)}"
        case ValueKind.FILE | ValueKind.SOURCE:
            return "_files"
        case ValueKind.DIRECTORY:
            return "_files -/"
        case _:
            return f"({' '.join(values.words)})" if values.words else " "


# ----------------------------------------------------------------------------------------------------------------- fish


def fish_script(commands: Sequence[CommandWords]) -> str:
    """A script for fish, to be saved as ~/.config/fish/completions/simvirt.fish."""
    lines = [
        "# Completion of simvirt in fish:",
        "#     simvirt completion fish > ~/.config/fish/completions/simvirt.fish",
        "complete -c simvirt -f",
        "complete -c simvirt -n __fish_use_subcommand -l help -d 'show the help'",
        "complete -c simvirt -n __fish_use_subcommand -l version -d 'show the version'",
    ]
    for command in commands:
        here = f"complete -c simvirt -n {_quoted(f'__fish_seen_subcommand_from {command.name}')}"
        lines.append(f"complete -c simvirt -n __fish_use_subcommand -a {command.name} -d {_quoted(command.summary)}")
        if command.positional.kind is not ValueKind.NONE:
            lines.append(f"{here} {_fish_values(command.positional)}")
        for option in command.options:
            value = f" -r {_fish_values(option.values)}" if option.takes_value else ""
            lines.append(f"{here} {_fish_names(option)}{value} -d {_quoted(option.help)}")
    return "\n".join(lines) + "\n"


def _fish_names(option: Option) -> str:
    return " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)


def _fish_values(values: Values) -> str:
    match values.kind:
        case ValueKind.DIRECTORY:
            return "-a '(__fish_complete_directories)'"
        case ValueKind.STRATEGIES:
            return f"-f -a '(__fish_append , {' '.join(values.words)})'"
        case _:
            words = f" -a {_quoted(' '.join(values.words))}" if values.words else ""
            return ("-F" if values.kind.takes_files else "-f") + words


def _names(options: Iterable[Option]) -> list[str]:
    return [name for option in options for name in option.names]
