"""A machine of a handful of states, so small that each answer can be worked out by hand.

Mode M, relocation R (0 or 1), one configuration bit C, one register A, program counter P, one cell of storage.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from simvirt.analyzer.model.analysis import classify_form
from simvirt.analyzer.model.classification import Classification
from simvirt.analyzer.model.experiment import Observation, Pair
from simvirt.analyzer.model.form import Declared, Form
from simvirt.analyzer.model.outcome import Called, Completed, Outcome, Trap, TrapKind, Trapped
from simvirt.analyzer.model.state import Architecture, Component, Part, State, Value

M = Component("M", Part.MODE)
R = Component("R", Part.RELOCATION)
C = Component("C", Part.CONFIGURATION)
A = Component("A", Part.GENERAL)
P = Component("P", Part.PROGRAM_COUNTER)

PRIVILEGE = Trap(1, "privilege")
OPERAND = Trap(2, "operand")
CALL = Trap(3, "call")
MEMORY = Trap(4, "memory", TrapKind.MEMORY)
DIVIDE = Trap(5, "divide", TrapKind.ARITHMETIC)

Instruction = Callable[[State], Outcome]


def architecture(c0: State | None = None) -> Architecture:
    return Architecture("tiny", (M, R, C, A, P), "M", ("s",), "u", c0 or {})


@dataclass
class Tiny:
    """One instruction on the machine, with all of its pairs."""

    instruction: Instruction
    declared: Declared = field(default_factory=Declared)
    c0: State = field(default_factory=dict)
    exhaustive: bool = True
    engine: str = "tiny"

    @property
    def architecture(self) -> Architecture:
        return architecture(self.c0)

    def forms(self) -> Sequence[Form]:
        return (Form("tiny", "TINY", "TINY", declared=self.declared),)

    def form_names(self) -> Collection[str]:
        return {"tiny"}

    def form(self, identifier: str) -> Form:
        assert identifier == "tiny"
        return self.forms()[0]

    def pairs(self, form: Form) -> Iterator[Pair]:
        del form
        values: dict[Component, tuple[Value, ...]] = {M: ("s", "u"), R: (0, 1), C: (0, 1)}
        for component, (low, high) in ((M, ("s", "u")), (R, (0, 1)), (C, (0, 1))):
            others = [other for other in values if other is not component]
            for chosen in product(*(values[other] for other in others), (0, 1), (0, 1)):
                *rest, a, cell = chosen
                base: dict[str, Value] = dict(zip((other.name for other in others), rest, strict=True))
                base |= {"A": a, "P": 0, "[0]": cell}
                yield Pair(base | {component.name: low}, base | {component.name: high}, component)

    def execute(self, form: Form, start: State) -> Outcome:
        del form
        return self.instruction(start)

    def observe(self, form: Form) -> Iterator[Observation]:
        for pair in self.pairs(form):
            yield Observation(pair, (self.execute(form, pair.first), self.execute(form, pair.second)))

    def classified(self) -> Classification:
        return classify_form(self, self.forms()[0])


def done(state: State, **changed: Value) -> Outcome:
    return Completed({**state, "P": 1, **changed})


def user(state: State) -> bool:
    return state["M"] == "u"


# The papers' own examples ------------------------------------------------------------------------------------------
def lpsw(s: State) -> Outcome:
    """LPSW (System/360): loads M and R from storage; traps in user mode."""
    return Trapped(PRIVILEGE, s) if user(s) else done(s, M="us"[int(s["[0]"])], R=s["A"])


def jrst_1(s: State) -> Outcome:
    """JRST 1 (PDP-10): return to user mode; in user mode a jump."""
    return done(s, M="u")


def lra(s: State) -> Outcome:
    """LRA (360/67) as if unprivileged: loads the real address."""
    return done(s, A=s["R"])


def lra_360_67(s: State) -> Outcome:
    """LRA as it is on the 360/67: privileged."""
    return Trapped(PRIVILEGE, s) if user(s) else lra(s)


def mfpi(s: State) -> Outcome:
    """MFPI (PDP-11/45): reads from the previous space, which depends on the mode."""
    return done(s, A=0 if user(s) else 1)


def load(s: State) -> Outcome:
    """An innocuous load."""
    return done(s, A=s["[0]"])


def far_load(s: State) -> Outcome:
    """A load that exceeds the bounds for R = 1."""
    return Trapped(MEMORY, s) if s["R"] == 1 else load(s)


def halt(s: State) -> Outcome:
    """HALT: privileged, and by the letter sensitive in nothing but that its trap changes the mode."""
    return Trapped(PRIVILEGE, s) if user(s) else done(s)


# Modern machines ---------------------------------------------------------------------------------------------------
def svc(s: State) -> Outcome:
    """A system call."""
    return Called(CALL, s)


def wrmsr(s: State) -> Outcome:
    """Privileged, with an operand that is refused in supervisor mode too."""
    if user(s):
        return Trapped(PRIVILEGE, s)
    return Trapped(OPERAND, s) if s["A"] == 1 else done(s, C=s["[0]"])


def popf(s: State) -> Outcome:
    """Loads a flag of the configuration; in user mode silently does not."""
    return done(s) if user(s) else done(s, C=s["[0]"])


def pushf(s: State) -> Outcome:
    """Reads the configuration."""
    return done(s, A=s["C"])


def in_port(s: State) -> Outcome:
    """Privileged unless the configuration gives the privilege away."""
    return Trapped(PRIVILEGE, s) if user(s) and s["C"] == 0 else done(s, A=1)


def fadd(s: State) -> Outcome:
    """Traps if the configuration says so."""
    return Trapped(OPERAND, s) if s["C"] else done(s, A=1)


def pop_ss(s: State) -> Outcome:
    """Wants a selector of the current privilege: traps in one mode, works in the other."""
    return done(s) if user(s) == bool(s["A"]) else Trapped(OPERAND, s)


def div(s: State) -> Outcome:
    """Divides by A."""
    return done(s) if s["A"] else Trapped(DIVIDE, s)


def undefined(s: State) -> Outcome:
    """No instruction."""
    return Trapped(OPERAND, s)
