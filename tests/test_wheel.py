"""The wheel works where there is no source tree: it carries the native callbacks, the guests and the data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import simvirt

pytestmark = [pytest.mark.xdist_group("wheel"), pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Installation:
    """simvirt as its users have it: installed from a wheel, and used from a folder of their own."""

    python: Path
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # No variable of ours may help the import.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(
            [self.python, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def _install(environment: Path, wheel: Path) -> Path:
    """A fresh environment with the wheel in it, and nothing else; returns its Python."""
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = ["pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    return python


@pytest.fixture(scope="module")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The dependencies are borrowed from the environment of the tests: nothing is downloaded.

    A .pth file puts that environment's packages behind the fresh one's. Python reads no .pth files there, so an
    editable simvirt in it stays out of sight.
    """
    base = tmp_path_factory.mktemp("installation")
    python = _install(base / "environment", wheel)
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(found.stdout.strip()) / "borrowed.pth").write_text("".join(f"{path}\n" for path in sorted(borrowed)))
    folder = base / "elsewhere"
    folder.mkdir()
    return Installation(python, folder)


def test_the_wheel_is_named_for_its_platform(wheel: Path) -> None:
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, version, python, abi) == ("simvirt", simvirt.__version__, "py3", "none")
    assert platform != "any"
    if sys.platform == "linux":
        assert platform.startswith("manylinux_2_28_")


def test_the_wheel_carries_what_lies_outside_of_the_package(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert any(name.startswith("simvirt/machine/native/engine.") and not name.endswith(".c") for name in names)
        for folder, packaged in (("isa", "simvirt/_isa"), ("lessons", "simvirt/_lessons")):
            for path in (repository / folder).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    name = f"{packaged}/{path.relative_to(repository / folder).as_posix()}"
                    assert archive.read(name) == path.read_bytes()
        images = {path.name for path in (repository / "simvirt" / "guests" / "images").iterdir()}
        assert images
        assert {f"simvirt/guests/images/{name}" for name in images} <= names
        assert "simvirt/py.typed" in names
        assert not any(name.startswith(("tests/", "docs/", "hatch_build")) for name in names)


def test_it_is_imported_from_the_wheel(installation: Installation) -> None:
    done = installation.run("-c", "import simvirt, simvirt.data; print(simvirt.__file__, simvirt.data.isa_directory())")
    assert done.returncode == 0, done.stderr
    module, isa = (Path(text) for text in done.stdout.split())
    assert installation.python.parent.parent in module.parents
    assert isa == module.parent / "_isa"
    assert list(isa.glob("*.toml"))


def test_it_lists_the_guests(installation: Installation) -> None:
    done = installation.run("-m", "simvirt", "list", "guests")
    assert done.returncode == 0, done.stderr
    assert {"hello", "popf-mask", "sensitive"} <= {line.split()[0] for line in done.stdout.splitlines() if line}


def test_it_lists_what_the_data_folder_holds(installation: Installation) -> None:
    done = installation.run("-m", "simvirt", "list", "costs")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 1


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx", "trap-and-emulate"])
def test_it_runs_a_guest(installation: Installation, strategy: str) -> None:
    done = installation.run("-m", "simvirt", "run", "hello", "--strategy", strategy, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["guest"], result["strategy"]) == ("hello", strategy)
    assert (result["outcome"], result["error"]) == ("finished", None)
    assert result["console"].startswith("Hello")
    assert result["counted"]["instructions"] > 0


def test_its_command_is_installed(installation: Installation) -> None:
    command = installation.python.with_name("simvirt")
    done = subprocess.run([command, "--version"], cwd=installation.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"simvirt {simvirt.__version__}")


def test_a_failing_compiler_is_told(repository: Path, tmp_path: Path) -> None:
    """What the hook prints when the source cannot be compiled: the command, the compiler's words, no traceback."""
    native = tmp_path / "simvirt" / "machine" / "native"
    native.mkdir(parents=True)
    (native / "engine.c").write_text("int broken(void) { return undeclared; }\n")
    (tmp_path / "hatch_build.py").write_bytes((repository / "hatch_build.py").read_bytes())
    done = subprocess.run([sys.executable, "hatch_build.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "could not compile" in done.stderr
    assert "undeclared" in done.stderr
    assert "Command: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(native.glob("*.so"))


def test_nothing_is_compiled_twice(repository: Path, tmp_path: Path) -> None:
    native = tmp_path / "simvirt" / "machine" / "native"
    native.mkdir(parents=True)
    (native / "engine.c").write_text("int answer(void) { return 42; }\n")
    (tmp_path / "hatch_build.py").write_bytes((repository / "hatch_build.py").read_bytes())

    def build() -> tuple[Path, int]:
        done = subprocess.run(
            [sys.executable, "hatch_build.py"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        library = tmp_path / done.stdout.strip()
        return library, library.stat().st_mtime_ns

    library, first = build()
    assert build() == (library, first)
    library.write_bytes(b"not what the compiler made")
    assert build()[1] != first
    before = library.read_bytes()
    (native / "engine.c").write_text("int answer(void) { return 43; }\n")
    build()
    assert library.read_bytes() != before


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_it_installs_with_its_locked_dependencies(wheel: Path, repository: Path, tmp_path: Path) -> None:
    """As on a user's machine: everything from the package registry, by the lock file's hashes."""
    python = _install(tmp_path / "environment", wheel)
    lock = repository / "requirements" / "run.lock"
    install = ["pip", "--python", str(python), "install", "--quiet", "--require-hashes", "-r", str(lock)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    done = Installation(python, tmp_path).run("-m", "simvirt", "run", "hello", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "finished"
