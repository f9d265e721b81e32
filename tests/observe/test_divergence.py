"""The first divergence is found at exactly the instruction at which a known fault happens, whatever it is."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from simvirt.errors import MonitorError
from simvirt.guests.image import GuestImage
from simvirt.guests.resolve import resolve
from simvirt.machine.machine import Machine
from simvirt.observe.comparison import Equivalence, FirstDivergence
from simvirt.observe.divergence import Interval, Pair, find_first_divergence
from simvirt.observe.results import RunConfig
from simvirt.observe.session import compare
from simvirt.observe.trial import Trial
from simvirt.strategies.bare_metal import BareMetal
from simvirt.strategies.strategy import MachineConfig, Virtualized
from simvirt.x86.registers import GeneralRegister
from tests.observe.faulty import Change, Faulty, fail, flip_flags, flip_memory, flip_register, put_console

QUIET_PAGE = 0x300000
"""Guest memory that none of the guests here uses."""
ALIGNMENT_CHECK = 1 << 18


def divergence(guest: str, strategy: Faulty, interval: int | None = None) -> FirstDivergence:
    verdict = compare(guest, [strategy], interval=interval).verdicts[strategy.name]
    assert verdict.equivalence is Equivalence.DIVERGED
    assert verdict.first_divergence is not None
    return verdict.first_divergence


@pytest.mark.parametrize(
    ("change", "component"),
    [
        (flip_register(GeneralRegister.RDI, 0x40), "EDI"),
        (flip_flags(ALIGNMENT_CHECK), "EFLAGS"),
        (flip_memory(QUIET_PAGE + 5, 0x80), f"memory at {QUIET_PAGE + 4:#x}"),
        (put_console(0x21), "console at character 0"),
    ],
)
def test_every_component_is_looked_at(change: Change, component: str) -> None:
    found = divergence("hello", Faulty(42, change))
    assert (found.instruction, found.component) == (42, component)
    assert found.components == (component,)


@pytest.mark.parametrize("at", [1, 2, 266, 267])
def test_from_the_first_instruction_to_the_last(at: int) -> None:
    assert divergence("hello", Faulty(at, flip_memory(QUIET_PAGE))).instruction == at


@pytest.mark.parametrize("at", [9_999, 10_000, 10_001, 20_000, 655_360, 1_234_567])
def test_around_checkpoints_and_far_from_them(at: int) -> None:
    assert divergence("popf-mask", Faulty(at, flip_memory(QUIET_PAGE))).instruction == at


@pytest.mark.parametrize("interval", [1, 7, 100_000])
def test_the_interval_does_not_change_what_is_found(interval: int) -> None:
    assert divergence("ticker", Faulty(1_500, flip_memory(QUIET_PAGE)), interval).instruction == 1_500


def test_values_place_and_explanation() -> None:
    found = divergence("hello", Faulty(100, flip_register(GeneralRegister.RBX, 4)))
    assert isinstance(found.reference_value, int)
    assert isinstance(found.value, int)
    assert found.reference_value ^ found.value == 4
    image = resolve("hello")
    trial = Trial(image, BareMetal(), RunConfig("core2", 64 << 20, 0, 1000))
    trial.advance(99)
    state = trial.machine.processor.guest_state()
    assert found.address == state.rip  # the guest's segments are flat
    assert found.symbol is not None
    assert found.source is not None
    assert "not called" in found.explanation


def test_what_has_gone_before_the_next_checkpoint_is_missed_and_the_report_says_so() -> None:
    def flip_and_back(machine: Machine) -> None:
        flip_memory(QUIET_PAGE)(machine)
        flip_memory(QUIET_PAGE)(machine)

    comparison = compare("hello", [Faulty(100, flip_and_back)], interval=50)
    verdict = comparison.verdicts["faulty"]
    assert verdict.equivalence is Equivalence.EQUIVALENT
    assert any("between two checkpoints (every 50 instructions)" in text for text in verdict.exemptions)


def test_a_failing_monitor_diverges_where_it_fails() -> None:
    comparison = compare("hello", [Faulty(77, fail(RuntimeError("the monitor has a bug")))])
    found = comparison.verdicts["faulty"].first_divergence
    assert found is not None
    assert (found.instruction, found.component) == (77, "outcome")
    assert "the monitor has a bug" in str(found.value)
    assert comparison.run("faulty").error is not None


def test_machines_that_differ_from_the_beginning() -> None:
    class Spoilt(Faulty):
        def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
            built = super().build(image, config)
            flip_memory(QUIET_PAGE)(built.machine)
            return built

    found = divergence("hello", Spoilt())
    assert (found.instruction, found.component) == (0, f"memory at {QUIET_PAGE:#x}")
    assert "before the first instruction" in found.explanation


def test_an_interrupt_that_is_delivered_wrongly() -> None:
    class Shifted(Faulty):
        def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
            built = super().build(image, config)
            below = built.machine.processor

            class Processor:
                def inject_interrupt(self, vector: int) -> None:
                    below.inject_interrupt(vector)
                    flip_flags(ALIGNMENT_CHECK)(built.machine)

                def __getattr__(self, name: str) -> Any:
                    return getattr(below, name)

            built.machine.processor = Processor()
            return built

    found = divergence("ticker", Shifted(), interval=1)
    assert found.component == "EFLAGS"
    assert "Both took vector 0x20 here" in found.explanation


def test_a_write_that_nobody_logged_is_seen_at_the_end() -> None:
    def write_behind_everybody(machine: Machine) -> None:
        machine.memory.view[QUIET_PAGE] ^= 1

    found = divergence("hello", Faulty(100, write_behind_everybody))
    assert found.component == f"memory at {QUIET_PAGE:#x}"


def test_the_search_is_repeatable() -> None:
    strategy = Faulty(12_345, flip_register(GeneralRegister.RSI))
    first, second = (compare("sensitive", [strategy]).verdicts["faulty"].to_dict() for _ in range(2))
    assert first == second


def test_a_strategy_that_is_not_deterministic_is_caught() -> None:
    image, config = resolve("hello"), RunConfig("core2", 64 << 20, 0, 1000)

    def fresh() -> Pair:
        return Pair(Trial(image, BareMetal(), config), Trial(image, Faulty(), config))

    with pytest.raises(MonitorError, match="not deterministic"):
        find_first_divergence(fresh, Interval(10, 200))


def test_a_long_interval_is_divided() -> None:
    made = count()
    image, config = resolve("popf-mask"), RunConfig("core2", 64 << 20, 0, 10**7)

    def fresh() -> Pair:
        next(made)
        reference = Trial(image, BareMetal(), config)
        return Pair(reference, Trial(image, Faulty(1_500_001, flip_memory(QUIET_PAGE)), config))

    assert find_first_divergence(fresh, Interval(1_000_000, 2_000_000)).instruction == 1_500_001
    assert next(made) == 3  # divided once, stepped, and looked at closely
