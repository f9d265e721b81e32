"""The toys, loaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.finite.loader import load
from simvirt.analyzer.finite.machine import FiniteMachine

if TYPE_CHECKING:
    from simvirt.analyzer.finite.description import Description

THIRD_GENERATION: Final = "third-generation"
JRST1: Final = "third-generation+jrst1"
LRA: Final = "third-generation+lra"
_FILE: Final = Path(__file__).with_name("third_generation.toml")


@lru_cache(maxsize=8)
def description(name: str) -> Description:
    """The third-generation machine or one of its variants."""
    return load(_FILE, name)


def machine(name: str) -> FiniteMachine:
    """The same, to be classified."""
    return FiniteMachine(description(name))
