"""What a VMM writes down about its interventions: counts always, full records while somebody listens.

Counting costs a dictionary update; a record is built only while a listener (a trace, a debugger, the analyzer) is
attached.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.vmm.shadow_paging.statistics import ShadowStatistics

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.x86.addresses import Port


class Intervention(Enum):
    """What kind of thing the VMM did, in the terms of Popek and Goldberg's VMM (1974)."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and `ExitLog.note` runs at every exit

    EMULATED = "a sensitive instruction was emulated"
    REFLECTED = "the guest's own exception or software interrupt was delivered to it"
    HIDDEN = "an innocuous instruction was interrupted for the VMM's own ends; the guest does not notice"
    MEMORY = "an innocuous instruction reached for memory or a device that is not there, and the VMM did the access"
    EVENT = "an asynchronous event: an interrupt window, an injected interrupt, a timer of the VMM"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why control went to the VMM, by the rules of the machine."""

    what: str
    """What the guest did, as "CLI at CPL 1 with IOPL 0"."""
    why: str
    """The rule or control that made it an exit, as "CLI needs CPL <= IOPL"."""
    source: str
    """Where the manual says so, as "SDM Vol. 2A, CLI"."""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """One transfer of control from the guest to the VMM."""

    number: int
    """From 1, in order."""
    instruction: int
    """Guest instructions retired before it."""
    time_ns: int
    """Virtual time."""
    reason: Enum
    """A member of the strategy's own enumeration; its name is what counts and traces print."""
    intervention: Intervention
    cs: int
    """The selector, as the guest sees it."""
    rip: int
    cpl: int
    """The guest's own view of its privilege level."""
    code: bytes
    """Up to 15 bytes at RIP."""
    bits: int
    """16, 32 or 64: how to decode them."""
    cause: Cause
    qualification: object | None = None
    """The exit qualification as a record of `x86.vmx`, or None."""


class Disposition(Enum):
    """What became of an attempt to reach what was not given."""

    DENIED = "the guest received the fault that its machine would give"
    EMULATED = "the VMM emulated it on the virtual machine's own resource"
    ABSORBED = "reads gave ones, writes were dropped, as on a bus that nobody answers"
    SUCCEEDED = "it reached a real resource: resource control is violated"


@dataclass(frozen=True, slots=True)
class ResourceAttempt:
    """An attempt of the guest to reach a resource that was not given to it."""

    instruction: int
    """Guest instructions retired before it."""
    resource: str
    """What it reached for, in words."""
    disposition: Disposition


@dataclass(frozen=True, slots=True)
class ExitLogState:
    """What an exit log holds at one moment."""

    counts: tuple[tuple[Enum, int], ...]
    interventions: tuple[tuple[Intervention, int], ...]
    hidden: tuple[tuple[Enum, int], ...]
    total: int
    emulated_instructions: int
    attempts: tuple[ResourceAttempt, ...]
    shadow_paging: ShadowStatistics


ATTEMPTS_KEPT: Final = 1000
"""Attempts of a run beyond these are not kept."""


class ExitLog:
    """The interventions of one run.

    :ivar total: all interventions.
    :ivar counts: by the strategy's exit reasons.
    :ivar interventions: by kind.
    :ivar hidden: those of the kind `HIDDEN`, by reason.
    :ivar emulated_instructions: guest instructions that the VMM completed instead of the processor.
    :ivar attempts: attempts to reach what was not given, the first thousand of them.
    :ivar shadow_paging: of a VMM with shadow page tables.
    :ivar listener: called with a full record of every intervention, if it is not None.
    """

    def __init__(self) -> None:
        self.counts: Counter[Enum] = Counter()
        self.interventions: Counter[Intervention] = Counter()
        self.hidden: Counter[Enum] = Counter()
        self.total = 0
        self.emulated_instructions = 0
        self.attempts: list[ResourceAttempt] = []
        self.shadow_paging = ShadowStatistics()
        self.listener: Callable[[ExitRecord], None] | None = None

    def note(self, reason: Enum, intervention: Intervention) -> int:
        """Count one exit, and give its number, from 1."""
        self.counts[reason] += 1
        self.interventions[intervention] += 1
        if intervention is Intervention.HIDDEN:
            self.hidden[reason] += 1
        self.total += 1
        return self.total

    def save(self) -> ExitLogState:
        """What it holds now."""
        return ExitLogState(
            tuple(self.counts.items()),
            tuple(self.interventions.items()),
            tuple(self.hidden.items()),
            self.total,
            self.emulated_instructions,
            tuple(self.attempts),
            replace(self.shadow_paging),
        )

    def restore(self, state: ExitLogState) -> None:
        """Go back to a state of this log that it was in before, or forward to one it came back from."""
        self.counts = Counter(dict(state.counts))
        self.interventions = Counter(dict(state.interventions))
        self.hidden = Counter(dict(state.hidden))
        self.total = state.total
        self.emulated_instructions = state.emulated_instructions
        self.attempts[:] = state.attempts
        for part in fields(ShadowStatistics):  # whoever counts has this object
            setattr(self.shadow_paging, part.name, getattr(state.shadow_paging, part.name))

    @property
    def keeps_attempts(self) -> bool:
        """Is there room for another attempt? The text of one that nobody keeps need not be made."""
        return len(self.attempts) < ATTEMPTS_KEPT

    def attempt(self, attempt: ResourceAttempt) -> None:
        """Keep an attempt to reach what was not given, while there is room."""
        if len(self.attempts) < ATTEMPTS_KEPT:
            self.attempts.append(attempt)

    def unclaimed_port(self, instruction: int, port: Port, size: int, *, is_out: bool) -> None:
        """Keep an access to a port that no device of the VM claims."""
        if self.keeps_attempts:
            what = f"{'OUT' if is_out else 'IN'} port {port:#x}, {size} byte{'s' if size > 1 else ''}"
            self.attempt(ResourceAttempt(instruction, what, Disposition.ABSORBED))
