"""Boot sectors and disk images: the firmware's services, on this PC and on QEMU's, and what is no such image."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from simvirt.errors import ImageError, UnsupportedError, UsageError
from simvirt.guests import disk_boot
from simvirt.guests.image import BootOptions, BootProtocol, ImageKind
from simvirt.guests.recognise import BootKind, recognise
from simvirt.machine.disk import DiskOption
from simvirt.machine.machine import Outcome
from simvirt.machine.pc import FIRMWARE_PLACES, FIRMWARE_SIZE
from simvirt.observe.comparison import Equivalence
from simvirt.observe.session import compare, run
from tests.guests import qemu
from tests.guests.refresh_firmware import build_firmware, data_areas

SERVICES: Final = Path(__file__).parent / "boot_sectors" / "services.S"
DISKETTE, FIXED_DISK = 2880, 20 * 16 * 63
"""Sectors: 1.44 MB; and 20 cylinders of 16 heads with 63 sectors on the track."""
ANSWERS: Final = {
    DISKETTE: "boot 4F12 0101 sector2 027F ticks sector2 ",
    FIXED_DISK: "boot 133F 0F01 sector2 027F ticks sector2 ",
}
"""INT 13h AH = 08h returns the last cylinder (CH), the sectors on a track (CL), the last head (DH), the drives (DL)."""


@pytest.fixture(scope="module")
def boot_sector(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Sectors 1 and 2 of a disk."""
    pytest.importorskip("ziglang")
    folder = tmp_path_factory.mktemp("boot-sector")
    zig = (sys.executable, "-m", "ziglang")
    command = [*zig, "cc", "-target", "x86-freestanding-none", "-c", str(SERVICES), "-o", str(folder / "o")]
    subprocess.run(command, check=True)
    place = ("--image-base=0x7000", "-Ttext=0x7c00", "--oformat=binary")
    linker = [*zig, "ld.lld", "-m", "elf_i386", *place, str(folder / "o"), "-o", str(folder / "bin")]
    subprocess.run(linker, check=True)
    return (folder / "bin").read_bytes()


@pytest.fixture(params=[DISKETTE, FIXED_DISK], ids=["diskette", "fixed disk"])
def disk(request: pytest.FixtureRequest, boot_sector: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(boot_sector.ljust(request.param * 512, b"\0"))
    return path


def answers(disk: Path) -> str:
    return ANSWERS[disk.stat().st_size // 512]


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
def test_a_boot_sector_is_served(disk: Path, strategy: str) -> None:
    image = recognise(disk)
    assert (image.kind, image.boot) == (ImageKind.DISK, BootProtocol.FIRMWARE)
    result = run(image, strategy)
    assert (result.outcome, result.guest_status) == (Outcome.FINISHED, 0)
    assert result.console == answers(disk)


def test_the_strategies_agree(disk: Path) -> None:
    comparison = compare(recognise(disk), ["vtx", "trap-and-emulate"])
    assert comparison.verdicts["vtx"].equivalence is Equivalence.EQUIVALENT
    assert comparison.verdicts["trap-and-emulate"].equivalence is Equivalence.NOT_APPLICABLE


@pytest.mark.skipif(not qemu.is_installed(), reason="qemu-system-i386 is not installed")
@pytest.mark.parametrize("firmware", ["ours", "QEMU's"])
def test_qemu_runs_it_alike(disk: Path, firmware: str, tmp_path: Path) -> None:
    """Our firmware on other hardware, and the same boot sector with another firmware."""
    rom = tmp_path / "firmware.bin"
    rom.write_bytes(disk_boot.firmware())
    diskette = disk.stat().st_size // 512 == DISKETTE
    place = "floppy" if diskette and firmware != "ours" else "ide"
    command = [qemu.EMULATOR, "-cpu", "qemu32,-apic", "-m", "64", "-display", "none", "-serial", "stdio", "-monitor"]
    command += ["none", "-nic", "none", "-drive", f"file={disk},format=raw,if={place}"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    command += ["-bios", str(rom)] if firmware == "ours" else []
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    wanted = answers(disk)
    if firmware != "ours" and not diskette:
        wanted = wanted.replace("133F", "123F")  # it keeps the last cylinder to itself, for tests of the drive
    assert done.stdout.decode("ascii") == wanted


def test_the_firmware_is_what_its_sources_say() -> None:
    pytest.importorskip("ziglang")
    rom, end = build_firmware()
    assert rom == disk_boot.firmware()
    *_, low, extended = disk_boot.firmware_left_behind()
    assert low.data + extended.data == data_areas(rom, end)


def test_the_firmware_answers_below_1_mib_and_below_4_gib_and_cannot_be_written(disk: Path) -> None:
    image = recognise(disk)
    assert len(disk_boot.firmware()) == FIRMWARE_SIZE
    assert image.entry in range(FIRMWARE_PLACES[1], FIRMWARE_PLACES[1] + FIRMWARE_SIZE)
    assert image.segments[0].gpa == FIRMWARE_PLACES[0]


def test_the_image_is_changed_on_purpose_only(tmp_path: Path) -> None:
    """INT 13h AH = 03h writes the second sector over the third."""
    write = bytes.fromhex("31c0 8ed8 8ec0 bb007c b80103 b90300 b600 cd13 30e4 66 31c0 ba f400 66ef f4".replace(" ", ""))
    path = tmp_path / "writes.img"
    contents = write.ljust(510, b"\0") + b"\x55\xaa" + bytes(2879 * 512)
    path.write_bytes(contents)
    assert run(recognise(path)).guest_status == 0
    assert path.read_bytes() == contents
    assert run(recognise(path), disk=DiskOption(path, writable=True)).guest_status == 0
    assert path.read_bytes()[1024:1536] == contents[:512]


def test_a_file_without_whole_sectors_boots(boot_sector: bytes, tmp_path: Path) -> None:
    path = tmp_path / "short.img"
    path.write_bytes(boot_sector[: 512 + 100])
    assert run(recognise(path)).console.startswith("boot ")


def test_a_disk_that_is_no_boot_disk_says_so_on_its_screen(tmp_path: Path) -> None:
    path = tmp_path / "blank.img"
    path.write_bytes(bytes(510) + b"\x55\xaa" + bytes(512))
    image = recognise(path)
    path.write_bytes(bytes(1024))  # gone since
    result = run(image, max_instructions=1_000_000)
    assert result.screen is not None
    assert "No bootable disk." in result.screen.text


def test_wrong_input(disk: Path, tmp_path: Path) -> None:
    blank = tmp_path / "blank.img"
    blank.write_bytes(bytes(1024))
    with pytest.raises(ImageError, match="no boot sector"):
        recognise(blank, boot=BootKind.DISK)
    with pytest.raises(ImageError, match="without a file"):
        recognise(disk.read_bytes(), boot=BootKind.DISK)
    with pytest.raises(UnsupportedError, match="real-address mode"):
        run(recognise(disk), "trap-and-emulate")
    with pytest.raises(UsageError, match="one disk"):
        run(recognise(disk), disk=DiskOption(blank))
    with pytest.raises(ImageError, match="leave out --append"):
        run(replace(recognise(disk), options=BootOptions("quiet")))
    with pytest.raises(ImageError, match="memory ends"):
        run(recognise(disk), memory=512 << 10)
