"""Profiles: what is counted in them agrees with the run and with single steps."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from simvirt.guests.flat import flat_image
from simvirt.guests.symbols import Symbol, SymbolTable
from simvirt.observe.costs import find_costs
from simvirt.observe.profile.profile import Profile
from simvirt.observe.profile.profiler import Profiler
from simvirt.observe.session import profile, run
from simvirt.observe.trial import Trial
from simvirt.strategies.registry import find
from simvirt.x86.addresses import Gva
from tests.observe.profile.support import CONFIG, FRAMES, NAMES

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage


@pytest.fixture(scope="module")
def frames() -> GuestImage:
    """outer() calls inner() ten times, both with frame pointers, and inner() writes to a port."""
    names = SymbolTable.of(Symbol(Gva(at), size, name) for at, size, name in NAMES)
    return replace(flat_image(FRAMES, "frames"), symbols=names)


@pytest.mark.parametrize("strategy", ["bare-metal", "trap-and-emulate", "vtx"])
def test_totals_are_the_runs(strategy: str) -> None:
    result, plain = profile("rings", strategy), run("rings", strategy)
    assert result.run.counted == plain.counted
    assert result.run.modelled == plain.modelled
    assert sum(each.instructions for each in result.functions) == plain.counted.instructions
    assert sum(each.exits for each in result.functions) == plain.counted.interventions
    assert Counter({site.reason: 0 for site in result.sites}) | _by_reason(result) == Counter(plain.counted.vm_exits)
    assert result.distances.total == max(0, plain.counted.interventions - 1)


def _by_reason(result: Profile) -> Counter[str]:
    counts = Counter[str]()
    for site in result.sites:
        counts[site.reason] += site.exits
    return counts


def test_a_sample_at_every_instruction_counts_each_exactly(frames: GuestImage) -> None:
    result = profile(frames, every=1)
    steps = Counter[str]()
    trial = Trial(frames, find("bare-metal"), CONFIG)
    while trial.outcome is None:
        trial.advance(trial.count + 1)
        found = frames.symbols.lookup(Gva(trial.machine.processor.guest_state().rip))
        assert found is not None
        steps[found[0]] += 1
    assert {each.name: each.instructions for each in result.functions if each.instructions} == steps
    assert result.samples == trial.count


@pytest.mark.parametrize("strategy", ["trap-and-emulate", "vtx"])
def test_call_stacks_by_frame_pointers(frames: GuestImage, strategy: str) -> None:
    result = profile(frames, strategy, every=1)
    paths = {stack for stack in result.stacks if not stack[-1].startswith("exit: ")}
    assert ("guest kernel", "start", "outer", "inner") in paths
    inner = next(each for each in result.functions if each.name == "inner")
    assert inner.exits == 10
    exits = [stack for stack in result.stacks if stack[-1].startswith("exit: ") and "inner" in stack]
    assert [stack[:-1] for stack in exits] == [("guest kernel", "start", "outer", "inner")]
    (site,) = [site for site in result.sites if site.place.symbol is not None and site.place.symbol.startswith("inner")]
    assert (site.exits, site.place.text) == (10, "out 0xe9, al")


def test_whole_stacks_and_such_that_are_cut(frames: GuestImage) -> None:
    result = profile(frames, every=1)
    assert result.whole_stacks == result.samples
    assert not result.caveat
    assert "stacks" not in str(result)
    astray = FRAMES.replace(bytes.fromhex("31 ed"), bytes.fromhex("89 e5"))  # outermost: MOV EBP, ESP
    cut = profile(replace(frames, segments=flat_image(astray, "astray").segments), every=1)
    assert cut.whole_stacks == 1  # until the frame pointer is set
    assert cut.to_dict()["counted"]["whole_stacks"] == 1
    nameless = profile(flat_image(FRAMES, "frames"), every=1)
    assert nameless.whole_stacks == 0
    assert "whole in 0% of the samples" in str(nameless)


def test_the_same_profile_twice() -> None:
    one, other = profile("ticker", "vtx"), profile("ticker", "vtx")
    assert (one.functions, one.sites, one.distances, one.stacks) == (
        other.functions,
        other.sites,
        other.distances,
        other.stacks,
    )
    assert one.asleep_ns > 0


def test_stacks_add_up_to_the_cycles(frames: GuestImage) -> None:
    result = profile(frames, "vtx", costs="haswell-2013")
    emulated = result.run.counted.emulated_instructions
    assert sum(result.stacks.values()) == result.run.modelled.cycles + emulated * result.instruction_cycles
    folded = dict(line.rsplit(" ", 1) for line in result.folded().splitlines())
    assert sum(map(int, folded.values())) == sum(result.stacks.values())


def test_a_guest_without_symbols_is_told_by_pages() -> None:
    result = profile(flat_image(FRAMES, "frames"), "vtx")
    assert {each.name for each in result.functions} == {"[0x00100000]"}


def test_a_fault_of_the_monitor_leaves_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(flat_image(FRAMES, "frames"), find("vtx"), CONFIG)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(trial.machine, "run_to", fail)
    result = Profiler(trial, find_costs("core2-2006")).run(1000)
    assert result.run.error is not None
    assert result.functions == ()


def test_text(frames: GuestImage) -> None:
    text = str(profile(frames, "vtx"))
    assert "Exit sites" in text
    assert "out 0xe9, al" in text
    assert "Guest instructions from one exit to the next" in text
