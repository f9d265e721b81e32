"""Guests that compute: how fast instructions run when nobody has to intervene.

simvirt counts them, and could stop at any of them. Against it: the bare engine that it is built on, QEMU, and Bochs.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks import bare_unicorn, bochs, qemu
from benchmarks.figures import Figure, Section, Target, Timing, Unit, at_least
from benchmarks.machines import BARE, STRATEGIES, TAE, VTX, run_to_end
from benchmarks.timing import in_turns, tell
from simvirt.guests import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.plan import Plan

    Emulator = Callable[[catalogue.CatalogueEntry], float]

UNICORN: Final = "bare Unicorn"
QEMU: Final = "QEMU"
QEMU_COUNTED: Final = "QEMU -icount"
BOCHS: Final = "Bochs"
HELLO: Final = "hello"

FASTER_THAN_UNICORN: Final = at_least(3)
STRATEGY_TO_BARE: Final = at_least(0.9)
NO_TARGET: Final = frozenset({"bench-priv", HELLO})
"""What they spend their time on is exits, not computing."""
BOCHS_ROUNDS: Final = 1


def run(plan: Plan) -> Section:
    """Time all guests of the plan on everything that is here."""
    notes = [
        "Processor seconds, the least of all rounds. simvirt, bare Unicorn: only the running, no building of machines.",
        "QEMU and Bochs: the whole process, less what it takes with `hello`. QEMU's own start-up varies by some 10 ms.",
    ]
    others = _others(notes)
    start_up = _start_up(plan, others)
    figures: list[Figure] = []
    for name in plan.guests:
        tell(f"compute: {name}")
        figures += _guest(plan, catalogue.find(name), others, start_up)
    return Section("compute", "Guests that compute", tuple(figures), tuple(notes))


def _others(notes: list[str]) -> dict[str, Emulator]:
    """The emulators that are here, each as a function that runs a guest of the catalogue."""
    found: dict[str, Emulator] = {}
    if qemu.is_installed():
        found[QEMU] = lambda entry: qemu.run(entry.image_path)
        found[QEMU_COUNTED] = lambda entry: qemu.run(entry.image_path, qemu.COUNTED)
    else:
        notes.append(f"QEMU is not compared: {qemu.PROGRAM} is not installed (Debian: qemu-system-x86).")
    if bochs.is_installed():
        tell("compute: looking how Bochs wants to be started")
        hello = catalogue.find(HELLO)
        machine = bochs.Bochs(hello.image(), hello.console)
        found[BOCHS] = lambda entry: machine.run(entry.image(), entry.console)
    else:
        notes.append("Bochs is not compared: it is not installed (Debian: bochs and bochs-term).")
    return found


def _start_up(plan: Plan, others: dict[str, Emulator]) -> dict[str, float]:
    """What the other emulators take before the first instruction of a guest, and after its last."""
    hello = catalogue.find(HELLO)
    contestants = {name: partial(emulator, hello) for name, emulator in others.items()}
    return {name: timing.least for name, timing in in_turns(contestants, plan.rounds).items()}


def _guest(
    plan: Plan, entry: catalogue.CatalogueEntry, others: dict[str, Emulator], start_up: dict[str, float]
) -> list[Figure]:
    image = entry.image()
    instructions: dict[str, int] = {}

    def ours(strategy: str) -> float:
        seconds, machine = run_to_end(image, strategy)
        instructions[strategy] = machine.count
        return seconds

    contestants: dict[str, Callable[[], float]] = {strategy: partial(ours, strategy) for strategy in STRATEGIES}
    contestants[UNICORN] = partial(bare_unicorn.run, image)
    contestants |= {name: partial(emulator, entry) for name, emulator in others.items() if name != BOCHS}
    timings = in_turns(contestants, plan.rounds)
    if BOCHS in others:
        timings |= in_turns({BOCHS: partial(others[BOCHS], entry)}, BOCHS_ROUNDS)
    return _figures(entry.name, timings, start_up, instructions[BARE])


def _figures(name: str, timings: dict[str, Timing], start_up: dict[str, float], instructions: int) -> list[Figure]:
    net = {who: max(timing.least - start_up.get(who, 0), 1e-9) for who, timing in timings.items()}
    figures = [
        Figure(name, f"{who}: time", net[who], Unit.SECONDS, max(timing.median - start_up.get(who, 0), 0))
        for who, timing in timings.items()
    ]
    figures += [
        Figure(name, f"{who}: speed", instructions / net[who] / 1e6, Unit.MIPS) for who in (*STRATEGIES, UNICORN)
    ]

    def ratio(ours: str, theirs: str, target: Target | None = None) -> Figure:
        """By net times; the median over rounds where both ran in all of them and start-up does not count."""
        middle = timings[ours].times_as_fast_as(timings[theirs])[1] if theirs not in start_up else None
        wanted = None if name in NO_TARGET else target
        return Figure(name, f"{ours} / {theirs}", net[theirs] / net[ours], Unit.RATIO, middle, wanted)

    figures += [
        ratio(BARE, UNICORN, FASTER_THAN_UNICORN),
        ratio(VTX, UNICORN, FASTER_THAN_UNICORN),
        ratio(TAE, UNICORN),
    ]
    figures += [ratio(TAE, BARE, STRATEGY_TO_BARE), ratio(VTX, BARE, STRATEGY_TO_BARE)]
    figures += [ratio(BARE, other) for other in (QEMU, QEMU_COUNTED, BOCHS) if other in net]
    return figures
