"""The completion scripts, run by the shells that they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from simvirt.cli.parser import COMMANDS
from simvirt.guests.catalogue import guests

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Simvirt

_GUESTS = {guest.name for guest in guests()}
_BASH_DRIVER = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_simvirt
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def bash(simvirt: Simvirt, tmp_path: Path) -> BashCompletion:
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("bash is not installed")
    script = tmp_path / "script"
    script.write_text(simvirt("completion", "bash").out)
    work = tmp_path / "work"
    work.mkdir()
    (work / "mine.elf").touch()
    (work / "with space.c").touch()
    (work / "folder").mkdir()
    return BashCompletion(shell, script, work)


class BashCompletion:
    def __init__(self, shell: str, script: Path, work: Path) -> None:
        self._shell, self._script, self._work = shell, script, work

    def __call__(self, *words: str) -> set[str]:
        """What bash offers for the last word."""
        done = subprocess.run(
            [self._shell, "--norc", "-c", _BASH_DRIVER, "bash", str(self._script), "simvirt", *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            cwd=self._work,
        )
        assert done.stderr == ""
        return set(done.stdout.split("\n")) - {""}


def test_bash_commands(bash: BashCompletion) -> None:
    assert bash("") == set(COMMANDS)
    assert bash("co") == {"compare", "completion"}
    assert bash("--v") == {"--version"}


def test_bash_options(bash: BashCompletion) -> None:
    assert bash("run", "--tr") == {"--trace", "--trace-format"}
    assert bash("run", "hello", "--ste") == {"--step"}
    assert "--step" not in bash("compare", "--")
    assert {"--json", "--debug", "--interval"} <= bash("compare", "--")


def test_bash_guests_and_files(bash: BashCompletion) -> None:
    files = {"mine.elf", "with space.c", "folder"}
    assert bash("run", "") == _GUESTS | files
    assert bash("run", "bench-s") == {name for name in _GUESTS if name.startswith("bench-s")}
    assert bash("run", "--strategy", "vtx", "he") == {"hello"}
    assert bash("build", "w") == {"with space.c"}
    assert bash("new", "--directory", "") == {"folder"}


def test_bash_values(bash: BashCompletion) -> None:
    assert bash("run", "hello", "--strategy", "v") == {"vtx"}
    assert bash("run", "--strategy", "=", "v") == {"vtx"}
    assert {"vtx", "trap-and-emulate", "bare-metal"} <= bash("run", "--strategy", "=")
    assert bash("run", "--trace-format", "") == {"kvm", "jsonl", "chrome"}
    assert bash("run", "--cpu", "x") == {"x86-64"}
    assert bash("run", "--costs", "has") == {"haswell-2013"}
    assert bash("run", "--seed", "") == set()
    assert bash("list", "") == {"guests", "strategies", "cpus", "isas", "costs"}
    assert bash("completion", "") == {"bash", "zsh", "fish"}


def test_bash_lists_of_strategies(bash: BashCompletion) -> None:
    assert bash("compare", "hello", "--strategy", "a") == {"all"}
    assert bash("compare", "hello", "--strategy", "vtx,tr") == {"vtx,trap-and-emulate"}
    assert bash("compare", "hello", "--strategy", "=", "vtx,b") == {"vtx,bare-metal"}


def test_zsh_reads_its_script(simvirt: Simvirt, tmp_path: Path) -> None:
    shell = shutil.which("zsh")
    if shell is None:
        pytest.skip("zsh is not installed")
    script = tmp_path / "_simvirt"
    script.write_text(simvirt("completion", "zsh").out)
    driver = f"""
        autoload -Uz compinit && compinit -u -d {tmp_path}/dump
        source {script}
        print -r -- $_comps[simvirt]
    """
    done = subprocess.run([shell, "-f", "-c", driver], capture_output=True, text=True, check=True, timeout=30)
    assert (done.stdout.strip(), done.stderr) == ("_simvirt", "")


def test_fish_completes(simvirt: Simvirt, tmp_path: Path) -> None:
    shell = shutil.which("fish")
    if shell is None:
        pytest.skip("fish is not installed")
    script = tmp_path / "simvirt.fish"
    script.write_text(simvirt("completion", "fish").out)

    def offered(line: str) -> set[str]:
        done = subprocess.run(
            [shell, "--no-config", "-c", f"source {script}; complete -C '{line}'"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        return {row.split("\t")[0] for row in done.stdout.splitlines()}

    assert set(COMMANDS) <= offered("simvirt ")
    assert offered("simvirt run ") >= _GUESTS
    assert offered("simvirt run --strategy v") == {"vtx"}
    assert offered("simvirt compare --strategy vtx,tr") == {"vtx,trap-and-emulate"}
    assert offered("simvirt list c") == {"cpus", "costs"}
    assert {"--trace", "--trace-format"} == offered("simvirt run --trac")
