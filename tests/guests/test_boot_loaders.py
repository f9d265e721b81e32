"""Boot loaders of Debian's on a disk: GRUB and SYSLINUX, which use more of a BIOS than most boot sectors."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from simvirt.guests.image import ImageKind
from simvirt.guests.recognise import recognise
from simvirt.machine.machine import Outcome
from simvirt.observe.comparison import Equivalence
from simvirt.observe.session import compare, run

GRUB: Final = Path("/usr/lib/grub/i386-pc")
SYSLINUX: Final = Path("/usr/lib/syslinux/modules/bios")
MAP_OF_64_MIB: Final = (
    (0x0, 0x9FC00, "available"),
    (0x9FC00, 0x400, "reserved"),
    (0xF0000, 0x10000, "reserved"),
    (0x100000, 0x3F00000, "available"),
)


@pytest.fixture(scope="module")
def grub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk that holds GRUB, and commands for it."""
    if shutil.which("grub-mkimage") is None or not GRUB.is_dir():
        pytest.skip("grub-common and grub-pc-bin are not installed")
    folder = tmp_path_factory.mktemp("grub")
    commands = folder / "commands"
    commands.write_text(
        "serial --unit=0 --speed=115200\nterminal_input serial\nterminal_output serial\n"
        "echo hello from GRUB\nls\nlsmmap\ndate\nread answer\necho you said $answer\nhalt\n"
    )
    modules = ("biosdisk", "ls", "echo", "serial", "terminal", "halt", "read", "lsmmap", "date", "normal")
    core, disk = folder / "core.img", folder / "grub.img"
    made = ["grub-mkimage", "-O", "i386-pc", "-c", str(commands), "-p", "(hd0)/boot", "-o", str(core), *modules]
    subprocess.run(made, check=True, capture_output=True)
    disk.write_bytes(((GRUB / "boot.img").read_bytes() + core.read_bytes()).ljust(1 << 20, b"\0"))
    return disk


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
def test_grub(grub: Path, strategy: str) -> None:
    image = recognise(grub)
    assert image.kind is ImageKind.DISK  # though GRUB in it has a multiboot header
    result = run(image, strategy, input="nothing\r", max_instructions=200_000_000)
    assert result.outcome is Outcome.FINISHED  # by ACPI
    assert result.screen is not None
    assert "Welcome to GRUB!" in result.screen.text
    for line in ("hello from GRUB", "(hd0)", "2026-01-01 00:00:00 Thursday", "you said nothing"):
        assert line in result.console
    for base, length, kind in MAP_OF_64_MIB:
        assert f"base_addr = {base:#x}, length = {length:#x}, {kind} RAM" in result.console


@pytest.fixture(scope="module")
def syslinux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with a FAT file system, SYSLINUX, and its tool that prints the BIOS's memory map."""
    for program in ("syslinux", "mkfs.fat", "mcopy"):
        if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            pytest.skip(f"{program} is not installed")
    folder = tmp_path_factory.mktemp("syslinux")
    disk, settings = folder / "disk.img", folder / "syslinux.cfg"
    settings.write_text("SERIAL 0 115200\nPROMPT 1\nDEFAULT meminfo\nLABEL meminfo\n  KERNEL meminfo.c32\n")
    disk.write_bytes(bytes(4 << 20))
    modules = [str(SYSLINUX / f"{name}.c32") for name in ("meminfo", "libcom32", "ldlinux")]
    for command in (
        ["/usr/sbin/mkfs.fat", "-F", "12", str(disk)],
        ["mcopy", "-i", str(disk), str(settings), *modules, "::"],
        ["syslinux", "--install", str(disk)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return disk


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
def test_syslinux(syslinux: Path, strategy: str) -> None:
    result = run(recognise(syslinux), strategy, input="\r", max_instructions=30_000_000)
    assert result.outcome is Outcome.LIMIT  # it waits at its prompt
    assert "SYSLINUX 6." in result.console
    assert "DOS RAM: 639K (0x9fc00)  INT 12h: 639K (0x9fc00)" in result.console
    assert "INT 15 88: 0xfc00 (64512K)  INT 15 E801: 0x3c00 (15360K) 0x0300 (49152K)" in result.console
    for base, length, kind in MAP_OF_64_MIB:
        number = {"available": 1, "reserved": 2}[kind]
        assert f"{base:016x}x {length:016x}x {base + length:016x}x {number}" in result.console


@pytest.mark.long
def test_grub_is_equivalent_under_vtx(grub: Path) -> None:
    comparison = compare(recognise(grub), ["vtx"], input="nothing\r", max_instructions=60_000_000)
    assert comparison.verdicts["vtx"].equivalence is Equivalence.EQUIVALENT
