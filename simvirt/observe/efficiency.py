"""Efficiency: how much of the guest ran without the VMM.

Popek and Goldberg (1974 §3) call a VMM efficient when the processor executes every innocuous instruction directly and
the VMM takes no part in it. So two numbers: the share of instructions that the processor executed, and interventions on
innocuous ones, which the property wants to be none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simvirt.vmm.exit_log import Intervention

if TYPE_CHECKING:
    from simvirt.observe.results import Counted


@dataclass(frozen=True, slots=True)
class Efficiency:
    """The evidence for efficiency; None where nothing ran."""

    direct_fraction: float | None
    innocuous_interventions: int | None

    @classmethod
    def of(cls, counted: Counted) -> Efficiency:
        """What the counts of a run say."""
        return cls(counted.direct_fraction, counted.by_intervention.get(Intervention.HIDDEN, 0))

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "direct_fraction": self.direct_fraction,
            "innocuous_interventions": self.innocuous_interventions,
        }


NOTHING_RAN = Efficiency(None, None)
