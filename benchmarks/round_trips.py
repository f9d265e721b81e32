"""What one exit costs: from the guest's instruction through Python and back to the guest's next instruction."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Figure, Section, Target, Unit, at_least, at_most
from benchmarks.loop_guests import (
    CLI_STI,
    CPUID,
    EMPTY,
    FIRST_ACCESS,
    OUT,
    PAGE_FAULT,
    RDTSC,
    READ_CR0,
    READ_TIMER,
    SWITCH_ADDRESS_SPACES,
    SYSTEM_CALL,
    SYSTEM_CALL_BESIDE_CODE,
    TIMER,
    TIMER_AND_DEVICE,
    WRITE_CR3,
    Loop,
)
from benchmarks.machines import BARE, TAE, VTX, run_to_end
from benchmarks.timing import in_turns, tell

if TYPE_CHECKING:
    from benchmarks.plan import Plan

EXIT: Final = at_most(8)
DELIVERY: Final = at_most(10)
HIDDEN_FAULT: Final = at_most(15)
VTX_EXITS: Final = at_least(150_000)

TRIPS: Final[tuple[tuple[Loop, str, Target | None], ...]] = (
    (CPUID, BARE, None),
    (CPUID, VTX, EXIT),
    (CPUID, TAE, None),
    (RDTSC, BARE, None),
    (RDTSC, VTX, None),
    (RDTSC, TAE, None),
    (OUT, BARE, EXIT),
    (OUT, VTX, EXIT),
    (OUT, TAE, EXIT),
    (READ_TIMER, BARE, EXIT),
    (READ_TIMER, VTX, EXIT),
    (READ_TIMER, TAE, EXIT),
    (SYSTEM_CALL, BARE, DELIVERY),
    (SYSTEM_CALL, VTX, None),
    (SYSTEM_CALL, TAE, EXIT),
    (SYSTEM_CALL_BESIDE_CODE, BARE, DELIVERY),
    (CLI_STI, TAE, EXIT),
    (READ_CR0, TAE, EXIT),
    (WRITE_CR3, BARE, None),
    (WRITE_CR3, TAE, EXIT),
    (SWITCH_ADDRESS_SPACES, BARE, None),
    (SWITCH_ADDRESS_SPACES, TAE, HIDDEN_FAULT),
    (PAGE_FAULT, BARE, DELIVERY),
    (PAGE_FAULT, VTX, None),
    (PAGE_FAULT, TAE, DELIVERY),
    (FIRST_ACCESS, BARE, None),
    (FIRST_ACCESS, TAE, HIDDEN_FAULT),
    (TIMER, BARE, DELIVERY),
    (TIMER, VTX, None),
    (TIMER, TAE, None),
    (TIMER_AND_DEVICE, BARE, None),
    (TIMER_AND_DEVICE, VTX, None),
    (TIMER_AND_DEVICE, TAE, None),
)
"""What is measured where, and what is wanted of it. Without a target: answered natively, or more than one exit."""


def run(plan: Plan) -> Section:
    """Time every trip, in turns with an empty loop of as many rounds, which is subtracted."""
    tell("round trips")
    events: dict[tuple[Loop, str], int] = {}
    natives = {(loop.rounds_per_event, strategy) for loop, strategy, _ in TRIPS}

    def timed(loop: Loop, strategy: str, iterations: int) -> float:
        seconds, machine = run_to_end(loop.image(iterations), strategy)
        events[loop, strategy] = machine.board.exit_status or iterations
        return seconds

    timings = in_turns(
        {(loop, strategy): partial(timed, loop, strategy, plan.iterations) for loop, strategy, _ in TRIPS}, plan.rounds
    )
    empty = in_turns(
        {(n, strategy): partial(timed, EMPTY, strategy, plan.iterations * n) for n, strategy in natives}, plan.rounds
    )
    figures = []
    for loop, strategy, target in TRIPS:
        exits = loop.exits if strategy == TAE and loop not in (TIMER, TIMER_AND_DEVICE) else 1
        each = 1e6 / (events[loop, strategy] * exits)
        timing, around = timings[loop, strategy], empty[loop.rounds_per_event, strategy]
        least, middle = timing.least - around.least, timing.median - around.median
        figures.append(
            Figure(strategy, loop.name, max(least, 0) * each, Unit.MICROSECONDS, max(middle, 0) * each, target)
        )
    cpuid = next(f for f in figures if f.subject == VTX and f.quantity == CPUID.name)
    figures.append(
        Figure(VTX, "exits a second (CPUID)", 1e6 / max(cpuid.value, 1e-3), Unit.PER_SECOND, None, VTX_EXITS)
    )
    notes = (
        f"Processor time, the least of all rounds: {plan.iterations:,} repetitions in a loop, which is subtracted.",
        "Under trap-and-emulate CLI, STI, INT 0x80, #PF and IRET are an exit each; the figure is that of one exit.",
        "The first access to a page is a hidden fault under trap-and-emulate: its page tables are shadows.",
        "A timer interrupt is a deadline of the 8254, the acknowledge cycle, the delivery, and an OUT to the 8259A.",
        "On bare metal it is taken by a standing order of the devices, who are told as soon as the guest touches one.",
        "INT 0x80 and page faults are delivered natively on bare metal and under vtx, and so is the interrupt itself.",
        "Under trap-and-emulate native code delivers them, and carries out IRET, once the VMM has counted the exit.",
    )
    return Section("round-trips", "Round trips", tuple(figures), notes)
