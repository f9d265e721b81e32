"""Comparison in step: what is equivalent, what cannot be said, and where runs are compared."""

from __future__ import annotations

import pytest

from simvirt.guests.catalogue import guests
from simvirt.machine.machine import Outcome
from simvirt.observe.comparison import Equivalence
from simvirt.observe.equivalence import FIRST_INTERVAL, LARGEST_INTERVAL, Checkpoints
from simvirt.observe.session import compare
from simvirt.x86.registers import GeneralRegister
from tests.observe.faulty import Faulty, flip_register

SHORT = [entry.name for entry in guests() if not entry.name.startswith("bench-") and entry.name != "spin"]


@pytest.mark.parametrize("guest", SHORT)
def test_a_machine_is_equivalent_to_itself(guest: str) -> None:
    comparison = compare(guest, [Faulty()])
    assert comparison.verdicts["faulty"].equivalence is Equivalence.EQUIVALENT
    assert comparison.verdicts["faulty"].first_divergence is None
    reference, other = (run.to_dict() for run in comparison.runs)
    for same in ("outcome", "guest_status", "console", "counted", "config"):
        assert reference[same] == other[same]


@pytest.mark.parametrize("guest", ["hello", "ticker", "triple-fault"])
@pytest.mark.parametrize("strategy", ["trap-and-emulate", "vtx"])
def test_the_shipped_strategies_at_every_single_instruction(guest: str, strategy: str) -> None:
    assert compare(guest, [strategy], interval=1).verdicts[strategy].equivalence is Equivalence.EQUIVALENT


def test_undetermined_when_the_limit_comes_first() -> None:
    comparison = compare("spin", [Faulty()], max_instructions=50_000)
    assert comparison.verdicts["faulty"].equivalence is Equivalence.UNDETERMINED
    assert {run.outcome for run in comparison.runs} == {Outcome.LIMIT}
    assert {run.counted.instructions for run in comparison.runs} == {50_000}


def test_not_applicable_where_the_strategy_cannot() -> None:
    comparison = compare("hello", [Faulty(hindrance="it needs another processor")])
    verdict = comparison.verdicts["faulty"]
    assert verdict.equivalence is Equivalence.NOT_APPLICABLE
    assert verdict.obstacle == "it needs another processor"
    assert verdict.efficiency.direct_fraction is None
    assert [run.strategy for run in comparison.runs] == ["bare-metal"]


def test_one_strategy_that_goes_wrong_does_not_disturb_another() -> None:
    wrong = Faulty(50, flip_register(GeneralRegister.RDI), name="wrong")
    comparison = compare("hello", [wrong, Faulty(name="right")])
    assert comparison.verdicts["wrong"].equivalence is Equivalence.DIVERGED
    assert comparison.verdicts["right"].equivalence is Equivalence.EQUIVALENT


def test_a_guest_gone_astray_is_stopped_in_the_end() -> None:
    def jump_to_itself(machine: object) -> None:
        from simvirt.machine.machine import Machine
        from simvirt.x86.addresses import Gpa

        assert isinstance(machine, Machine)
        machine.write_physical(Gpa(machine.processor.guest_state().rip), b"\xeb\xfe")

    comparison = compare("hello", [Faulty(100, jump_to_itself)])
    run = comparison.run("faulty")
    assert run.outcome is Outcome.LIMIT
    assert run.config.max_instructions == run.counted.instructions < 2_000_000


def test_checkpoints_grow_up_to_a_limit() -> None:
    checkpoints, at, distances = Checkpoints(), 0, []
    for _ in range(300):
        following = checkpoints.after(at)
        distances.append(following - at)
        at = following
    assert distances == sorted(distances)
    assert distances[0] == FIRST_INTERVAL
    assert distances[-1] == LARGEST_INTERVAL


def test_progress_is_told_of_the_reference() -> None:
    seen: list[tuple[int, float]] = []
    compare("popf-mask", [Faulty()], progress=lambda instructions, seconds: seen.append((instructions, seconds)))
    assert [instructions for instructions, _ in seen] == sorted(instructions for instructions, _ in seen)
    assert seen[-1][0] == 2_006_238
