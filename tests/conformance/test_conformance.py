"""Every check as docs/conformance.md says: it passes, or it is a listed deviation, and that one does fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simvirt.guests.build import available
from tests.conformance import expected
from tests.conformance.report import PAGE, reason, verdicts
from tests.conformance.suite import SUITE, Guest, Place
from tests.differential.machines import qemu_is_installed

pytestmark = pytest.mark.skipif(not available(), reason="nothing here can assemble a guest")
_COLUMNS = (Place.BARE_METAL, Place.VTX, Place.TRAP_AND_EMULATE, Place.QEMU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


def _on_the_page(guest: Guest, place: Place) -> dict[str, str]:
    """The cells of a guest's table in one column."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {guest.name}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): row[3 + _COLUMNS.index(place)].strip() for row in rows}


@pytest.mark.parametrize(
    ("guest", "place"),
    [
        pytest.param(guest, place, id=f"{guest.name}-{place.value}", marks=[pytest.mark.long] * (place is Place.QEMU))
        for guest in SUITE
        for place in guest.places
    ],
)
def test_every_check_is_as_the_page_says(guest: Guest, place: Place, folder: Path) -> None:
    """Strict both ways: no check fails that is not listed, none passes that is."""
    if place is Place.QEMU and not qemu_is_installed():
        pytest.skip("QEMU is not installed")
    found = verdicts(guest, place, folder)
    assert found == _on_the_page(guest, place)
    assert set(found.values()) <= {"pass", "deviation"}
    wrongly_listed = {name for name, cell in found.items() if cell == "pass" and reason(name, place)}
    assert wrongly_listed == set()


def test_what_is_expected_is_of_checks_that_exist() -> None:
    names = {check.identifier for guest in SUITE for check in guest.checks}
    assert names >= set(expected.DEVIATIONS) | set(expected.UNVIRTUALIZED) | set(expected.QEMU)
    for guest in SUITE:
        assert len({check.identifier for check in guest.checks}) == len(guest.checks)


def test_the_page_has_no_hole() -> None:
    cells = re.findall(r"FAILS|not reached", PAGE.read_text(encoding="utf-8"))
    assert cells == []
