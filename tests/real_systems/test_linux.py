"""Debian's kernels, unmodified, on the PC and under vtx: to a shell and back off, as under QEMU with the same files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import pytest

from simvirt.guests.recognise import BootKind
from simvirt.machine.disk import DiskOption
from simvirt.machine.hardware import MachineFeature
from simvirt.machine.machine import Outcome
from simvirt.observe.comparison import Equivalence
from simvirt.observe.session import compare
from tests.support.real_systems import (
    CLOUD,
    COMMANDS,
    KERNEL_686,
    PROMPT,
    Linux,
    Session,
    lines,
    needs_real_systems,
    without_time,
)

KERNELS = pytest.mark.parametrize("linux", [CLOUD, KERNEL_686], ids=lambda linux: linux.flavour)
STRATEGIES = pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
pytestmark = [needs_real_systems, pytest.mark.xdist_group("real systems"), pytest.mark.timeout(1800)]

# Beginnings of lines in a kernel's log that tell neither of hardware nor of time.
OF_THE_KERNEL = (
    "Linux version", "Dynamic Preempt", "rcu:", "LSM:", "landlock:", "Yama:", "AppArmor:", "TOMOYO", "NET:", "VFS:",
    "Initialise system trusted keyrings", "Key type", "Asymmetric key parser", "integrity:", "evm:", "ima: Allocated",
    "Block layer", "io scheduler", "Run /init", "Freeing initrd memory", "registered taskstats", "devtmpfs:",
)  # fmt: skip


@dataclass
class Reference:
    """The same files under QEMU."""

    boot: list[str]
    answers: dict[str, list[str]]


def qemu(linux: Linux, ram_disk: Path) -> Reference:
    command = ["qemu-system-x86_64", "-kernel", str(linux.kernel), "-initrd", str(ram_disk), "-append", "console=ttyS0"]
    command += ["-m", str(linux.memory >> 20), "-no-reboot", "-display", "none", "-monitor", "none", "-nic", "none"]
    command += ["-serial", "stdio"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stopper = Timer(300, process.kill)
        stopper.start()

        def until_prompt() -> list[str]:
            said = bytearray()
            while not said.endswith(PROMPT) and (byte := process.stdout.read(1)):  # type: ignore[union-attr]
                said += byte
            return lines(bytes(said))

        boot, answers = until_prompt(), {}
        for text in COMMANDS:
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            answers[text] = until_prompt()[1:-1]
        stopper.cancel()
    return Reference(boot, answers)


def of_the_kernel(boot: list[str]) -> list[str]:
    """The lines that any machine gives, without numbers."""
    return [re.sub(r"\d+", "N", line) for line in without_time(boot) if line.startswith(OF_THE_KERNEL)]


def names(listing: list[str]) -> list[list[str]]:
    """Of `ls -l`: rights, owners and names; the sizes and times of virtual file systems change."""
    return [[words[0], *words[2:4], words[-1]] for line in listing if len(words := line.split()) > 5]


@pytest.mark.long
@KERNELS
@STRATEGIES
def test_boots_to_a_shell_that_answers_as_under_qemu(linux: Linux, strategy: str, tmp_path: Path) -> None:
    ram_disk = linux.ram_disk(tmp_path / "initrd")
    session = Session(linux.image(ram_disk), strategy, linux.cpu, linux.memory)
    boot = lines(session.run_until(PROMPT))
    answers = {text: session.command(text) for text in COMMANDS[:-1]}
    outcome, said = session.last_command(COMMANDS[-1])
    assert outcome is Outcome.FINISHED
    assert "reboot: Power down" in without_time(said)
    assert answers["uname -a"][0].startswith("Linux (none) 6.1.")
    assert "apic" in next(line for line in answers["cat /proc/cpuinfo"] if line.startswith("flags"))
    assert not [line for line in boot if re.search(r"WARNING:|BUG:|Oops|Call Trace|unchecked MSR", line)]
    if strategy == "vtx":
        assert session.trial.log.total > 10_000
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("everything but the comparison with QEMU, which is not installed")
    reference = qemu(linux, ram_disk)
    assert sorted(of_the_kernel(boot)) == sorted(of_the_kernel(reference.boot))  # some are printed by workers
    assert answers["uname -a"] == reference.answers["uname -a"]
    assert answers["dmesg | head"][0] == reference.answers["dmesg | head"][0]
    assert names(answers["ls -l /"]) == names(reference.answers["ls -l /"])
    mine, theirs = (
        {line.partition(":")[0].strip() for line in one["cat /proc/cpuinfo"]} for one in (answers, reference.answers)
    )
    assert {"processor", "vendor_id", "cpu MHz", "flags", "bogomips", "address sizes"} <= mine & theirs


@pytest.mark.long
@KERNELS
def test_both_strategies_run_the_same_instructions(linux: Linux, tmp_path: Path) -> None:
    ram_disk = linux.ram_disk(tmp_path / "initrd")
    counts, consoles = [], []
    for strategy in ("bare-metal", "vtx"):
        session = Session(linux.image(ram_disk), strategy, linux.cpu, linux.memory)
        session.run_until(PROMPT)
        counts.append(session.machine.count)
        consoles.append(bytes(session.machine.board.console))
    assert counts[0] == counts[1]
    assert consoles[0] == consoles[1]


@pytest.mark.long
@STRATEGIES
def test_a_virtio_disk_and_console(strategy: str, tmp_path: Path) -> None:
    modules = [CLOUD.module(name) for name in ("virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "virtio_console")]
    ram_disk = CLOUD.ram_disk(tmp_path / "initrd", modules=modules)
    disk = tmp_path / "disk"
    disk.write_bytes(b"".join((b"sector %d\n" % n).ljust(512, b".") for n in range(64)))
    features = frozenset({MachineFeature.VIRTIO_CONSOLE})
    options = {"disk": DiskOption(disk, writable=True, virtio=True), "features": features}
    session = Session(CLOUD.image(ram_disk), strategy, CLOUD.cpu, CLOUD.memory, options)
    session.run_until(PROMPT)
    assert session.command("head -c 9 /dev/vda") == ["sector 0"]
    session.command("echo changed | dd of=/dev/vda bs=512 seek=3 conv=sync,fsync")
    assert disk.read_bytes()[3 * 512 :].startswith(b"changed\n")
    assert session.command("echo hello > /dev/hvc0") == ["hello"]
    outcome, _ = session.last_command("poweroff -f")
    assert outcome is Outcome.FINISHED
    assert disk.read_bytes()[4 * 512 :].startswith(b"sector 4\n")


@pytest.mark.long
def test_a_kernel_finds_kvms_interface_under_vtx(tmp_path: Path) -> None:
    ram_disk = CLOUD.ram_disk(tmp_path / "initrd")
    options = {"features": frozenset({MachineFeature.KVM})}
    session = Session(CLOUD.image(ram_disk), "vtx", CLOUD.cpu, CLOUD.memory, options)
    boot = without_time(lines(session.run_until(PROMPT)))
    assert "Hypervisor detected: KVM" in boot
    assert "kvm-clock: Using msrs 4b564d01 and 4b564d00" in boot
    clocks = session.command("cat /sys/devices/system/clocksource/clocksource0/available_clocksource")
    assert "kvm-clock" in clocks[0]


def trace(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.support.boot_trace", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], check=True).stdout


AT_THE_PROMPT = {CLOUD: 1_460_000_000, KERNEL_686: 6_860_000_000}
"""Instructions after which these kernels have come to the prompt; a newer one may need more."""


@pytest.mark.long
@KERNELS
def test_two_processes_and_a_saved_one_give_the_same_exits(linux: Linux, tmp_path: Path) -> None:
    """To the shell's prompt; one of them beside a process that does nothing but compute, one saved half way."""
    ram_disk, file, end = linux.ram_disk(tmp_path / "initrd"), tmp_path / "snapshot", AT_THE_PROMPT[linux]
    boot = (linux.flavour, str(ram_disk), "vtx", str(end))
    alone = trace(*boot)
    assert repr(PROMPT)[2:-1] in alone.splitlines()[-1]
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as load:
        try:
            loaded = trace(*boot)
        finally:
            load.kill()
    assert alone == loaded
    before = trace(*boot, str(end // 2), str(file))
    after = trace(*boot, "-", str(file))
    assert before.splitlines()[:-1] + after.splitlines() == alone.splitlines()


@pytest.mark.long
def test_de_privileged_a_kernel_fails_at_what_does_not_trap(tmp_path: Path) -> None:
    """The comparison names PUSHFD, and the kernel finds interrupts enabled where it has disabled them: a BUG."""
    image = KERNEL_686.image(KERNEL_686.ram_disk(tmp_path / "initrd"))
    comparison = compare(
        image, "trap-and-emulate", cpu=KERNEL_686.cpu, memory=KERNEL_686.memory, max_instructions=2_600_000_000
    )
    verdict, run = comparison.verdicts["trap-and-emulate"], comparison.runs[-1]
    assert verdict.equivalence is Equivalence.DIVERGED
    parting = verdict.first_divergence
    assert parting is not None
    assert parting.mnemonic == "pushfd"
    assert (int(parting.reference_value), int(parting.value)) == (0x46, 0x246)  # IF
    assert "PUSHFD is sensitive and not privileged" in parting.explanation
    said = without_time(lines(run.console_bytes))
    assert any(line.startswith("kernel BUG at ") for line in said)
    assert "Kernel panic - not syncing: Fatal exception in interrupt" in said
    # Its stack shares a page with its GDT while it unpacks itself; the price of tracing is not one exit a store.
    assert run.counted.vm_exits["DESCRIPTOR_TABLE_WRITE"] < 100


@pytest.mark.long
@KERNELS
@STRATEGIES
def test_the_16_bit_boot_protocol_leads_to_the_same_shell(linux: Linux, strategy: str, tmp_path: Path) -> None:
    ram_disk = linux.ram_disk(tmp_path / "initrd")
    image = linux.image(ram_disk, boot=BootKind.LINUX_16)
    session = Session(image, strategy, linux.cpu, linux.memory)
    boot = lines(session.run_until(PROMPT))
    assert not [line for line in boot if re.search(r"WARNING:|BUG:|Oops|Call Trace|unchecked MSR", line)]
    assert session.command("cat /proc/cmdline") == ["console=ttyS0"]
    assert session.last_command("poweroff -f")[0] is Outcome.FINISHED


MISSES = {
    CLOUD: "This kernel requires an x86-64 CPU, but only detected an i586 CPU.",
    KERNEL_686: "This kernel requires the following features not present on the CPU:",
}


@KERNELS
@STRATEGIES
def test_a_kernel_says_what_it_misses_in_the_processor(linux: Linux, strategy: str, tmp_path: Path) -> None:
    session = Session(linux.image(linux.ram_disk(tmp_path / "initrd")), strategy, "pentium", linux.memory)
    shown = session.run_until_screen(lambda text: "Unable to boot" in text, 100_000)
    assert shown.splitlines()[0].rstrip() == MISSES[linux]


def test_the_first_lines_come_at_once(tmp_path: Path) -> None:
    ram_disk = CLOUD.ram_disk(tmp_path / "initrd")
    session = Session(CLOUD.image(ram_disk, "console=ttyS0 earlyprintk=serial,ttyS0"), "vtx", CLOUD.cpu, CLOUD.memory)
    said = session.run_until(b"BIOS-provided physical RAM map")
    assert b"Linux version 6.1." in said
