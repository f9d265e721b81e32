"""Building the runner from its source: only for who changes it, since the built one is part of the package."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

RUNNER: Final = Path(__file__).parent / "runner"
CHUNK_SECTORS: Final = 64
DISK_CHUNKS: Final = 13
"""Of 32 KiB each: from 30000h to 98000h."""

_ZIG: Final = (sys.executable, "-m", "ziglang")
_TARGETS: Final = {
    32: ("-target", "x86-freestanding-none", "-mcpu=pentium"),
    64: ("-target", "x86_64-freestanding-none", "-mcpu=x86_64", "-mgeneral-regs-only", "-mno-red-zone"),
}
_FLAGS: Final = (
    "-Os", "-std=c11", "-ffreestanding", "-fno-builtin",
    "-fno-pic", "-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-sanitize=all", "-fomit-frame-pointer",
    "-nostdlib", "-static", "-Wl,--build-id=none", "-g0",
)  # fmt: skip


NAMES: Final = ("boot.bin", "runner.bin", "runner64.bin")


def build() -> tuple[bytes, ...]:
    """The boot sector, the runner of 32-bit code and that of 64-bit code, by the ziglang package."""
    with tempfile.TemporaryDirectory() as directory:
        there = Path(directory)
        defines = (f"-DCHUNK_SECTORS={CHUNK_SECTORS}", f"-DDISK_CHUNKS={DISK_CHUNKS}")
        return (
            _link(there, "boot", ("boot.S",), defines),
            _link(there, "runner", ("entry.S", "runner.c")),
            _link(there, "runner", ("entry64.S", "runner.c"), bits=64),
        )


def _link(there: Path, name: str, sources: tuple[str, ...], more: tuple[str, ...] = (), *, bits: int = 32) -> bytes:
    elf, flat = there / f"{name}.elf", there / f"{name}.bin"
    files = [str(RUNNER / source) for source in sources]
    script = f"-Wl,-T,{RUNNER / f'{name}.ld'}"
    environment = {"ZIG_LOCAL_CACHE_DIR": str(there), "ZIG_GLOBAL_CACHE_DIR": str(there), "PATH": ""}
    subprocess.run(
        [*_ZIG, "cc", *_TARGETS[bits], *_FLAGS, *more, script, *files, "-o", str(elf)], check=True, env=environment
    )
    subprocess.run([*_ZIG, "objcopy", "-O", "binary", str(elf), str(flat)], check=True, env=environment)
    return flat.read_bytes()


if __name__ == "__main__":
    for _name, _content in zip(NAMES, build(), strict=True):
        (RUNNER / _name).write_bytes(_content)
