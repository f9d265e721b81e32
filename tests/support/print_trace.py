"""Runs a guest in a process of its own and prints all that must not depend on the host.

`python -m tests.support.print_trace GUEST STRATEGY STRIDE END` prints, for the random program of a seed or a guest of
the catalogue, every exit, and after each STRIDE instructions a digest of the whole machine.
"""

from __future__ import annotations

import sys

from simvirt.guests import catalogue
from simvirt.vmm.exit_log import ExitRecord
from tests.support import program_frame as frame
from tests.support.exactness import build, digest, features_for
from tests.support.programs import generate


def main(guest: str, strategy: str, stride: str, end: str) -> None:
    if guest.isdigit():
        image, memory_size = generate(int(guest), features_for(strategy)).image(), frame.MEMORY_SIZE
    else:
        image, memory_size = catalogue.find(guest).image(), 4 << 20
    virtualized = build(image, strategy, memory_size)
    machine, log = virtualized.machine, virtualized.log

    def listen(record: ExitRecord) -> None:
        sys.stdout.write(
            f"{record.number} {record.instruction} {record.time_ns} {record.reason.name} {record.cs:x}:{record.rip:x} "
            f"{record.code.hex()} {record.cause.what} {record.qualification}\n"
        )

    log.listener = listen
    while machine.outcome is None and machine.count < int(end):
        machine.run_to(min(machine.count + int(stride), int(end)))
        sys.stdout.write(f"{machine.count} {digest(machine)}\n")
    sys.stdout.write(f"{machine.outcome} {bytes(machine.board.console)!r} {sorted(log.counts.items(), key=str)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
