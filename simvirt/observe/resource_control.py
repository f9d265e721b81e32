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
        violations: what reached a real resource, each in a sentence.
        attempts: number of attempts by resource and by what became of them.
    """

    violations: tuple[str, ...]
    attempts: Mapping[tuple[str, Disposition], int]

    @classmethod
    def of(cls, attempts: Iterable[ResourceAttempt], pages_outside: Iterable[int] = ()) -> ResourceControl:
        """What a run's attempts say, and the host pages outside the VM's memory that were written while it ran."""
        found = list(attempts)
        writes = (
            f"host page {page:#x} does not belong to the VM, and the processor wrote it while it ran the guest"
            for page in pages_outside
        )
        return cls(
            (
                *(
                    f"instruction {attempt.instruction:,}: {attempt.resource}: {attempt.disposition.value}"
                    for attempt in found
                    if attempt.disposition is Disposition.SUCCEEDED
                ),
                *writes,
            ),
            dict(Counter((attempt.resource, attempt.disposition) for attempt in found)),
        )

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {"violations": list(self.violations)}
