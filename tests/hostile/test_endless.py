"""Guests that never end: each ends with a clear outcome all the same, and soon when it is asked to."""

from __future__ import annotations

import pytest

from tests.hostile.arena import Arena
from tests.hostile.directed import PROLOGUE_COUNT, guest

STRATEGIES = ("bare-metal", "trap-and-emulate", "vtx")


@pytest.fixture(params=STRATEGIES, scope="module")
def arena(request: pytest.FixtureRequest) -> Arena:
    return Arena(request.param)


def test_exceptions_without_end(arena: Arena) -> None:
    """The handler of #UD begins with UD2: no instruction ever retires, so no budget of instructions would end it."""
    report = arena.run(guest("0f 0b ; ud2", handlers={6: "0f 0b ; ud2"}), 1000)
    assert (report.outcome, report.count) == ("limit", PROLOGUE_COUNT)
