"""The layers: the contract of pyproject.toml holds, and it can fail."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOMES = {  # package -> the only modules of simvirt that may import it
    "unicorn": {
        "simvirt/machine/engine.py",
        *(f"simvirt/analyzer/cores/{name}.py" for name in ("processor", "arm", "m68k", "riscv")),
    },
    "iced_x86": {"simvirt/x86/decode.py", "simvirt/x86/forms.py"},
    "capstone": {"simvirt/x86/decode.py"},
}


def _lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(tree), "NO_COLOR": "1"}
    return subprocess.run(
        [program, "--no-cache", "--config", tree / "pyproject.toml"],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_contract_holds(repository: Path) -> None:
    done = _lint_imports(repository)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("x86/upward.py", "import simvirt.machine", "Each layer imports only layers below it"),
        (
            "machine/upward.py",
            "def late():\n    from simvirt import strategies",
            "Each layer imports only layers below it",
        ),
        ("newcomer/__init__.py", "", "Each layer imports only layers below it"),
        (
            "vmm/engine_user.py",
            "import unicorn",
            "Only simvirt.machine.engine and the analyzer's other processors import Unicorn",
        ),
        ("observe/decoder.py", "import iced_x86", "Only x86.decode and x86.forms import the decoder"),
        ("vmm/pokes.py", "import simvirt.machine.native", "Nothing above the machine touches the native callbacks"),
    ],
)
def test_the_contract_can_fail(repository: Path, tmp_path: Path, module: str, statement: str, contract: str) -> None:
    """A copy of the layers' folders, empty but for one forbidden import, breaks exactly the contract meant."""
    shutil.copy(repository / "pyproject.toml", tmp_path)
    package = tmp_path / "simvirt"
    for folder in [package, *(path for path in (repository / "simvirt").rglob("*") if path.is_dir())]:
        if folder == package or (folder / "__init__.py").exists():
            copy = package / folder.relative_to(repository / "simvirt") if folder != package else package
            copy.mkdir(parents=True, exist_ok=True)
            (copy / "__init__.py").touch()
    for name in ("errors.py", "data.py"):
        (package / name).touch()
    assert _lint_imports(tmp_path).returncode == 0
    (package / module).parent.mkdir(exist_ok=True)
    (package / module).write_text(statement + "\n")
    done = _lint_imports(tmp_path)
    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout
    assert done.stdout.count(" BROKEN") == 1


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def test_only_their_homes_import_the_engine_and_the_decoders(repository: Path) -> None:
    """Read off the source, without import-linter: imports anywhere, in functions and type-checking blocks too."""
    strays = [
        f"{name} imports {imported}"
        for path in (repository / "simvirt").rglob("*.py")
        for imported in _imports(path)
        if (name := path.relative_to(repository).as_posix()) not in HOMES.get(imported.partition(".")[0], {name})
    ]
    assert not strays, "\n".join(strays)


def test_nobody_imports_relatively(repository: Path) -> None:
    """Relative imports would hide a module's layer from the reader."""
    relative = [
        f"{path.relative_to(repository)}:{node.lineno}"
        for path in (repository / "simvirt").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative, "\n".join(relative)
