"""Resource control: what the guest tried to reach that it had not been given, and what became of it.

An attempt is a fact of the guest; only one that succeeds is a violation of the VMM's. Two things are evidence: the
VMM's own log of attempts, and a look at the PC's memory, where nothing outside the VM's memory may change but by the
VMM.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simvirt.vmm.exit_log import Disposition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from simvirt.vmm.exit_log import ResourceAttempt


@dataclass(frozen=True, slots=True)
class ResourceControl:
    """The evidence for resource control.

    Attributes:
        violations: attempts that reached a real resource, each in a sentence.
        attempts: number of attempts by resource and by what became of them.
    """

    violations: tuple[str, ...]
    attempts: Mapping[tuple[str, Disposition], int]

    @classmethod
    def of(cls, attempts: Iterable[ResourceAttempt]) -> ResourceControl:
        """What a run's attempts say."""
        found = list(attempts)
        return cls(
            tuple(
                f"instruction {attempt.instruction:,}: {attempt.resource}: {attempt.disposition.value}"
                for attempt in found
                if attempt.disposition is Disposition.SUCCEEDED
            ),
            dict(Counter((attempt.resource, attempt.disposition) for attempt in found)),
        )

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {"violations": list(self.violations)}
