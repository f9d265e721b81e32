"""Usage, exit status, and what reaches which stream."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import simvirt
from simvirt.cli import listing
from simvirt.cli.parser import COMMANDS
from simvirt.errors import EngineError, UsageError

if TYPE_CHECKING:
    from tests.cli.conftest import Process, Simvirt


def test_help_names_every_command(simvirt: Simvirt) -> None:
    result = simvirt("--help")
    assert result.status == 0
    for command in COMMANDS.values():
        assert command.name in result.out
        assert command.summary in " ".join(result.out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(simvirt: Simvirt, command: str) -> None:
    result = simvirt(command, "--help")
    assert result.status == 0
    assert result.err == ""
    assert f"usage: simvirt {command}" in result.out


def test_version(process: Process) -> None:
    result = process("--version")
    assert (result.status, result.out) == (0, f"simvirt {simvirt.__version__}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "COMMAND"),
        (("rum",), "did you mean 'run'?"),
        (("run",), "GUEST"),
        (("run", "hello", "--strateggy", "vtx"), "--strateggy"),
        (("run", "hello", "--max-instructions", "some"), "not a number of instructions"),
        (("run", "hello", "--max-instructions", "0"), "at least 1"),
        (("run", "hello", "--seed", "x"), "not a whole number"),
        (("run", "hello", "--memory", "lots"), "not an amount of memory"),
        (("run", "hello", "--memory", "0"), "memory"),
        (("run", "hello", "--memory", "1000"), "4096"),
        (("run", "hello", "--memory", "100G"), "too much"),
        (("run", "hello", "--memory", "-1"), "memory"),
        (("run", "hello", "--memory", "4K"), "hello"),
        (("run", "helo"), "did you mean 'hello'?"),
        (("run", "hello", "--strategy", "vxt"), "did you mean 'vtx'?"),
        (("run", "hello", "--strategy", "vtxx"), "did you mean 'vtx'?"),
        (("run", "hello", "--strategy", "vt"), "did you mean 'vt"),
        (
            ("run", "hello", "--strategy", "qqq"),
            "unknown strategy 'qqq': it is like none of those there are, bare-metal",
        ),
        (("run", "hello", "--strategy", "bt"), "binary translation is not there yet"),
        (("compare", "hello", "--strategy", "paravirtualization"), "paravirtualization is not there yet"),
        (("run", "hello", "--cpu", "core3"), "did you mean 'core2'?"),
        (("run", "hello", "--costs", "haswell"), "did you mean 'haswell-2013'?"),
        (("run", "hello", "--trace-format", "kvm"), "--trace FILE"),
        (("run", "hello", "--trace-format", "xml"), "invalid choice"),
        (("run", "hello", "--step", "--json"), "--json"),
        (("compare", "helo"), "did you mean 'hello'?"),
        (("compare", "hello", "--strategy", "vtx,trap-and-emulat"), "did you mean 'trap-and-emulate'?"),
        (("compare", "hello", "--interval", "0"), "at least 1"),
        (("list", "gests"), "invalid choice"),
        (("new", "9lives"), "cannot be a guest's name"),
        (("build", "nowhere.c"), "no such file"),
        (("completion", "csh"), "invalid choice"),
    ],
)
def test_wrong_usage(simvirt: Simvirt, words: tuple[str, ...], message: str) -> None:
    result = simvirt(*words)
    assert result.status == 2
    assert result.out == ""
    assert message in result.err


def test_a_fault_of_the_monitor_is_told_from_wrong_usage(simvirt: Simvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> None:
        def execute(_arguments: object) -> int:
            raise error

        monkeypatch.setattr(listing, "execute", execute)

    fail(EngineError("no engine"))
    result = simvirt("list", "cpus")
    assert (result.status, result.err) == (3, "simvirt: fault of the monitor: no engine\n")
    fail(UsageError("not so"))
    result = simvirt("list", "cpus")
    assert (result.status, result.err) == (2, "simvirt: not so\n")
    fail(KeyboardInterrupt())
    result = simvirt("list", "cpus")
    assert (result.status, result.err) == (130, "simvirt: interrupted\n")
    fail(ZeroDivisionError("oops"))
    result = simvirt("list", "cpus")
    assert result.status == 3
    assert "unexpected ZeroDivisionError: oops" in result.err
    assert "--debug" in result.err
    assert "Traceback" not in result.err
    result = simvirt("list", "cpus", "--debug")
    assert result.status == 3
    assert "Traceback" in result.err


def test_a_reader_that_goes_away() -> None:
    """As `simvirt ... | head -1` does: no traceback, and no complaint of the interpreter when it ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "simvirt", "completion", "bash"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        error = child.stderr.read()
    assert (child.returncode, error) == (0, b"")


def test_an_encoding_that_lacks_characters(process: Process) -> None:
    result = process("compare", "hello", "--strategy", "tae", env={"PYTHONIOENCODING": "ascii"})
    assert result.status == 0
    assert "\\u" in result.out


def test_quick_commands_load_nothing_heavy() -> None:
    code = """
import sys
from simvirt.cli.main import main
for words in (["--help"], ["list", "guests"], ["list", "cpus"], ["run", "helo"]):
    main(words)
heavy = {"unicorn", "capstone", "iced_x86", "rich", "matplotlib", "numpy", "elftools"} & set(sys.modules)
print("heavy:", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "heavy: []"
