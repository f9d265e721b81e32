"""A disk that its guest changes on purpose, and a run that Ctrl-C ends: its file holds whole sectors."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.assembler import Assembler, d16, d32
from tests.support.console_guests import ORIGIN, out

BUFFER, SECTORS = 0x8000, 64


def writing_guest() -> bytes:
    """Writes all sectors in turn, over and over, each full of the number of the pass."""
    a = Assembler(ORIGIN)
    a.emit("fc b3 00")  # cld; mov bl, 0
    a.label("pass")
    a.emit("fe c3 88 d8 bf", d32(BUFFER), b"\xb9", d32(512)).emit("f3 aa b7 00")  # inc bl; fill; mov bh, 0
    a.label("sector")
    a.emit(out(0x1F2, 1), b"\x66\xba" + d16(0x1F3)).emit("88 f8 ee")  # sector number in BH
    a.emit(out(0x1F4, 0), out(0x1F5, 0), out(0x1F6, 0xE0), out(0x1F7, 0x30))
    a.label("ready")
    a.emit("ec a8 80")
    a.jump("75", "ready", size=1)
    a.emit(b"\xbe", d32(BUFFER), b"\x66\xba" + d16(0x1F0), b"\xb9", d32(256)).emit("66 f3 6f")
    a.emit(b"\x66\xba" + d16(0x1F7))
    a.label("written")
    a.emit("ec a8 80")
    a.jump("75", "written", size=1)
    a.emit("fe c7 80 ff", bytes([SECTORS]))
    a.jump("75", "sector", size=1)
    a.jump("eb", "pass", size=1)
    return a.finish()


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
def test_every_sector_is_whole_and_the_newest_come_first(strategy: str, tmp_path: Path, repository: Path) -> None:
    guest, disk = tmp_path / "guest.bin", tmp_path / "disk"
    guest.write_bytes(writing_guest())
    disk.write_bytes(bytes(512 * SECTORS))
    command = [sys.executable, "-m", "simvirt", "run", str(guest), "--strategy", strategy, "--memory", "4M"]
    command += ["--disk", f"{disk}:rw"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=repository) as process:
        deadline = time.monotonic() + 60
        while disk.read_bytes()[-1] < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    content = disk.read_bytes()
    assert len(content) == 512 * SECTORS
    sectors = [set(content[at : at + 512]) for at in range(0, len(content), 512)]
    assert all(len(values) == 1 for values in sectors)
    passes = [values.pop() for values in sectors]
    newest = passes[0]
    of_newest = passes.count(newest)
    assert passes == [newest] * of_newest + [newest - 1 & 0xFF] * (SECTORS - of_newest)
