"""An operating system: Debian's cloud kernel from its first instruction to a shell, beside QEMU with the same files.

The files are those of `scripts/fetch-real-systems.sh`. QEMU is timed as a process that runs until its console shows the
prompt, its firmware included; simvirt from the guest's first instruction to the prompt.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Figure, Section, Unit, at_most
from benchmarks.machines import BARE, VTX, WrongEndingError
from benchmarks.timing import cpu_seconds, in_turns, tell
from simvirt.guests.resolve import resolve
from simvirt.machine.machine import Outcome
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig
from simvirt.x86.cpuid import find_cpu_model
from tests.support.real_systems import CLOUD, DIRECTORY, PROMPT

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.plan import Plan
    from simvirt.guests.image import GuestImage

GUEST: Final = "Linux to a shell"
APPEND: Final = "console=ttyS0"
QEMU: Final = "QEMU"
PROGRAM: Final = "qemu-system-x86_64"
MOST_ROUNDS: Final = 3
TO_QEMU: Final = {BARE: at_most(2.5), VTX: at_most(3.5)}
LIMIT: Final = 4_000_000_000


def run(plan: Plan) -> Section:
    """Boot under each strategy and under QEMU; nothing where the files are not there."""
    title = "A kernel to its shell"
    if not plan.boots_linux:
        return Section("linux", title, (), ("Not part of this plan.",))
    if not (DIRECTORY / "fetched").exists():
        return Section("linux", title, (), ("Not measured: run scripts/fetch-real-systems.sh first.",))
    with tempfile.TemporaryDirectory() as folder:
        ram_disk = CLOUD.ram_disk(Path(folder) / "initrd")
        return _measure(plan, title, ram_disk)


def _measure(plan: Plan, title: str, ram_disk: Path) -> Section:
    tell("linux: booting")
    image = resolve(CLOUD.kernel, append=APPEND, initrd=[ram_disk])
    exits: dict[str, int] = {}
    counts: dict[str, int] = {}
    contestants: dict[str, Callable[[], float]] = {
        strategy: partial(_boot, image, strategy, counts, exits) for strategy in TO_QEMU
    }
    contestants[QEMU] = partial(_boot_qemu, ram_disk)
    timings = in_turns(contestants, min(plan.rounds, MOST_ROUNDS))
    figures = [Figure(GUEST, f"{who}: time", t.least, Unit.SECONDS, t.median) for who, t in timings.items()]
    figures += [Figure(GUEST, f"{who}: speed", counts[who] / timings[who].least / 1e6, Unit.MIPS) for who in TO_QEMU]
    figures += [
        Figure(GUEST, f"{who} / {QEMU}: time", timings[who].least / timings[QEMU].least, Unit.RATIO, None, target)
        for who, target in TO_QEMU.items()
    ]
    table = ", ".join(f"{count:,} {reason}" for reason, count in sorted(exits.items(), key=lambda item: -item[1]))
    return Section("linux", title, tuple(figures), (__doc__ or "", f"Exits under {VTX}: {table}."))


def _boot(image: GuestImage, strategy: str, counts: dict[str, int], exits: dict[str, int]) -> float:
    config = MachineConfig(CLOUD.memory, find_cpu_model(CLOUD.cpu))
    built = find(strategy).build(image, config)
    machine = built.machine
    tail = bytearray()

    def printed(byte: int) -> None:
        tail.append(byte)
        if tail.endswith(PROMPT):
            machine.pause()

    machine.board.on_console = printed
    seconds = cpu_seconds(lambda: machine.run(LIMIT))
    if machine.outcome is not Outcome.INTERRUPTED:
        raise WrongEndingError(f"the kernel under {strategy} ended as {machine.outcome}: {bytes(tail[-300:])!r}")
    counts[strategy] = machine.count
    if strategy == VTX:
        exits.update({reason.name: count for reason, count in built.log.counts.items()})
    return seconds


def _boot_qemu(ram_disk: Path) -> float:
    command = [PROGRAM, "-accel", "tcg", "-kernel", str(CLOUD.kernel), "-initrd", str(ram_disk), "-append", APPEND]
    command += ["-m", str(CLOUD.memory >> 20), "-no-reboot", "-nic", "none", "-display", "none", "-monitor", "none"]
    process = subprocess.Popen(
        [*command, "-serial", "stdio"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    said = bytearray()
    while not said.endswith(PROMPT) and (byte := process.stdout.read(1)):
        said += byte
    process.kill()
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # wait4 has taken it: Popen must not wait again
    process.stdout.close()
    if not said.endswith(PROMPT):
        raise WrongEndingError(f"QEMU has not reached a prompt: {bytes(said[-300:])!r}")
    return usage.ru_utime + usage.ru_stime
