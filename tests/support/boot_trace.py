"""Boots a real system in a process of its own and prints what must not depend on the host.

`python -m tests.support.boot_trace FLAVOUR RAM-DISK STRATEGY END [SAVE-AT FILE | - FILE]` prints every exit, and last
the count and a digest of the machine. With SAVE-AT and FILE the machine is saved at that instruction, and nothing is
run behind it; with `-` and FILE it goes on from there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from simvirt.machine import snapshot
from simvirt.vmm.exit_log import ExitRecord
from tests.support.exactness import digest
from tests.support.real_systems import CLOUD, KERNEL_686, Session


def main(flavour: str, ram_disk: str, strategy: str, end: str, save_at: str = "", file: str = "") -> None:
    linux = {one.flavour: one for one in (CLOUD, KERNEL_686)}[flavour]
    session = Session(linux.image(Path(ram_disk)), strategy, linux.cpu, linux.memory)
    machine, log = session.machine, session.trial.log
    identity = snapshot.Identity(strategy, linux.cpu, linux.memory)
    if save_at == "-":
        snapshot.load(machine, Path(file), identity)

    def listen(record: ExitRecord) -> None:
        sys.stdout.write(
            f"{record.instruction} {record.time_ns} {record.reason.name} {record.cs:x}:{record.rip:x} "
            f"{record.code.hex()} {record.qualification}\n"
        )

    log.listener = listen
    machine.run_to(int(save_at) if save_at.isdigit() else int(end))
    if save_at.isdigit():
        snapshot.dump(machine, Path(file), identity)
    sys.stdout.write(f"{machine.count} {digest(machine)} {bytes(machine.board.console)!r}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
