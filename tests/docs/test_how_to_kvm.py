"""The page docs/how-to/use-the-kvm-interface.md, followed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_pages_guest_runs_in_four_modes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (repository / "docs" / "how-to" / "use-the-kvm-interface.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(block, names)
    modes = ("real", "protected", "paged", "long")
    assert capsys.readouterr().out.splitlines() == [f"{mode} Hi HLT True" for mode in modes]
