"""Does what docs/how-to/add-a-guest.md says, in a copy of the catalogue."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from simvirt.guests import catalogue
from simvirt.guests.build import Toolchain, available
from simvirt.guests.resolve import resolve
from tests.guests import qemu
from tests.guests.refresh_catalogue import refresh

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "add-a-guest.md"


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.fixture
def copied_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("SOURCES", "IMAGES", "EXPECTED"):
        folder = tmp_path / name.lower()
        shutil.copytree(getattr(catalogue, name), folder)
        monkeypatch.setattr(catalogue, name, folder)
    monkeypatch.setattr(catalogue, "TABLE", Path(shutil.copy(catalogue.TABLE, tmp_path)))
    catalogue.guests.cache_clear()
    yield
    catalogue.guests.cache_clear()


@pytest.mark.usefixtures("copied_catalogue")
@pytest.mark.skipif(not qemu.is_installed(), reason="qemu-system-i386, the reference, is not installed")
@pytest.mark.skipif(Toolchain.ZIGLANG not in available(), reason="the ziglang package is not installed")
def test_the_page_adds_a_guest() -> None:
    folder = catalogue.SOURCES / "countdown"
    folder.mkdir()
    folder.joinpath("countdown.c").write_text(_block("c"), encoding="utf-8")
    with catalogue.TABLE.open("a", encoding="utf-8") as table:
        table.write("\n" + _block("toml"))
    catalogue.guests.cache_clear()
    others = {entry.name: entry.sha256 for entry in catalogue.guests() if entry.name != "countdown"}
    refresh(catalogue.find("countdown"))
    catalogue.guests.cache_clear()
    entry = catalogue.find("countdown")
    assert entry.console == "3\n2\n1\nliftoff\n"
    assert resolve("countdown").sha256 == entry.sha256 != ""
    assert {entry.name: entry.sha256 for entry in catalogue.guests() if entry.name != "countdown"} == others
