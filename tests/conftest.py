"""What all tests share: the repository's root, programs that may be missing, and repeatable random tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples every time: a failure is found by whoever changes something, not by whoever comes next.
settings.register_profile("simvirt", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("simvirt")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the source tree."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """`program(name)`: the path of a program that scripts/apt-packages.sh knows; skips the test where it is missing."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed (scripts/apt-packages.sh lists the packages)")
        return path

    return find
