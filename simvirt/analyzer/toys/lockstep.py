"""Equivalence, instruction by instruction: the bare machine beside the virtual one (§5 of the paper, the VM map f).

The virtual machine's state is to be seen whenever the real machine is about to execute an instruction of the guest. So
the two are compared there: after each instruction or trap of the bare machine, f of its state is the virtual one's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simvirt.analyzer.toys.monitor import computer

if TYPE_CHECKING:
    from simvirt.analyzer.finite.description import Description
    from simvirt.analyzer.toys.computer import Computer, Snapshot
    from simvirt.analyzer.toys.monitor import Monitored


@dataclass(frozen=True, slots=True)
class Equivalence:
    """What came of running the two in step.

    :ivar steps: instructions and traps of the bare machine that were compared.
    :ivar halted: both halted.
    :ivar divergence: the number of the first step after which they differ, None if they do not.
    :ivar bare: the bare machine's last state that was compared.
    :ivar virtual: the virtual machine's.
    :ivar direct: of the guest's instructions, those that the real machine executed.
    :ivar monitor: instructions of the monitor.
    :ivar traps: traps to the monitor.
    """

    steps: int
    halted: bool
    divergence: int | None
    bare: Snapshot
    virtual: Snapshot
    direct: int
    monitor: int
    traps: int


def in_step(description: Description, monitored: Monitored, *, limit: int = 10_000) -> Equivalence:
    """The guest of `monitored` on a machine of its own, and under its monitor, for at most `limit` steps."""
    bare = computer(description, monitored.guest)
    real = computer(description, monitored.whole)
    _to_guest(real, monitored)
    steps, divergence = 0, None
    expected, found = bare.snapshot(), _virtual(real, monitored)
    while steps < limit and divergence is None:
        if expected != found:
            divergence = steps
        elif bare.halted or real.halted:
            break
        else:
            bare.step()
            real.step()
            _to_guest(real, monitored)
            steps += 1
            expected, found = bare.snapshot(), _virtual(real, monitored)
    return Equivalence(
        steps=steps,
        halted=bare.halted and real.halted,
        divergence=divergence,
        bare=expected,
        virtual=found,
        direct=real.executed["u"],
        monitor=real.executed["s"],
        traps=sum(real.traps.values()),
    )


def _to_guest(real: Computer, monitored: Monitored) -> None:
    """Let the monitor do its work: until the guest's next instruction, or HALT.

    A hybrid monitor that interprets an instruction of the supervisor's is back at "resume", by which all its ways lead.
    """
    resume = monitored.symbols["resume"]
    while not real.halted and real.psw.mode == "s":
        real.step()
        if real.psw.p == resume and real.storage[monitored.symbols["v_m"]] == 0 and monitored.interprets_supervisor:
            return


def _virtual(real: Computer, monitored: Monitored) -> Snapshot:
    """The virtual machine's state: M, L and B as the monitor keeps them, P and the rest in the processor or saved."""
    symbols, now = monitored.symbols, real.snapshot()
    if real.halted or now.psw.mode == "u":
        kept = monitored.virtual(now.storage, now.a, now.x)
        kept = kept if real.halted else replace(kept, psw=replace(kept.psw, p=now.psw.p))
    else:
        kept = monitored.virtual(now.storage, now.storage[symbols["saved_a"]], now.storage[symbols["saved_x"]])
    return kept
