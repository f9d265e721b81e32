"""The repository's own rules: what may stand in its files, versions that agree, an import that loads nothing heavy."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import simvirt
from simvirt import data
from simvirt.errors import UnsupportedError

HEAVY = ("unicorn", "numpy", "capstone", "iced_x86", "rich", "matplotlib", "msgspec", "elftools", "ctypes")

# Patterns are put together from pieces so that this file does not match them itself.
_SLASH = "/"
FORBIDDEN = {
    "a path of somebody's machine": re.compile(
        r"(?<![\w.~}$-])"
        + _SLASH
        + "(?:"
        + "|".join(("ro" + "ot", "ho" + "me", "wo" + "rk", "Us" + "ers"))
        + ")"
        + _SLASH
    ),
    "a registry's host": re.compile(
        "py" + r"pi\.(?:org|python)|python" + r"hosted\.org|deb" + r"\.debian\.org", re.IGNORECASE
    ),
    "an address with credentials": re.compile("https?" + r"://[^/\s@]+:[^/\s@]+@"),
    "a folder beside the repository": re.compile(r"\.\." + _SLASH + "(?:sha" + r"red|\.lib" + "rary)"),
    "a local package source": re.compile("file" + ":" + _SLASH * 2),
}


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def _tracked(repository: Path) -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git repository: " + listing.stderr.strip())
    return [path for name in listing.stdout.split("\0") if name and (path := repository / name).is_file()]


def test_no_file_names_a_machine_or_a_registry(repository: Path) -> None:
    found = []
    for path in _tracked(repository):
        # Images are searched too: a compiler likes to leave its working folder in them.
        text = path.read_bytes().decode("latin-1")
        for what, pattern in FORBIDDEN.items():
            found += [f"{path.relative_to(repository)}: {what}: {hit.group()!r}" for hit in pattern.finditer(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "cd /wo" + "rk/main",
        'open("/ro' + 'ot/x")',
        "from /ho" + "me/me/simvirt",
        "--index-url https://py" + "pi.org/simple",
        "http" + "s://user:word@example.org/",
        "see .." + "/sha" + "red/engine",
        "file" + "://" + "/opt/simple",
    ],
)
def test_the_patterns_find_what_they_are_for(text: str) -> None:
    assert any(pattern.search(text) for pattern in FORBIDDEN.values())


@pytest.mark.parametrize("lock", ["run.lock", "test.lock"])
def test_locks_hold_names_versions_and_hashes_only(repository: Path, lock: str) -> None:
    package = re.compile(r"[a-z0-9-]+==[0-9][\w.]*( ; [^:/\\]+)? \\")
    hashed = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
    lines = (repository / "requirements" / lock).read_text().splitlines()
    assert sum(1 for line in lines if package.fullmatch(line)) >= 10
    assert [line for line in lines if not package.fullmatch(line) and not hashed.fullmatch(line)] == []


def test_the_run_lock_is_part_of_the_test_lock(repository: Path) -> None:
    run, test = (set(_locked(repository / "requirements" / name)) for name in ("run.lock", "test.lock"))
    assert run < test


def _locked(lock: Path) -> list[str]:
    return [line.removesuffix(" \\") for line in lock.read_text().splitlines() if not line.startswith(" ")]


def test_every_dependency_is_locked(repository: Path, project: dict[str, Any]) -> None:
    locked = {line.partition("==")[0] for line in _locked(repository / "requirements" / "test.lock")}
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["test"],
        *project["project"]["optional-dependencies"]["build"],
    ]
    names = {re.split(r"[<>=!~ \[]", requirement)[0].lower() for requirement in wanted}
    assert names - locked == set(), "run `make lock`"


def test_versions_agree(repository: Path, project: dict[str, Any]) -> None:
    version = project["project"]["version"]
    assert simvirt.__version__ == version
    assert re.search(rf"^## \[.*{re.escape(version)}", (repository / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_unicorn_is_pinned_exactly(project: dict[str, Any]) -> None:
    from simvirt.machine.platforms import UNICORN_VERSION

    assert f"unicorn=={UNICORN_VERSION}" in project["project"]["dependencies"]


def test_import_loads_nothing_heavy() -> None:
    probe = f"import sys, simvirt; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(set(simvirt.__all__) - {"__version__"}))
def test_public_names_load(name: str) -> None:
    assert callable(getattr(simvirt, name))
    assert name in dir(simvirt)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        simvirt.__getattr__("fly")


def test_data_folders_are_the_source_trees(repository: Path) -> None:
    assert data.isa_directory() == repository / "isa"
    assert data.lessons_directory() == repository / "lessons"


def test_missing_data_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(data, "_PACKAGE", tmp_path / "simvirt")
    with pytest.raises(UnsupportedError, match="install simvirt again"):
        data.isa_directory()


def test_every_module_imports(repository: Path) -> None:
    names = [
        ".".join(path.relative_to(repository).with_suffix("").parts)
        for path in sorted((repository / "simvirt").rglob("*.py"))
        if path.name not in {"__init__.py", "__main__.py"}
    ]
    assert len(names) > 10
    for name in names:
        importlib.import_module(name)


def test_links_in_documents_lead_somewhere(repository: Path) -> None:
    """Only tracked files count: what lies here untracked is missing in everybody else's copy."""
    link = re.compile(r"\]\((?!https?:|#|mailto:)([^)\s#]+)")
    tracked = _tracked(repository)
    there = {*tracked, *(folder for path in tracked for folder in path.parents)}
    broken = [
        f"{path.relative_to(repository)}: {target}"
        for path in tracked
        if path.suffix == ".md"
        for target in link.findall(path.read_text())
        if (path.parent / target).resolve() not in there
    ]
    assert not broken, "\n".join(broken)


def test_scripts_are_sound_bash(repository: Path) -> None:
    for script in [*(repository / "scripts").glob("*.sh"), repository / ".ci" / "run"]:
        subprocess.run(["bash", "-n", script], check=True)
        assert script.stat().st_mode & 0o100, f"{script} is not executable"
        assert "set -euo pipefail" in script.read_text()
