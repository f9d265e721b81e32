"""Takes the profile of a trial: samples while it runs, and a note of every exit.

Samples are taken at exact counts of instructions. The interval between them grows with the run, so that a short guest
has thousands of samples and a long one not more than it can bear; each stands for the instructions since the last.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.machine import Outcome
from simvirt.observe.code import LINEAR_32, source_at, symbol_at
from simvirt.observe.place import Place
from simvirt.observe.profile.call_stack import call_stack, function_name, privilege_name
from simvirt.observe.profile.exit_distances import ExitDistances
from simvirt.observe.profile.profile import ExitSite, FunctionTime, Profile
from simvirt.x86.addresses import Gva
from simvirt.x86.decode import decode
from simvirt.x86.instruction import Bits
from simvirt.x86.registers import SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import Enum

    from simvirt.observe.costs import CostPreset
    from simvirt.observe.trial import Trial
    from simvirt.vmm.exit_log import ExitRecord

FIRST_INTERVAL: Final = 101
"""Odd, like all of them, and prime: a loop of the guest should not keep step with the samples."""
_SAMPLES_BEFORE_IT_GROWS: Final = 4096
_EXITS_OF_A_STACK: Final = 16
"""How many exits of a site share a call stack before it is looked at again: the walk costs more than the exit."""


@dataclass(slots=True)
class _Site:
    """What is known of an exit site and reason while the guest runs."""

    record: ExitRecord
    address: Gva
    stack: tuple[str, ...] = ()
    exits: int = 0


class Profiler:
    """A trial, and what has been seen of it.

    Args:
        every: instructions between two samples; None lets the interval grow as the run goes on.
    """

    def __init__(self, trial: Trial, costs: CostPreset, every: int | None = None) -> None:
        self._trial = trial
        self._costs = costs
        self._every = every
        self._samples = self._whole_stacks = 0
        self._sampled_to = 0
        self._last_exit: int | None = None
        self._functions: Counter[tuple[str, str]] = Counter()
        self._sites: dict[tuple[int, int, int, Enum], _Site] = {}
        self._distances: Counter[int] = Counter()
        self._stacks: Counter[tuple[str, ...]] = Counter()
        trial.log.listener = self._note_exit

    def run(self, limit: int, progress: Callable[[int, float], None] | None = None) -> Profile:
        """Run the trial to its end, or to `limit` instructions."""
        trial = self._trial
        outcome: Outcome | None = None
        while outcome is None and trial.count < limit:
            interval = self._every or max(FIRST_INTERVAL, trial.count // _SAMPLES_BEFORE_IT_GROWS | 1)
            outcome = trial.advance(min(limit, trial.count + interval))
            if outcome is not Outcome.MONITOR_ERROR:
                self._sample()
            if progress is not None:
                progress(trial.count, trial.host_seconds)
        return self._profile()

    def _sample(self) -> None:
        trial = self._trial
        weight = trial.count - self._sampled_to
        if not weight:
            return
        stack = call_stack(trial, trial.machine.processor.guest_state())
        names = stack.names
        self._samples += 1
        self._whole_stacks += stack.is_whole
        self._sampled_to = trial.count
        self._functions[names[-1], names[0]] += weight
        self._stacks[names] += weight * self._costs.instruction.cycles

    def _note_exit(self, record: ExitRecord) -> None:
        if self._last_exit is not None:
            self._distances[record.instruction - self._last_exit] += 1
        self._last_exit = record.instruction
        key = (record.cs, record.rip, record.cpl, record.reason)
        site = self._sites.get(key)
        if site is None:
            site = self._sites[key] = _Site(record, self._address_of(record))
        if site.exits % _EXITS_OF_A_STACK == 0:
            site.stack = self._stack_of(site)
        site.exits += 1
        self._stacks[(*site.stack, f"exit: {record.reason.name}")] += self._costs.of_exit(record.reason)

    def _address_of(self, record: ExitRecord) -> Gva:
        """Linear address of an exit's instruction."""
        if record.bits == Bits.CODE_64:
            return Gva(record.rip)
        code = self._trial.machine.processor.guest_state().segments[SegmentRegister.CS]
        base = code.base if code.selector == record.cs else 0  # a few exits are noted when the instruction is done
        return Gva((base + record.rip) & LINEAR_32)

    def _stack_of(self, site: _Site) -> tuple[str, ...]:
        """The functions that an exit's instruction is in."""
        callers = call_stack(self._trial, self._trial.machine.processor.guest_state()).names[1:-1]
        return (privilege_name(site.record.cpl), *callers, function_name(self._trial.image, site.address))

    def _profile(self) -> Profile:
        trial, costs = self._trial, self._costs
        exits: Counter[tuple[str, str]] = Counter()
        cycles: Counter[tuple[str, str]] = Counter()
        sites = []
        for site in self._sites.values():
            record = site.record
            cost = site.exits * costs.of_exit(record.reason)
            function = function_name(trial.image, site.address), privilege_name(record.cpl)
            exits[function] += site.exits
            cycles[function] += cost
            sites.append(ExitSite(self._place(site), record.reason.name, site.exits, cost))
        functions = [
            FunctionTime(
                name, privilege, self._functions[name, privilege], exits[name, privilege], cycles[name, privilege]
            )
            for name, privilege in {**self._functions, **exits}
        ]
        per_instruction = costs.instruction.cycles
        functions.sort(key=lambda each: (-each.instructions * per_instruction - each.exit_cycles, each.name))
        sites.sort(key=lambda site: (-site.exit_cycles, site.place.address, site.reason))
        run = trial.finish(costs)
        return Profile(
            run=run,
            instruction_cycles=per_instruction,
            samples=self._samples,
            whole_stacks=self._whole_stacks,
            asleep_ns=max(0, run.virtual_ns - run.counted.instructions),
            functions=tuple(functions),
            sites=tuple(sites),
            distances=ExitDistances(dict(self._distances)),
            stacks=dict(self._stacks),
        )

    def _place(self, site: _Site) -> Place:
        image, record, address = self._trial.image, site.record, site.address
        bits = Bits(record.bits)
        code = decode(record.code, record.rip, bits).encoding if record.code else b""
        return Place(address, record.rip, code, bits, symbol_at(image, address), source_at(image, address))
