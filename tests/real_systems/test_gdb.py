"""A stock gdb at Debian's kernel with the kernel's own symbols: break, watch, and back."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.real_systems import CLOUD, needs_real_systems

pytestmark = [
    needs_real_systems, pytest.mark.long, pytest.mark.xdist_group("real systems"), pytest.mark.timeout(1800),
    pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb"),
]  # fmt: skip

SCRIPT = """
break start_kernel
continue
echo [at start_kernel]\\n
x/i $pc
watch *(unsigned long *)&jiffies
continue
echo [jiffies]\\n
print *(unsigned long *)&jiffies
info symbol $pc
continue
print *(unsigned long *)&jiffies
reverse-continue
print *(unsigned long *)&jiffies
delete
reverse-stepi
break start_kernel
reverse-continue
echo [back at start_kernel]\\n
info symbol $pc
detach
"""
_SHF_ALLOC_EXEC, _STT_FUNC, _STT_OBJECT = 6, 2, 1


def symbol_file(symbols_of_kernel: Path, path: Path) -> Path:
    """An ELF file with a kernel's symbols, as nm prints them, all in one section without contents, as gdb wants it."""
    names, symbols = bytearray(b"\0"), bytearray(24)
    base = 0xFFFF_FFFF_8100_0000
    for line in symbols_of_kernel.read_text().splitlines():
        address, kind, name = line.split()[:3]
        if kind in "TtDdBbRr" and int(address, 16) >= base:
            info = 1 << 4 | (_STT_FUNC if kind in "Tt" else _STT_OBJECT)
            symbols += struct.pack("<IBBHQQ", len(names), info, 0, 1, int(address, 16), 0)
            names += name.encode() + b"\0"
    sections = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    at = 64
    parts = [(bytes(symbols), 2), (bytes(names), 3), (sections, 3)]
    headers = [bytes(64), struct.pack("<IIQQQQIIQQ", 1, 8, _SHF_ALLOC_EXEC, base, at, 0x400_0000, 0, 0, 16, 0)]
    for (data, section), name_at in zip(parts, (7, 15, 23), strict=True):
        link, entry = (3, 24) if section == 2 else (0, 0)
        headers.append(struct.pack("<IIQQQQIIQQ", name_at, section, 0, 0, at, len(data), link, entry // 24, 8, entry))
        at += len(data)
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base, 0, at, 0, 64, 0, 0, 64, len(headers), 4)
    path.write_bytes(identification + head + b"".join(data for data, _ in parts) + b"".join(headers))
    return path


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
def test_break_watch_and_back_in_a_kernel(strategy: str, tmp_path: Path) -> None:
    ram_disk = CLOUD.ram_disk(tmp_path / "initrd")
    symbols = symbol_file(CLOUD.symbols(), tmp_path / "symbols")
    command = [
        sys.executable, "-m", "simvirt", "gdb", str(CLOUD.kernel), "--stdio", "--strategy", strategy,
        "--boot", "linux-64", "--registers", "x86-64",
        "--append", "'console=ttyS0 nokaslr'", "--initrd", str(ram_disk), "--memory", "128M", "--cpu", CLOUD.cpu,
    ]  # fmt: skip
    script = tmp_path / "script"
    head = "set pagination off\nset confirm off\nset width 0\n"
    script.write_text(f"{head}target remote | {' '.join(command)}\n{SCRIPT}")
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-x", str(script), str(symbols)],
        capture_output=True, text=True, timeout=1500, cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert "Breakpoint 1, " in text, text
    assert "start_kernel" in text.split("[at start_kernel]")[0], text
    values = [int(value) for value in re.findall(r"^\$\d+ = (\d+)$", text, re.MULTILINE)]
    assert len(values) == 3, text
    assert values[1] == values[0] + 1, text
    assert values[2] == values[0], text
    assert "start_kernel in section .text" in text.split("[back at start_kernel]")[1], text
