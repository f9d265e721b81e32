"""`new` and `build`: from nothing to a guest of one's own that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simvirt.guests.build import Toolchain, available

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Simvirt

_WORDS = {Toolchain.ZIGLANG: "zig", Toolchain.GCC: "gcc"}


@pytest.mark.parametrize("language", ["c", "assembly"])
@pytest.mark.parametrize("toolchain", _WORDS.values())
def test_new_build_run(simvirt: Simvirt, tmp_path: Path, language: str, toolchain: str) -> None:
    if toolchain not in {_WORDS[found] for found in available()}:
        pytest.skip(f"{toolchain} is not installed")
    created = simvirt("new", "mine", "--language", language, "--directory", str(tmp_path))
    assert created.status == 0
    folder = tmp_path / "mine"
    assert {path.name for path in folder.iterdir()} == {
        f"mine{'.c' if language == 'c' else '.S'}",
        "guest.h",
        "README.md",
    }
    assert f"simvirt build {folder}" in created.out
    built = simvirt("build", str(folder), "--toolchain", toolchain)
    assert (built.status, built.err) == (0, "")
    image = folder / "mine.elf"
    assert built.out == f"{image}\n"
    ran = simvirt("run", str(image), "--json").json()
    assert (ran["outcome"], ran["guest_status"]) == ("finished", 0)
    assert ran["console"].startswith("mine runs in ring 0.\n")


def test_nothing_is_overwritten(simvirt: Simvirt, tmp_path: Path) -> None:
    assert simvirt("new", "mine", "--directory", str(tmp_path)).status == 0
    again = simvirt("new", "mine", "--directory", str(tmp_path))
    assert again.status == 2
    assert "exists already" in again.err


def test_the_output_has_the_name_that_is_asked_for(simvirt: Simvirt, tmp_path: Path) -> None:
    if not available():
        pytest.skip("no compiler for the 386")
    source = tmp_path / "a.c"
    source.write_text('#include "guest.h"\nu32 guest_main(void) { return 3; }\n')
    output = tmp_path / "out" / "image"
    assert simvirt("build", str(source), "-o", str(output)).out == f"{output}\n"
    assert simvirt("run", str(output), "--json").json()["guest_status"] == 3
    assert simvirt("build", str(source)).out == f"{tmp_path / 'a.elf'}\n"


def test_what_the_compiler_says_reaches_the_person(simvirt: Simvirt, tmp_path: Path) -> None:
    if not available():
        pytest.skip("no compiler for the 386")
    source = tmp_path / "wrong.c"
    source.write_text("u32 guest_main(void) { return nonsense; }\n")
    result = simvirt("build", str(source))
    assert (result.status, result.out) == (2, "")
    assert "wrong.c" in result.err
    assert "nonsense" in result.err
