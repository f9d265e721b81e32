"""Where the time of a run went, as a value: the guest's by function, the VMM's by exit reason and by exit site.

>>> from simvirt.observe.session import profile
>>> result = profile("rings", "vtx")
>>> sum(each.instructions for each in result.functions) == result.run.counted.instructions
True
>>> sum(site.exits for site in result.sites) == result.run.counted.interventions
True
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simvirt.observe.counts import ExitCounts
from simvirt.observe.numbers import share
from simvirt.observe.showable import Showable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simvirt.observe.place import Place
    from simvirt.observe.profile.exit_distances import ExitDistances
    from simvirt.observe.results import Run

PROFILE_SCHEMA: Final = "simvirt.profile/1"


@dataclass(frozen=True, slots=True)
class FunctionTime:
    """A function of the guest.

    Attributes:
        privilege: "guest kernel" or "guest user".
        instructions: guest instructions that its samples stand for.
        exits: exits that happened in it, exactly counted.
        exit_cycles: what they cost, by the cost preset.
    """

    name: str
    privilege: str
    instructions: int
    exits: int
    exit_cycles: int


@dataclass(frozen=True, slots=True)
class ExitSite:
    """One instruction of the guest, and the exits of one reason that happened at it.

    Attributes:
        exit_cycles: what they cost, by the cost preset.
    """

    place: Place
    reason: str
    exits: int
    exit_cycles: int


@dataclass(frozen=True, slots=True)
class Profile(Showable):
    """A run, and where its time went.

    Exits are counted, each of them; the guest's own instructions are sampled, at exact counts and so the same every
    time; cycles are modelled by the preset that the run names.

    Attributes:
        instruction_cycles: cycles of one instruction that the processor executes, by the preset.
        samples: how many samples there are.
        whole_stacks: of how many the call stack leads to an outermost function. The others have been cut, where code
            keeps no frame pointer or has no symbol.
        asleep_ns: virtual time that the guest spent in HLT.
        functions: those with samples or exits, the most expensive first.
        sites: the most expensive first.
        stacks: cycles by call stack, the outermost function first; the last name of an exit's stack is its reason.
    """

    run: Run
    instruction_cycles: int
    samples: int
    whole_stacks: int
    asleep_ns: int
    functions: tuple[FunctionTime, ...]
    sites: tuple[ExitSite, ...]
    distances: ExitDistances
    stacks: Mapping[tuple[str, ...], int]

    @property
    def reasons(self) -> ExitCounts:
        """Exits by reason."""
        return ExitCounts.of(self.run)

    @property
    def vmm_cycles(self) -> int:
        """What all exits cost."""
        return sum(self.run.modelled.exit_cycles.values())

    @property
    def guest_cycles(self) -> int:
        """What the instructions cost that the processor executed."""
        return self.run.modelled.cycles - self.vmm_cycles

    @property
    def caveat(self) -> str:
        """What has to be known of the call stacks, for people; empty where they are whole."""
        if self.whole_stacks == self.samples:
            return ""
        return (
            f"whole in {share(self.whole_stacks / self.samples)} of the samples: code without frame pointers or "
            "symbols cuts the others, and callers are missing there"
        )

    def cycles_of(self, function: FunctionTime) -> int:
        """What a function cost, its own instructions and its exits."""
        return function.instructions * self.instruction_cycles + function.exit_cycles

    def folded(self) -> str:
        """The stacks in the form that flame-graph programs read: names between semicolons, a blank, cycles."""
        return "".join(f"{';'.join(stack)} {cycles}\n" for stack, cycles in sorted(self.stacks.items()))

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that scripts rely on."""
        return {
            "schema": PROFILE_SCHEMA,
            "run": self.run.to_dict(),
            "counted": {
                "samples": self.samples,
                "whole_stacks": self.whole_stacks,
                "asleep_ns": self.asleep_ns,
                "functions": [
                    {
                        "name": each.name,
                        "privilege": each.privilege,
                        "instructions": each.instructions,
                        "exits": each.exits,
                    }
                    for each in self.functions
                ],
                "sites": [
                    {
                        "address": site.place.address,
                        "symbol": site.place.symbol,
                        "source": site.place.source,
                        "instruction": site.place.text,
                        "reason": site.reason,
                        "exits": site.exits,
                    }
                    for site in self.sites
                ],
                "exit_distances": self.distances.to_dict(),
            },
            "modelled": {
                "preset": self.run.modelled.preset,
                "guest_cycles": self.guest_cycles,
                "vmm_cycles": self.vmm_cycles,
                "by_reason": dict(self.run.modelled.exit_cycles),
                "functions": [self.cycles_of(each) for each in self.functions],
                "sites": [site.exit_cycles for site in self.sites],
            },
        }

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False)
