"""Results of sweeps, kept in the user's cache directory for as long as nothing that they depend on has changed.

The key of a result is a digest of everything that could change it: simvirt's version, the contents of the modules and
tables that experiments run on, the versions of the engine and the decoder, Python's, and the kind of processor. A
damaged or foreign file is no result and no error: the sweep is made again.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from simvirt.data import isa_directory
from simvirt.errors import UnsupportedError

if TYPE_CHECKING:
    from simvirt.analyzer.model.analysis import Analysis

_LAYERS: Final = ("analyzer", "machine", "x86", "vmm")
_LIBRARIES: Final = ("simvirt", "unicorn", "iced-x86", "numpy")
_PACKAGE: Final = Path(__file__).parents[2]


def cache_directory() -> Path:
    """Where results are kept: $XDG_CACHE_HOME/simvirt, by default ~/.cache/simvirt, as XDG's specification has it."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(given) if given and Path(given).is_absolute() else Path.home() / ".cache"
    return root / "simvirt"


@cache
def fingerprint() -> str:
    """A digest of all that results depend on."""
    digest = hashlib.sha256(f"Python {sys.version_info[:2]} on {platform.machine()}\n".encode())
    for library in _LIBRARIES:
        digest.update(f"{library} {version(library)}\n".encode())
    files = [
        path
        for layer in _LAYERS
        for path in (_PACKAGE / layer).rglob("*")
        if path.suffix in {".py", ".c", ".so", ".toml"}
    ]
    with suppress(UnsupportedError):
        files += isa_directory().rglob("*.toml")
    for path in sorted(files):
        digest.update("/".join(path.parts[-3:]).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def load(name: str) -> Analysis | None:
    """The kept analysis of an instruction set, None if there is none that holds now."""
    try:
        with _file(name).open("rb") as file:
            found = _Reader(file).load()
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, IndexError, TypeError, ValueError):
        return None
    if not isinstance(found, tuple) or found[:2] != (name, fingerprint()):
        return None
    return cast("Analysis", found[2])


def store(name: str, analysis: Analysis) -> None:
    """Keep an analysis; where the directory cannot be written, nothing is kept."""
    path = _file(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(pickle.dumps((name, fingerprint(), analysis), protocol=5))
        temporary.replace(path)
    except OSError:
        return


def _file(name: str) -> Path:
    return cache_directory() / f"analysis-{name}.pickle"


class _Reader(pickle.Unpickler):
    """Reads nothing but the values that analyses are made of."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of the model, or a builtin container."""
        if module.startswith("simvirt.analyzer.") or (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an analysis")


_ALLOWED: Final = frozenset({("builtins", "frozenset"), ("builtins", "dict"), ("builtins", "set")})
