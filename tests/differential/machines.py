"""The two machines that run the bench: simvirt's, and QEMU's, whose memory is a file that both sides see."""

from __future__ import annotations

import mmap
import shutil
import subprocess
import time
from typing import TYPE_CHECKING, Final

from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import find_cpu_model
from tests.differential.layout import LOW_PARAMETERS, MEMORY_SIZE, PARAMETERS, guest_image
from tests.support.assembler import d16, d32

if TYPE_CHECKING:
    from pathlib import Path

QEMU: Final = "qemu-system-x86_64"
CPU: Final = (
    "qemu64,vendor=GenuineIntel,-svm,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq,+movbe,+abm,+rdtscp,"
    "+pdpe1gb,+bmi1,+bmi2,+adx,+fsgsbase,+smep,+smap,+umip,+syscall,+nx,-3dnow,-3dnowext,-sse4a,-hypervisor,-xsave,"
    "-rdrand,-apic,-x2apic,-tsc-deadline,-arat,-cmp_legacy,-pku,-mpx,-clwb,-clflushopt,-erms,-monitor"
)
"""QEMU's processor with the features of simvirt's model "x86-64"."""
_LIMIT: Final = 50_000_000
"""Instructions without a step after which simvirt is taken to be lost: a case that clears TF may loop for ever."""
_ROM_SIZE: Final = 0x10000
_ROM_BASE: Final = 0x1_0000_0000 - _ROM_SIZE


def qemu_is_installed() -> bool:
    """Is the other machine there?"""
    return shutil.which(QEMU) is not None


FINISHED: Final = frozenset({"finished", "status 1"})
"""How a run ends that has come to its last case."""
STALL: Final = 20.0
"""Seconds without a step after which QEMU is taken to be lost: halted, or in a loop of its own."""


def run_here(memory: dict[int, bytes], entry: int, strategy: str = "bare-metal") -> tuple[bytes, str]:
    """Run the bench; its memory afterwards and how the run ended."""
    config = MachineConfig(MEMORY_SIZE, find_cpu_model("x86-64"))
    virtualized = find(strategy).build(guest_image(memory, entry), config)
    machine = virtualized.machine
    host = machine.space.host(Gpa(0))
    assert host is not None
    view = machine.memory.view[host : host + MEMORY_SIZE]
    outcome, progress, limit = None, b"", 0
    while outcome is None and progress != (progress := _progress(view)):
        limit += _LIMIT
        outcome = machine.run_to(limit)
    return bytes(view), "stalled" if outcome is None else outcome.value


def _progress(memory: memoryview | mmap.mmap) -> bytes:
    """What the bench keeps of how far it is."""
    return b"".join(bytes(memory[parameters : parameters + 0x18]) for parameters in (PARAMETERS, LOW_PARAMETERS))


def boot_rom(entry: int) -> bytes:
    """From the reset vector to `entry`, in the state that simvirt's boot protocol gives."""
    rom = bytearray(b"\xf4" * _ROM_SIZE)
    flat_code, flat_data = bytes.fromhex("ffff0000009bcf00"), bytes.fromhex("ffff00000093cf00")
    rom[0x100:0x118] = bytes(8) + flat_code + flat_data
    rom[0x120:0x126] = d16(0x17) + d32(_ROM_BASE + 0x100)
    start = bytes.fromhex("fa 662e0f01162001 66b811000000 0f22c0 66ea") + d32(_ROM_BASE + 0x40) + d16(8)
    rom[0x00 : len(start)] = start
    flat = bytes.fromhex("66b81000 8ed8 8ec0 8ee0 8ee8 8ed0 31c0 31db 31c9 31d2 31f6 31ff 31ed")
    flat += b"\xbc" + d32(0x80000) + b"\xea" + d32(entry) + d16(8)
    rom[0x40 : 0x40 + len(flat)] = flat
    rom[0xFFF0:0xFFF3] = b"\xe9" + d16(0x10000 - 0xFFF3)
    return bytes(rom)


def run_qemu(memory: dict[int, bytes], entry: int, folder: Path) -> tuple[bytes, str]:
    """Run the bench under QEMU; its memory afterwards and how the run ended."""
    rom, ram = folder / "boot.rom", folder / "ram"
    rom.write_bytes(boot_rom(entry))
    with ram.open("wb") as file:
        file.truncate(MEMORY_SIZE)
        for address, data in memory.items():
            file.seek(address)
            file.write(data)
    command = [QEMU, "-accel", "tcg", "-cpu", CPU, "-m", str(MEMORY_SIZE >> 20), "-bios", str(rom)]
    command += ["-object", f"memory-backend-file,id=ram,mem-path={ram},share=on,size={MEMORY_SIZE}"]
    command += ["-machine", "pc,hpet=off,memory-backend=ram", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    command += ["-nodefaults", "-display", "none", "-monitor", "none", "-serial", "null", "-nic", "none", "-no-reboot"]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, text=True, stdin=null, stdout=null, stderr=subprocess.PIPE) as process:
        try:
            ended = _watch(process, ram)
        finally:
            process.kill()
    data = ram.read_bytes()
    ram.unlink()
    return data, ended


def _watch(process: subprocess.Popen[str], ram: Path) -> str:
    """Wait until it ends, or has made no step for a while."""
    with ram.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        progress, since = b"", time.monotonic()
        while process.poll() is None:
            now = _progress(view)
            if now != progress:
                progress, since = now, time.monotonic()
            elif time.monotonic() - since > STALL:
                return "stalled"
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    assert process.stderr is not None
    return f"status {process.returncode}{process.stderr.read()}"
