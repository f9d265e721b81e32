"""What a comparison found: the runs, and for each strategy a verdict on Popek and Goldberg's three properties.

Popek and Goldberg (1974, informally §2, formally §5) want of a VMM: *equivalence* (the guest behaves as on the bare
machine, timing and resources apart), *efficiency* (all innocuous instructions are executed directly), *resource
control* (the guest reaches nothing that it was not given).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from simvirt.observe.numbers import shown
from simvirt.observe.showable import Showable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simvirt.observe.efficiency import Efficiency
    from simvirt.observe.resource_control import ResourceControl
    from simvirt.observe.results import Run
    from simvirt.observe.site_table import SiteTable
    from simvirt.strategies.strategy import MapRule

COMPARE_SCHEMA: Final = "simvirt.compare/1"


class Equivalence(Enum):
    """Did the guest behave as on the bare machine?"""

    EQUIVALENT = "equivalent"
    """Both runs reached their end, and no checkpoint differed."""
    DIVERGED = "diverged"
    UNDETERMINED = "undetermined"
    """No difference, but the comparison was stopped (by the limit or by hand) before the guest's end."""
    NOT_APPLICABLE = "not-applicable"
    """The strategy cannot run this guest at all."""


@dataclass(frozen=True, slots=True)
class FirstDivergence:
    """The earliest instruction after which the two runs part.

    Attributes:
        instruction: its number, from 1, in the order of execution; 0 if the runs differ before the first.
        address: linear address of the instruction on the reference.
        mnemonic: the instruction, disassembled.
        component: what differs: a register by the manual's name, memory by its guest-physical address, console,
            outcome.
        reference_value: the component on the bare machine.
        value: the component under the strategy.
        explanation: why.
        symbol: the place by the guest's own names, as ``main+0x10``.
        source: the place as ``file:line``.
        components: everything that differs after this instruction.
    """

    instruction: int
    address: int
    mnemonic: str
    component: str
    reference_value: int | str
    value: int | str
    explanation: str
    symbol: str | None = None
    source: str | None = None
    components: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "instruction": self.instruction,
            "address": self.address,
            "mnemonic": self.mnemonic,
            "component": self.component,
            "reference_value": self.reference_value,
            "value": self.value,
            "explanation": self.explanation,
        }

    def __str__(self) -> str:
        return (
            f"instruction {self.instruction:,} at {self.place}: {self.mnemonic}\n"
            f"  {self.component}: {shown(self.reference_value)} on the reference, {shown(self.value)} here\n"
            f"  {self.explanation}"
        )

    @property
    def place(self) -> str:
        """Address, symbol and source line."""
        parts = [f"{self.address:#010x}"]
        if self.symbol:
            parts.append(f"<{self.symbol}>")
        if self.source:
            parts.append(f"({self.source})")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one strategy's run showed of the three properties.

    Attributes:
        exemptions: what was not compared, or not as it stands, each in a sentence.
        vm_map: the lines of the VM map among them; for people, not in JSON.
        checkpoints: how often the runs were compared; likewise.
        obstacle: why the strategy cannot run this guest, when it cannot.
    """

    equivalence: Equivalence
    exemptions: tuple[str, ...]
    first_divergence: FirstDivergence | None
    efficiency: Efficiency
    resource_control: ResourceControl
    obstacle: str | None = None
    vm_map: tuple[MapRule, ...] = ()
    checkpoints: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "equivalence": self.equivalence.value,
            "exemptions": list(self.exemptions),
            "first_divergence": self.first_divergence.to_dict() if self.first_divergence else None,
            "efficiency": self.efficiency.to_dict(),
            "resource_control": self.resource_control.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class Comparison(Showable):
    """One guest under several strategies, against the bare machine.

    Attributes:
        guest: its name.
        reference: name of the strategy that the others are compared with.
        runs: the reference's run first; none for a strategy that cannot run the guest.
        verdicts: by the strategy's name, the reference apart.
        sites: site against strategy, for a guest whose symbols ``site_*`` name instructions to be shown one by one.
    """

    guest: str
    reference: str
    runs: tuple[Run, ...]
    verdicts: Mapping[str, Verdict]
    sites: SiteTable | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        verdicts = [f"{name} {verdict.equivalence.value}" for name, verdict in self.verdicts.items()]
        return f"<Comparison of {self.guest} with {self.reference}: {', '.join(verdicts) or 'nothing'}>"

    def run(self, strategy: str) -> Run:
        """The run under one strategy.

        Raises:
            KeyError: there is none.
        """
        for run in self.runs:
            if run.strategy == strategy:
                return run
        raise KeyError(strategy)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that scripts rely on."""
        return {
            "schema": COMPARE_SCHEMA,
            "guest": self.guest,
            "reference": self.reference,
            "runs": [run.to_dict() for run in self.runs],
            "verdicts": {name: verdict.to_dict() for name, verdict in self.verdicts.items()},
        }

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=indent)
