"""The engine's requests for address translations, and the verdicts on those that are refused.

The numbers are those of Unicorn (`Access`) and of native/engine.c.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from simvirt.x86.addresses import Gpa, Gva


class Access(IntEnum):
    """The kind of a memory access, with Unicorn's numbers (UC_MEM_READ and its kin)."""

    READ = 16
    WRITE = 17
    FETCH = 18


class Refusal(IntEnum):
    """Why a translation was refused."""

    NOTHING = 0
    PAGE_FAULT = 1
    HOLE = 2
    """Nothing answers at the guest-physical address."""
    MMIO = 3
    """A device answers there."""
    ROM_WRITE = 4
    WATCHED_WRITE = 5
    """Somebody watches the page (`Engine.watch_page`)."""
    EXECUTED_ALIAS = 6
    """A write through a mapping that forbids execution, to a page with translated code; settled natively."""
    SUPERVISOR_AT_CPL3 = 7
    """A supervisor page, accessed at CPL 3 by the instruction or by the processor on its behalf."""
    NON_CANONICAL = 8
    READ_AHEAD = 9
    WATCHED_DATA = 10
    """The page holds bytes of a watchpoint (`Engine.set_watches`)."""
    EPT_VIOLATION = 11
    """The EPT has no translation, or none that allows the access (SDM Vol. 3C §29.3.3.2)."""
    EPT_MISCONFIGURATION = 12
    """An entry of the EPT has an impossible value (SDM Vol. 3C §29.3.3.1)."""
    PML_FULL = 13
    """The page-modification log has no entry left for a page that becomes dirty (SDM Vol. 3C §29.3.6)."""


class PageFlag(IntEnum):
    """Flags of a host page."""

    EXECUTED = 1
    """Code has been translated from it."""
    DIRTY = 2
    """It has been written since the log was started (`Engine.take_dirty_pages`)."""
    WATCHED = 4
    """Guest writes to it are refused (`Engine.watch_page`)."""


EPT_REFUSALS = frozenset({Refusal.EPT_VIOLATION, Refusal.EPT_MISCONFIGURATION, Refusal.PML_FULL})


class Verdict(NamedTuple):
    """The record of a refused fill: what was accessed how, and why it was not allowed."""

    refusal: Refusal
    access: Access
    gva: Gva
    gpa: Gpa
    """The guest-physical address of the access; of the table entry for a page fault."""
    error_code: int
    """Of the page fault (SDM Vol. 3A §4.7); for an EPT violation the rights that all entries of the walk give."""
    level: int
    """Level of the paging structure, the guest's or the EPT's, where the walk ended."""
    to_page: bool = True
    """Was the access to the page itself, rather than to one of the guest's paging structures?"""


class PdpteLoad(IntEnum):
    """What became of loading the PDPTE registers (SDM Vol. 3A §4.4.1)."""

    LOADED = 0
    RESERVED = 1
    """A present entry has a reserved bit set."""
    REFUSED = 2
    """The EPT refuses the table."""
