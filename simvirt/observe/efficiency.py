"""Efficiency: how much of the guest ran without the VMM.

Popek and Goldberg ask informally (1974 §2) that most instructions be executed directly by the processor, formally (§5)
that all innocuous ones be, without any intervention of the VMM. So two numbers: the share of instructions that the
processor executed, and interventions on innocuous ones, which the formal property wants to be none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simvirt.vmm.exit_log import Intervention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simvirt.observe.results import Counted


@dataclass(frozen=True, slots=True)
class Efficiency:
    """The evidence for efficiency; None where nothing ran.

    Attributes:
        innocuous_by_reason: what those exits were, by the name of their reason; for people, not in JSON.
    """

    direct_fraction: float | None
    innocuous_interventions: int | None
    innocuous_by_reason: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, counted: Counted) -> Efficiency:
        """What the counts of a run say."""
        hidden = counted.by_intervention.get(Intervention.HIDDEN, 0)
        return cls(counted.direct_fraction, hidden, counted.innocuous_exits)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "direct_fraction": self.direct_fraction,
            "innocuous_interventions": self.innocuous_interventions,
        }


NOTHING_RAN = Efficiency(None, None)
