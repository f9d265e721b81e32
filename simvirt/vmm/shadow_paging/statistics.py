"""What shadow paging has cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ShadowStatistics:
    """Numbers of one run.

    :ivar hidden_faults: page faults of the real processor that the guest did not see.
    :ivar true_faults: page faults of the guest's own code that it got.
    :ivar fills: entries made in shadow tables: by hidden faults, and where the VMM itself reached for guest memory.
    :ivar traced_writes: writes to page tables that have shadows.
    :ivar entries_dropped: 32-bit words of those tables that said something else afterwards.
    :ivar root_switches: loads of the real CR3.
    :ivar flushes: times that all shadows had to go.
    """

    hidden_faults: int = 0
    true_faults: int = 0
    fills: int = 0
    traced_writes: int = 0
    entries_dropped: int = 0
    root_switches: int = 0
    flushes: int = 0
