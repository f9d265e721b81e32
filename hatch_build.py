"""Compiles the native callbacks when simvirt is built or installed.

::

    simvirt/machine/native/*.c ──ziglang's C compiler──> simvirt/machine/native/engine.so   (.dylib, .dll)

The compiler comes as a Python package, so that no C compiler needs to be installed and every build of one platform
gives the same bytes. An editable install compiles into the source tree, where git ignores the library;
`build/native.stamp` remembers what it was made of, and nothing is compiled again before the source, the flags, the
compiler or the library change. `python hatch_build.py` does the same by hand. docs/decisions/0001-native-callbacks.md
tells why this is C.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT: Final = Path(__file__).resolve().parent
NATIVE: Final = Path("simvirt", "machine", "native")
STAMP: Final = Path("build", "native.stamp")
FLAGS: Final = ("-O2", "-fomit-frame-pointer", "-g0", "-s", "-shared", "-std=c11", "-Wall", "-Wextra", "-Werror")
COMPILER_TIMEOUT: Final = 600  # seconds; the first build for Windows compiles a C library and takes a minute and a half


class Target(NamedTuple):  # no dataclass: hatchling runs this file without making it a module that one could look up
    """A platform to compile for: the compiler's name for it, the wheel's, and the library's file name."""

    triple: str
    wheel_platform: str
    library: str
    flags: tuple[str, ...] = ("-fPIC",)


TARGETS: Final = {  # by (sys.platform, machine); which of them is verified stands in README.md
    ("linux", "x86_64"): Target("x86_64-linux-gnu.2.28", "manylinux_2_28_x86_64", "engine.so"),
    ("linux", "aarch64"): Target("aarch64-linux-gnu.2.28", "manylinux_2_28_aarch64", "engine.so"),
    ("darwin", "x86_64"): Target("x86_64-macos.11.0", "macosx_11_0_x86_64", "engine.dylib"),
    ("darwin", "arm64"): Target("aarch64-macos.11.0", "macosx_11_0_arm64", "engine.dylib"),
    ("win32", "amd64"): Target("x86_64-windows-gnu", "win_amd64", "engine.dll", flags=()),
}


class NativeBuildError(RuntimeError):
    """The native callbacks could not be compiled; the message says why and what to do."""


def host_target() -> Target:
    """The target of this machine.

    Raises:
        NativeBuildError: simvirt cannot be built for this platform.
    """
    machine = platform.machine().lower()
    target = TARGETS.get((sys.platform, machine))
    if target is None:
        known = ", ".join(f"{system} {cpu}" for system, cpu in TARGETS)
        raise NativeBuildError(
            f"simvirt's native callbacks cannot be built for {sys.platform} {machine}: known platforms are {known}."
        )
    if sys.platform == "linux" and platform.libc_ver(sys.executable)[0] != "glibc":
        raise NativeBuildError("simvirt's native callbacks are built for glibc; this Python runs on another C library.")
    return target


def compile_native(root: Path, target: Target) -> Path:
    """Compiles the callbacks below `root` unless they are up to date, and returns the library's path.

    Raises:
        NativeBuildError: the compiler is missing, or it refused the source.
    """
    library, stamp = root / NATIVE / target.library, root / STAMP
    sources, headers = sorted((root / NATIVE).glob("*.c")), sorted((root / NATIVE).glob("*.h"))
    try:
        compiler = importlib.metadata.version("ziglang")
    except importlib.metadata.PackageNotFoundError:
        raise NativeBuildError(
            "simvirt's native callbacks need the C compiler of the Python package 'ziglang', which is not installed "
            "here: pip install ziglang (an isolated build installs it by itself)."
        ) from None
    arguments = ["-m", "ziglang", "cc", *FLAGS, *target.flags, "-target", target.triple]
    made_of = _digest(*(file.read_bytes() for file in sources + headers), repr((arguments, compiler)).encode())
    if library.is_file() and stamp.is_file() and stamp.read_text() == _stamp(made_of, library):
        return library
    # Written beside and moved into place: a running simvirt keeps the library that it has mapped.
    fresh = library.with_name("fresh-" + library.name)
    command = [sys.executable, *arguments, "-o", str(fresh), *map(str, sources)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILER_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise NativeBuildError(f"no end of the C compiler in {COMPILER_TIMEOUT} s: {' '.join(command)}") from None
    if done.returncode != 0:
        fresh.unlink(missing_ok=True)
        raise NativeBuildError(
            f"the C compiler (ziglang {compiler}) could not compile {NATIVE} for {target.triple}; it ended with status "
            f"{done.returncode}.\nCommand: {' '.join(command)}\n{done.stdout}{done.stderr}"
        )
    fresh.replace(library)
    for leftover in fresh.parent.glob(fresh.stem + ".*"):  # Windows: the import library and the debug information
        leftover.unlink()
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(_stamp(made_of, library))
    return library


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _stamp(made_of: str, library: Path) -> str:
    return f"made of {made_of}\nlibrary {_digest(library.read_bytes())}\n"


class NativeCallbacksHook(BuildHookInterface[Any]):
    """Hatchling's hook: compiles before a wheel (or an editable one) is put together, and names its platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles, adds the library to the wheel, and tags the wheel for the platform."""
        del version  # the same for an editable wheel: the library lies in the source tree
        if self.target_name != "wheel":
            return
        target = host_target()
        library = compile_native(Path(self.root), target)
        build_data["artifacts"].append(library.relative_to(self.root).as_posix())  # git ignores it, the wheel needs it
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{target.wheel_platform}"


if __name__ == "__main__":
    try:
        print(compile_native(ROOT, host_target()).relative_to(ROOT))
    except NativeBuildError as error:
        sys.exit(str(error))
