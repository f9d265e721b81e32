"""The machine that the figures belong to, and the versions of what ran on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from timeit import Timer

from benchmarks import bochs, qemu


def describe() -> dict[str, str]:
    """Processor, system, Python, and the versions of everything compared."""
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} of them",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "python": f"{platform.python_version()}, {_property_nanoseconds():.0f} ns to read a property",
        "simvirt": version("simvirt"),
        "unicorn": version("unicorn"),
    }
    facts["revision"] = (
        _first_line(["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]) or "unknown"
    )
    facts["qemu"] = _version_in(_first_line([qemu.PROGRAM, "--version"])) or "not installed"
    facts["bochs"] = _version_in(bochs.version()) or "not installed"
    if hasattr(os, "getloadavg"):
        facts["load at start"] = f"{os.getloadavg()[0]:.2f}"
    return facts


def _property_nanoseconds() -> float:
    """How quick this Python is: one compiled without profile-guided optimization takes half as long again.

    What Python handles is made of such steps, so round trips on two machines compare by it.
    """
    number = 100_000
    run = Timer("thing.value", "thing = Thing()", globals={"Thing": _Thing}).repeat(5, number)
    return min(run) / number * 1e9


class _Thing:
    __slots__ = ()

    @property
    def value(self) -> int:
        return 1


def _processor() -> str:
    """The processor's name as it gives it itself."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def _first_line(command: list[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    lines = done.stdout.splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def _version_in(text: str | None) -> str | None:
    match = re.search(r"\d+\.\d+[.\d]*", text or "")
    return match[0] if match else None
