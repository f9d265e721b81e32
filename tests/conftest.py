"""What all tests share: the repository's root, and random tests that repeat."""

from __future__ import annotations

import signal
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


def pytest_configure() -> None:
    """Undo that a job in the background ignores Ctrl-C: the programs that tests start would inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
