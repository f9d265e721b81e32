"""From source to image: C and assembly, by the ziglang package or by gcc and binutils.

The runtime in ``sources/lib`` (multiboot header, descriptor tables, console, interrupts) is linked to whatever needs
it: it goes in as an archive, so a guest that brings a ``_start`` of its own gets none of it but what it calls.

A guest that is an operating system has programs of its own to run: where its directory holds a folder ``programs``,
each source in that is built into a program first, with what lies in ``programs/library`` and by the linker script
``programs/program.ld``. The guest's assembly takes them in by their names, with ``.incbin``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RUNTIME: Final = Path(__file__).parent / "sources" / "lib"
LINKER_SCRIPT: Final = RUNTIME / "guest.ld"
PROGRAMS: Final = "programs"
PROGRAM_LIBRARY: Final = "library"
PROGRAM_LINKER_SCRIPT: Final = "program.ld"
ASSEMBLY_SUFFIXES: Final = frozenset({".S", ".s", ".asm"})
SOURCE_SUFFIXES: Final = ASSEMBLY_SUFFIXES | {".c"}
TIME_LIMIT_SECONDS: Final = 300

_COMPILE: Final = (
    *("-std=c11", "-O2", "-gline-tables-only", "-gdwarf-4", "-Wall", "-Wextra"),
    *("-ffreestanding", "-fno-builtin", "-fno-pic", "-fno-stack-protector", "-fomit-frame-pointer"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-strict-aliasing"),
)
_CLANG_ONLY: Final = ("-mcpu=pentium", "-fno-sanitize=all")
_GCC_ONLY: Final = ("-m32", "-march=i586", "-mno-sse", "-mno-mmx")


class Toolchain(Enum):
    """What compiles and links."""

    AUTO = "auto"
    ZIGLANG = "ziglang"
    GCC = "gcc"


class BuildError(UsageError):
    """The compiler, assembler or linker refused the source; ``output`` is what it said."""

    def __init__(self, step: str, output: str) -> None:
        self.step = step
        self.output = output
        super().__init__(f"{step} failed:\n{output.rstrip()}")


@dataclass(frozen=True, slots=True)
class _Tools:
    """The command lines of one toolchain, up to the arguments that vary."""

    toolchain: Toolchain
    compile: tuple[str, ...]
    archive: tuple[str, ...]
    link: tuple[str, ...]


def build(
    source: Path | str | Iterable[Path | str],
    output: Path | str,
    toolchain: Toolchain = Toolchain.AUTO,
    macros: Sequence[str] = (),
) -> Path:
    """Builds a multiboot ELF image from C (``.c``) and assembly (``.S``).

    Assembly is in AT&T syntax, or in Intel's after ``.intel_syntax noprefix``. The image does not depend on the
    directory that it is built in.

    :param source: a file, several files, or a directory, of which all sources are taken, with the programs in its
        folder ``programs``.
    :param macros: names that the preprocessor has defined, for a guest of which there are several flavours.
    :returns: the path of the image.
    :raises UsageError: there is no such source, or it is of no known kind.
    :raises UnsupportedError: the toolchain is not installed.
    :raises BuildError: the source has errors.
    """
    given = [Path(source)] if isinstance(source, (str, Path)) else [Path(item) for item in source]
    sources = _sources(given)
    tools = _find(toolchain)
    output = Path(output)
    with tempfile.TemporaryDirectory(prefix="simvirt-build-") as scratch:
        work = Path(scratch)
        runtime = _archive(tools, RUNTIME, work / "runtime", work)
        for directory in given:
            if (directory / PROGRAMS).is_dir():
                _build_programs(tools, (directory / PROGRAMS).resolve(), runtime, work)
        flags = (f"-I{work / PROGRAMS}", *(f"-D{name}" for name in macros))
        objects = [_compile(tools, file, work / f"{index}.o", work, flags) for index, file in enumerate(sources)]
        image = work / "image.elf"
        _link(tools, LINKER_SCRIPT, [*objects, runtime], image, work)
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, output)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}; choose another place for the image") from None
    return output


def _build_programs(tools: _Tools, folder: Path, runtime: Path, work: Path) -> None:
    """Leaves each program of a guest in ``work/programs``, an ELF image without symbols."""
    built = work / PROGRAMS
    built.mkdir(exist_ok=True)
    library = folder / PROGRAM_LIBRARY
    flags = (f"-I{library}", f"-I{folder.parent}")
    archive = _archive(tools, library, work / PROGRAM_LIBRARY, work, flags)
    for file in _in_directory(folder):
        compiled = _compile(tools, file, built / f"{file.stem}.o", work, flags)
        script = folder / PROGRAM_LINKER_SCRIPT
        _link(tools, script, [compiled, archive, runtime], built / file.stem, work, "-s")


def _archive(tools: _Tools, directory: Path, objects: Path, work: Path, flags: Sequence[str] = ()) -> Path:
    """The sources of a directory as an archive, from which the linker takes what is wanting."""
    objects.mkdir(exist_ok=True)
    compiled = [_compile(tools, file, objects / f"{file.stem}.o", work, flags) for file in _in_directory(directory)]
    archive = objects / "archive.a"
    _run(f"archiving {directory.name}", [*tools.archive, str(archive), *map(str, compiled)], work, work)
    return archive


def _link(tools: _Tools, script: Path, objects: Sequence[Path], output: Path, work: Path, *flags: str) -> None:
    command = [*tools.link, *_linker_flags(tools, *flags, "-T", str(script)), "-o", str(output), *map(str, objects)]
    _run("linking", command, work, work)


def available() -> tuple[Toolchain, ...]:
    """The toolchains that are installed here, the preferred one first."""
    return tuple(
        found for found, tools in ((Toolchain.ZIGLANG, _ziglang()), (Toolchain.GCC, _gcc())) if tools is not None
    )


def ziglang_version() -> str | None:
    """The version of the ziglang package, or None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ziglang")
    except PackageNotFoundError:
        return None


def _sources(given: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            found = _in_directory(path)
            if not found:
                raise UsageError(f"{path}: no source in this directory; guests are written in .c or .S files")
            files += found
        elif not path.exists():
            raise UsageError(f"{path}: no such file; name a .c or .S file, or a directory of them")
        elif path.suffix not in SOURCE_SUFFIXES:
            raise UsageError(f"{path}: not a source that can be built; guests are written in .c or .S files")
        else:
            files.append(path)
    if not files:
        raise UsageError("nothing to build; name a .c or .S file, or a directory of them")
    return [file.resolve() for file in files]


def _in_directory(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.suffix in SOURCE_SUFFIXES and path.is_file())


def _find(toolchain: Toolchain) -> _Tools:
    finders = {Toolchain.ZIGLANG: (_ziglang,), Toolchain.GCC: (_gcc,), Toolchain.AUTO: (_ziglang, _gcc)}[toolchain]
    for finder in finders:
        if (tools := finder()) is not None:
            return tools
    missing = {
        Toolchain.ZIGLANG: "the ziglang package is not installed",
        Toolchain.GCC: "there is no gcc with binutils here that can build for the 386",
        Toolchain.AUTO: "there is neither the ziglang package nor a gcc with binutils that can build for the 386",
    }[toolchain]
    raise UnsupportedError(f"cannot build guests: {missing}; `pip install 'simvirt[build]'` brings ziglang")


def _ziglang() -> _Tools | None:
    if importlib.util.find_spec("ziglang") is None:
        return None
    zig = (sys.executable, "-m", "ziglang")
    target = ("-target", "x86-freestanding-none")
    return _Tools(
        Toolchain.ZIGLANG,
        (*zig, "cc", *target, *_COMPILE, *_CLANG_ONLY),
        (*zig, "ar", "rcsD"),
        (*zig, "cc", *target, "-nostdlib", "-static", "-Wl,--build-id=none"),
    )


def _gcc() -> _Tools | None:
    """The gcc and binutils, the host's own or a cross-compiler of Debian's names, that know the 386."""
    for prefix in ("", "i686-linux-gnu-", "x86_64-linux-gnu-"):
        compiler, linker, archiver = (shutil.which(prefix + tool) for tool in ("gcc", "ld", "ar"))
        if not (compiler and linker and archiver):
            continue
        probe = subprocess.run(
            [compiler, "-m32", "-E", "-x", "c", os.devnull],
            capture_output=True,
            check=False,
            timeout=TIME_LIMIT_SECONDS,
        )
        if probe.returncode == 0:
            compile_flags = tuple("-g1" if flag == "-gline-tables-only" else flag for flag in _COMPILE)
            return _Tools(
                Toolchain.GCC,
                (compiler, *_GCC_ONLY, *compile_flags),
                (archiver, "rcsD"),
                (linker, "-m", "elf_i386", "-nostdlib", "-static", "--build-id=none", "-z", "noexecstack"),
            )
    return None


def _linker_flags(tools: _Tools, *flags: str) -> tuple[str, ...]:
    return (f"-Wl,{','.join(flags)}",) if tools.toolchain is Toolchain.ZIGLANG else flags


def _compile(tools: _Tools, source: Path, target: Path, work: Path, flags: Sequence[str] = ()) -> Path:
    """Compiles one file in its own directory, so that the debugging information names it the same wherever that is."""
    directory = source.parent
    language = ("-x", "assembler-with-cpp") if source.suffix in ASSEMBLY_SUFFIXES else ()
    names = [f"-ffile-prefix-map={path}={path.name}" for path in (RUNTIME.resolve(), directory)]
    include = ("-I.", f"-I{RUNTIME.resolve()}", *flags)
    command = [*tools.compile, *names, *include, "-c", *language, source.name, "-o", str(target)]
    _run(f"compiling {source.name}", command, directory, work)
    return target


def _run(step: str, command: Sequence[str], directory: Path, scratch: Path) -> None:
    """One step; the zig compiler's caches go where they are thrown away."""
    environment = dict(
        os.environ,
        ZIG_GLOBAL_CACHE_DIR=str(scratch / "cache"),
        ZIG_LOCAL_CACHE_DIR=str(scratch / "cache"),
        PWD=str(directory),
    )
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIME_LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(step, f"{command[0]} did not end within {TIME_LIMIT_SECONDS} s") from None
    except OSError as error:
        raise BuildError(step, f"{command[0]} cannot be started: {error}") from None
    if done.returncode:
        raise BuildError(step, done.stderr or done.stdout)
