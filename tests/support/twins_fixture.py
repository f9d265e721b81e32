"""The twins as a fixture: built once, with fresh memory and an empty exit log for each test."""

from __future__ import annotations

import pytest

from tests.support.twins import Twins


@pytest.fixture(scope="session")
def built_twins() -> Twins:
    """Both machines, as the last test left them."""
    return Twins()


@pytest.fixture
def twins(built_twins: Twins) -> Twins:
    """Both machines, renewed."""
    built_twins.renew()
    return built_twins
