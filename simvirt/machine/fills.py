"""The engine's requests for address translations, and the verdicts on those that are refused.

The numbers are those of Unicorn (`Access`) and of native/engine.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvirt.x86.addresses import Gpa, Gva


class Access(IntEnum):
    """The kind of a memory access."""

    READ = 16
    WRITE = 17
    FETCH = 18


class Refusal(IntEnum):
    """Why a translation was refused."""

    NOTHING = 0
    PAGE_FAULT = 1
    HOLE = 2
    MMIO = 3
    ROM_WRITE = 4
    WATCHED_WRITE = 5
    EXECUTED_ALIAS = 6
    SUPERVISOR_AT_CPL3 = 7
    NON_CANONICAL = 8
    READ_AHEAD = 9


class PageFlag(IntEnum):
    """Flags of a host page."""

    EXECUTED = 1
    DIRTY = 2
    WATCHED = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """The record of a refused fill: what was accessed how, and why it was not allowed."""

    refusal: Refusal
    access: Access
    gva: Gva
    gpa: Gpa
    """The guest-physical address of the access; of the table entry for a page fault."""
    error_code: int
    level: int
