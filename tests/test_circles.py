"""No module imports itself by way of others: not at run time, not in a function, not for a type checker alone."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _circle(package: Path) -> list[str]:
    """The modules of one circle, each imported by the next, the first and the last the same; empty if there is none."""
    paths = {_name(path, package.parent): path for path in package.rglob("*.py")}
    graph = {name: set(_imports(path, paths)) for name, path in paths.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def _name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules that a file names in its imports, wherever they stand in it; nobody imports relatively."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            named = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in modules else node.module for name in named)


def test_there_is_no_circle(repository: Path) -> None:
    assert " -> ".join(_circle(repository / "simvirt")) == ""


@pytest.mark.parametrize(
    "back",
    [
        "import tiny.high",
        "from tiny import high",
        "from tiny.high import Name",
        "def late():\n    from tiny.high import Name",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tiny.high import Name",
    ],
)
def test_a_circle_is_found(tmp_path: Path, back: str) -> None:
    """`high` imports a package, that its module `low`, and `low` may not name `high`."""
    package = tmp_path / "tiny"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "high.py").write_text("from tiny.deep import Low\n")
    (package / "deep" / "__init__.py").write_text("from tiny.deep.low import Low\n")
    (package / "deep" / "low.py").write_text("import ast\n")
    assert _circle(package) == []
    (package / "deep" / "low.py").write_text(back + "\n")
    assert set(_circle(package)) == {"tiny.high", "tiny.deep", "tiny.deep.low"}
