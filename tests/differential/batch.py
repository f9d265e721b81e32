"""A memory image full of cases, ready for the bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.differential.generator import Case
    from tests.differential.layout import Mode


@dataclass(slots=True)
class Batch:
    """The image of one run, and the cases that are in it."""

    mode: Mode
    seed: int
    cases: list[Case]
    memory: dict[int, bytes]
    entry: int
