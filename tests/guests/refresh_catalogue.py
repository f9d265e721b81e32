"""Rebuilds catalogue guests and records what they are and what they print: ``python tests/guests/refresh_catalogue.py
[NAME ...]``.

Needs the ziglang package and QEMU. Look at the differences (``git diff simvirt/guests``) before committing them: an
expected console that changed is a change of behaviour.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[2]))

from simvirt.guests import catalogue
from simvirt.guests.build import Toolchain, build, ziglang_version
from tests.guests import qemu


def refresh(entry: catalogue.CatalogueEntry) -> None:
    build(entry.source_folder, entry.image_path, Toolchain.ZIGLANG, entry.macros)
    seconds = 5 if entry.ending in qemu.ENDLESS else 120
    run = qemu.run_guest(entry, seconds)
    catalogue.EXPECTED.joinpath(f"{entry.name}.txt").write_bytes(run.console.encode("ascii"))
    text = catalogue.TABLE.read_text(encoding="utf-8")
    text = re.sub(
        rf'(name = "{entry.name}"\n(?:(?!\[\[).*\n)*?sha256 = )"[^"]*"',
        rf'\g<1>"{catalogue.digest(entry.image_path)}"',
        text,
    )
    text = re.sub(r'^ziglang = ".*"$', f'ziglang = "{ziglang_version()}"', text, flags=re.MULTILINE)
    catalogue.TABLE.write_text(text, encoding="utf-8")
    sys.stdout.write(
        f"{entry.name}: guest status {run.guest_status} (QEMU's exit status {run.status})\n{run.console}\n"
    )


def main() -> None:
    names = sys.argv[1:]
    for entry in catalogue.guests():
        if not names or entry.name in names:
            refresh(entry)


if __name__ == "__main__":
    main()
