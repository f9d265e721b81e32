"""`python -m tests.conformance`: run every check everywhere and write docs/conformance.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance.report import PAGE, page, verdicts
from tests.conformance.suite import Guest, Place


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:

        def run(guest: Guest, place: Place) -> dict[str, str]:
            cells = verdicts(guest, place, Path(scratch))
            for identifier, cell in cells.items():
                if cell not in ("pass", "deviation"):
                    sys.stdout.write(f"{guest.name} {place.value} {identifier}: {cell}\n")
            return cells

        PAGE.write_text(page(run), encoding="utf-8")


if __name__ == "__main__":
    main()
