"""docs/deviations.md names a test for each deviation, and the test is there."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_test_that_the_list_names_exists(repository: Path) -> None:
    text = (repository / "docs" / "deviations.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(test_\w+)(?!\w|\.py)", text)) - set(re.findall(r"\b(test_\w+)\.py", text))
    defined = {
        name
        for path in (repository / "tests").rglob("*.py")
        for name in re.findall(r"^    def (test_\w+)|^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        for name in name
        if name
    }
    assert named
    assert sorted(named - defined) == []


def test_every_line_of_the_tables_names_a_test(repository: Path) -> None:
    text = (repository / "docs" / "deviations.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| The manual")]
    assert rows
    assert [row for row in rows if "test_" not in row.rsplit("|", 2)[1]] == []
