"""The words: properties of instructions, readings of a definition, kinds of evidence."""

from __future__ import annotations

from enum import Enum


class Property(Enum):
    """A property that an instruction has or has not, by the papers' definitions (`definitions`)."""

    PRIVILEGED = "privileged"
    """For all configurations."""
    PRIVILEGED_UNDER_C0 = "privileged-under-c0"
    """In the configuration that a VMM sets up for its guests."""
    CONTROL_SENSITIVE = "control-sensitive"
    MODE_SENSITIVE = "mode-sensitive"
    CONFIGURATION_SENSITIVE = "configuration-sensitive"
    LOCATION_SENSITIVE = "location-sensitive"
    VIRTUAL_LOCATION_SENSITIVE = "virtual-location-sensitive"
    """Depends on its own virtual address: matters to binary translation alone (Penneman et al., Definition 12)."""
    USER_SENSITIVE = "user-sensitive"
    """Popek and Goldberg's: control or location sensitive in user mode."""
    USER_SENSITIVE_PENNEMAN = "user-sensitive-penneman"
    """Penneman et al., Definition 11: control or configuration sensitive in user mode."""
    SUPERVISOR_SENSITIVE = "supervisor-sensitive"
    SENSITIVE_NO_OP = "sensitive-no-op"
    """Silently does nothing in one of two states and something in the other."""
    UNPREDICTABLE = "unpredictable"
    """The manual leaves open what it does in some mode."""


SENSITIVE = (
    Property.CONTROL_SENSITIVE,
    Property.MODE_SENSITIVE,
    Property.CONFIGURATION_SENSITIVE,
    Property.LOCATION_SENSITIVE,
)
"""An instruction with one of these is sensitive; one with none is innocuous."""


class NonRoot(Enum):
    """How a processor with root and non-root modes keeps a sensitive instruction of a guest from the real machine."""

    TRAPS = "traps"
    """It exits to the monitor, always or where the monitor asks for it."""
    DUPLICATE = "duplicate"
    """It acts on the guest's own copy of the state, or on what the monitor has set to be seen."""


class Reading(Enum):
    """How a definition is read. `definitions` says for each what the letter is and what the repair."""

    LETTER = "letter"
    """As it is printed."""
    REPAIRED = "repaired"
    """With operand faults, system calls, and traps against results told apart, as a modern machine needs it."""


class Evidence(Enum):
    """What a claim rests on, the strongest first."""

    PROVED = "proved"
    """Every state of a finite machine was tried."""
    WITNESSED = "witnessed"
    """There is a run, or a pair of runs, that shows it."""
    NOT_REFUTED = "not-refuted"
    """A universal claim that so many observations could have refuted, and none did."""
    DECLARED = "declared"
    """A manual or paper says so; nothing was run."""
    UNKNOWN = "unknown"
