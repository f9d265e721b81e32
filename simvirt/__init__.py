"""simvirt: one simulated PC, several ways to run a guest on it, and the evidence of what each does to the guest.

>>> import simvirt
>>> simvirt.__version__
'0.1.0'

Public names are loaded when they are first used: `import simvirt` alone loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # for type checkers and editors; at run time `__getattr__` loads them
    from simvirt.analyzer.model.analysis import Analysis
    from simvirt.analyzer.session import analyze
    from simvirt.guests.resolve import resolve as guest
    from simvirt.observe.benchmarks.session import compare_benchmarks
    from simvirt.observe.comparison import Comparison
    from simvirt.observe.results import Run
    from simvirt.observe.session import compare, profile, run

__version__ = "0.1.0"

_LAZY: Final[dict[str, tuple[str, str]]] = {  # public name -> the module that defines it, and its name there
    "analyze": ("simvirt.analyzer.session", "analyze"),
    "Analysis": ("simvirt.analyzer.model.analysis", "Analysis"),
    "run": ("simvirt.observe.session", "run"),
    "compare": ("simvirt.observe.session", "compare"),
    "profile": ("simvirt.observe.session", "profile"),
    "compare_benchmarks": ("simvirt.observe.benchmarks.session", "compare_benchmarks"),
    "guest": ("simvirt.guests.resolve", "resolve"),
    "Run": ("simvirt.observe.results", "Run"),
    "Comparison": ("simvirt.observe.comparison", "Comparison"),
}

__all__ = [
    "Analysis",
    "Comparison",
    "Run",
    "__version__",
    "analyze",
    "compare",
    "compare_benchmarks",
    "guest",
    "profile",
    "run",
]


def __getattr__(name: str) -> object:
    """Loads a public name from its module (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
