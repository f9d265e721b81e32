from __future__ import annotations

from pathlib import Path

import pytest

from simvirt.errors import UsageError
from simvirt.guests.build import Toolchain, available, build
from simvirt.guests.template import Language, new
from tests.guests import qemu

GREETING = "mine runs in ring 0.\n"


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("toolchain", [Toolchain.ZIGLANG, Toolchain.GCC], ids=lambda tool: tool.value)
def test_the_template_builds_and_runs(tmp_path: Path, language: Language, toolchain: Toolchain) -> None:
    if toolchain not in available():
        pytest.skip(f"{toolchain.value} is not installed")
    source, header, readme = new("mine", tmp_path, language)
    assert source == tmp_path / "mine" / f"mine{language.value}"
    assert header.read_text(encoding="utf-8").startswith("/* guest.h")
    assert "simvirt build mine\n" in readme.read_text(encoding="utf-8")
    assert source.name in readme.read_text(encoding="utf-8")
    image = build(source, tmp_path / "mine.elf", toolchain)
    if not qemu.is_installed():
        pytest.skip("built; qemu-system-i386, which would run it, is not installed")
    run = qemu.run(image)
    assert run.guest_status == 0
    assert run.console.startswith(GREETING)
    assert "breakpoint" in run.console


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    new("mine", tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        new("mine", tmp_path)


@pytest.mark.parametrize("name", ["", "1st", "../up", "a/b", "with space", "a\0b", "-x", "x" * 65, "ä"])
def test_a_name_that_makes_no_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a guest's name"):
        new(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="cannot write"):
        new("mine", file)
