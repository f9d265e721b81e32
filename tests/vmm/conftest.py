"""What the tests of this directory share."""

from __future__ import annotations

from tests.support.twins_fixture import built_twins, twins

__all__ = ["built_twins", "twins"]
