from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.cli import checks
from simvirt.machine import platforms

if TYPE_CHECKING:
    import pytest

    from tests.cli.conftest import Simvirt


def test_all_is_well_here(simvirt: Simvirt) -> None:
    result = simvirt("doctor")
    assert (result.status, result.err) == (0, "")
    assert "unicorn: 2.1.4" in result.out
    assert "Linux x86-64, verified" in result.out
    assert result.out.endswith("simvirt works here.\n")


def test_json(simvirt: Simvirt) -> None:
    found = simvirt("doctor", "--json").json()
    assert found["schema"] == "simvirt.doctor/1"
    assert found["works"] is True
    names = {row["name"] for row in found["checks"]}
    assert {"python", "platform", "unicorn", "native callbacks", "guests", "building guests", "gdb"} <= names
    assert {row["state"] for row in found["checks"]} <= {"works", "absent"}


def test_an_unverified_platform(simvirt: Simvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "VERIFIED", {})
    result = simvirt("doctor")
    assert result.status == 3
    assert "broken  platform: simvirt is not verified on linux" in result.out
    assert "broken  native callbacks:" in result.out
    assert "works   guests" in result.out
    assert "simvirt does not work here: platform, native callbacks" in result.out


def test_another_unicorn(simvirt: Simvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "UNICORN_VERSION", "9.9.9")
    result = simvirt("doctor")
    assert result.status == 3
    assert "broken  unicorn: 2.1.4; simvirt is verified with 9.9.9 only" in result.out
    assert "pip install unicorn==9.9.9" in result.out


def test_optional_tools_are_no_fault(simvirt: Simvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    result = simvirt("doctor")
    assert result.status == 0
    assert "absent  gdb" in result.out
    assert "absent  qemu-system-i386" in result.out
    assert "apt install qemu-system-x86" in result.out


def test_a_check_that_fails_in_an_unforeseen_way(simvirt: Simvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_OLDEST_PYTHON", "three")
    result = simvirt("doctor")
    assert result.status == 3
    assert "broken  python: unexpected TypeError" in result.out
    assert "works   guests" in result.out
