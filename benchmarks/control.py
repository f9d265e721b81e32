"""What it costs to stop exactly, to step, to save and restore, and to compare."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Figure, Section, Unit
from benchmarks.machines import BARE, STRATEGIES, VTX, build
from benchmarks.timing import cpu_seconds, in_turns, tell
from simvirt.guests import catalogue
from simvirt.observe.session import compare
from simvirt.observe.session import run as run_guest

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.plan import Plan

_GUEST: Final = "bench-dhrystone"
_WARM: Final = 1_000_000
_STRIDE: Final = 997
"""Instructions between two stops; a prime, so that stops fall everywhere in a block."""


def run(plan: Plan) -> Section:
    """Stops, steps and snapshots under each strategy."""
    tell("stops, steps, snapshots")
    figures: list[Figure] = []
    for strategy in STRATEGIES:
        figures += _one_strategy(plan, strategy)
    notes = (
        f"On {_GUEST}, after {_WARM:,} instructions; stops {_STRIDE} apart; the running itself is subtracted.",
        "A snapshot holds everything; the dirty log that a comparison uses is cheaper.",
    )
    return Section("control", "Stopping, stepping, saving", tuple(figures), notes)


def _one_strategy(plan: Plan, strategy: str) -> list[Figure]:
    machine = build(catalogue.find(_GUEST).image(), strategy)
    machine.run_to(_WARM)
    state = machine.save()

    def stops() -> None:
        for _ in range(plan.stops):
            machine.run_to(machine.count + _STRIDE)

    def steps() -> None:
        for _ in range(plan.stops):
            machine.step()

    def at_the_start(work: Callable[[], object]) -> float:
        machine.restore(state)
        machine.run_to(_WARM + _STRIDE)  # what a restored engine has to translate anew is not the question
        return cpu_seconds(work)

    timings = in_turns(
        {
            "stops": partial(at_the_start, stops),
            "through": partial(at_the_start, lambda: machine.run_to(machine.count + plan.stops * _STRIDE)),
            "steps": partial(at_the_start, steps),
            "save": partial(_repeated, machine.save),
            "restore": partial(_repeated, lambda: machine.restore(state)),
        },
        plan.rounds,
    )
    each = 1e6 / plan.stops
    stop = (timings["stops"].least - timings["through"].least) * each
    return [
        Figure(strategy, "run_to: one more stop", max(stop, 0), Unit.MICROSECONDS),
        Figure(strategy, "step", timings["steps"].least * each, Unit.MICROSECONDS, timings["steps"].median * each),
        Figure(
            strategy,
            "save, 64 MiB machine",
            timings["save"].least * 1e3,
            Unit.MILLISECONDS,
            timings["save"].median * 1e3,
        ),
        Figure(
            strategy,
            "restore, the same",
            timings["restore"].least * 1e3,
            Unit.MILLISECONDS,
            timings["restore"].median * 1e3,
        ),
    ]


def _repeated(work: Callable[[], object], times: int = 3) -> float:
    return cpu_seconds(lambda: [work() for _ in range(times)]) / times


def run_comparisons(plan: Plan) -> Section:
    """Whole comparisons, against the runs that they compare."""
    figures: list[Figure] = []
    for name in plan.compared:
        tell(f"comparison: {name}")
        timings = in_turns(
            {
                "runs": partial(cpu_seconds, partial(_two_runs, name)),
                "compared": partial(cpu_seconds, partial(compare, name, VTX)),
                "all": partial(cpu_seconds, partial(compare, name)),
            },
            plan.rounds,
        )
        runs, compared, everything = timings["runs"], timings["compared"], timings["all"]
        ratio, middle = runs.times_as_fast_as(compared)
        figures += [
            Figure(name, "run on bare metal and under vtx", runs.least, Unit.SECONDS, runs.median),
            Figure(name, "compare with vtx", compared.least, Unit.SECONDS, compared.median),
            Figure(name, "compare with vtx / the two runs", ratio, Unit.RATIO, middle),
            Figure(name, "compare with all strategies", everything.least, Unit.SECONDS, everything.median),
        ]
    notes = ("Processor seconds in one process, the building of the machines included.",)
    return Section("comparison", "Comparing", tuple(figures), notes)


def _two_runs(name: str) -> None:
    run_guest(name, BARE)
    run_guest(name, VTX)
