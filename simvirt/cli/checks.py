"""What `simvirt doctor` looks at: this machine, the engine, and the tools that other commands can use.

Each check is a function that gives rows; whatever is wrong, it gives a row and raises nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.errors import SimvirtError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OLDEST_PYTHON: Final = (3, 11)
_MEMORY_BYTES: Final = 1 << 20
_TOOL_SECONDS: Final = 20


class State(Enum):
    """How a check came out."""

    WORKS = "works"
    BROKEN = "broken"
    """Simvirt cannot run guests like this."""
    ABSENT = "absent"
    """Something optional that is not there."""


@dataclass(frozen=True, slots=True)
class Check:
    """One row: what was looked at, what was found, and how to get what is missing."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def all_checks() -> Iterator[Check]:
    """All checks, in the order in which one needs the other."""
    for examine in _CHECKS:
        try:
            yield from examine()
        except SimvirtError as error:
            yield Check(_title(examine), State.BROKEN, str(error))
        except Exception as error:  # noqa: BLE001 - a doctor reports what it meets, whatever that is
            yield Check(_title(examine), State.BROKEN, f"unexpected {type(error).__name__}: {error}", "report this")


def _title(examine: Callable[[], Iterator[Check]]) -> str:
    return examine.__name__.strip("_").replace("_", " ")


def _python() -> Iterator[Check]:
    state = State.WORKS if sys.version_info >= _OLDEST_PYTHON else State.BROKEN
    yield Check(
        "python", state, f"{platform.python_version()} ({sys.executable})", "simvirt needs Python 3.11 or newer"
    )


def _platform() -> Iterator[Check]:
    from simvirt.machine import platforms

    yield Check("platform", State.WORKS, f"{platforms.current().name}, verified")


def _unicorn() -> Iterator[Check]:
    from simvirt.machine.platforms import UNICORN_VERSION

    remedy = f"pip install unicorn=={UNICORN_VERSION}"
    try:
        version = importlib.metadata.version("unicorn")
    except importlib.metadata.PackageNotFoundError:
        yield Check("unicorn", State.BROKEN, "not installed", remedy)
        return
    if version == UNICORN_VERSION:
        yield Check("unicorn", State.WORKS, version)
    else:
        yield Check("unicorn", State.BROKEN, f"{version}; simvirt is verified with {UNICORN_VERSION} only", remedy)


def _native_callbacks() -> Iterator[Check]:
    from simvirt.machine.engine import Engine
    from simvirt.machine.memory import HostMemory

    Engine(HostMemory(_MEMORY_BYTES))
    yield Check("native callbacks", State.WORKS, "loaded, and of this version")


def _self_test() -> Iterator[Check]:
    if importlib.util.find_spec("simvirt.machine.self_test") is None:
        return
    self_test = importlib.import_module("simvirt.machine.self_test")
    for name, ok, detail in self_test.run():
        remedy = "" if ok else "the engine does not do here what simvirt relies on: report this with your platform"
        yield Check(f"self-test: {name}", State.WORKS if ok else State.BROKEN, detail, remedy)


def _guests() -> Iterator[Check]:
    from simvirt.guests.catalogue import guests

    for guest in guests():
        guest.image()
    yield Check("guests", State.WORKS, f"{len(guests())} images, each with the digest that the catalogue records")


def _instruction_sets() -> Iterator[Check]:
    from simvirt.data import isa_directory

    yield Check("instruction sets", State.WORKS, str(isa_directory()))


def _building() -> Iterator[Check]:
    from simvirt.guests.build import Toolchain, available, ziglang_version

    found = {
        Toolchain.ZIGLANG: f"ziglang {ziglang_version()}",
        Toolchain.GCC: "gcc and binutils",
    }
    toolchains = available()
    if toolchains:
        yield Check("building guests", State.WORKS, ", ".join(found[toolchain] for toolchain in toolchains))
    else:
        yield Check("building guests", State.ABSENT, "no compiler for the 386", "pip install 'simvirt[build]'")


def _tools() -> Iterator[Check]:
    for name, purpose in (("gdb", "debugging"), ("qemu-system-i386", "comparison"), ("bochs", "comparison")):
        path = shutil.which(name)
        package = {"qemu-system-i386": "qemu-system-x86"}.get(name, name)
        if path is None:
            yield Check(
                name, State.ABSENT, f"for {purpose} only", f"apt install {package}, or your system's counterpart"
            )
        else:
            yield Check(name, State.WORKS, f"{_version(path)} ({path})")


def _version(path: str) -> str:
    """The first number of the form 1.2 that the program prints of itself."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, errors="replace", check=False, timeout=_TOOL_SECONDS,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "does not start"
    found = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
    return found[0] if found else "version unknown"


def _extras() -> Iterator[Check]:
    """The optional dependencies by the extra that brings them, as the installed package's metadata lists them."""
    try:
        metadata = importlib.metadata.metadata("simvirt")
    except importlib.metadata.PackageNotFoundError:
        yield Check("extras", State.ABSENT, "simvirt runs from its source tree", "pip install -e .")
        return
    requirements = metadata.get_all("Requires-Dist") or []
    for extra in metadata.get_all("Provides-Extra") or []:
        marker = re.compile(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]")
        names = [found[0] for line in requirements if marker.search(line) and (found := re.match(r"[\w.-]+", line))]
        missing = [name for name in names if not _installed(name)]
        if missing:
            yield Check(
                f"extra {extra}", State.ABSENT, f"missing: {', '.join(missing)}", f"pip install 'simvirt[{extra}]'"
            )
        else:
            yield Check(f"extra {extra}", State.WORKS, "installed")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


_CHECKS: Final[tuple[Callable[[], Iterator[Check]], ...]] = (
    _python,
    _platform,
    _unicorn,
    _native_callbacks,
    _self_test,
    _guests,
    _instruction_sets,
    _building,
    _tools,
    _extras,
)
