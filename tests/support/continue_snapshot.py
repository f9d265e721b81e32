"""Goes on from a snapshot in a process of its own.

`python -m tests.support.continue_snapshot FILE STRATEGY STRIDE END` prints a JSON list of (count, digest of the whole
machine).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from simvirt.machine import snapshot
from tests.support.exactness import build, digest, features_for, identity
from tests.support.programs import generate


def main(file: str, strategy: str, stride: str, end: str) -> None:
    machine = build(generate(0, features_for(strategy)).image(), strategy).machine
    snapshot.load(machine, Path(file), identity(strategy))
    found = []
    while machine.outcome is None and machine.count < int(end):
        machine.run_to(machine.count + int(stride))
        found.append([machine.count, digest(machine)])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
