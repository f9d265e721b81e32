"""Monitors for the third-generation machine, assembled around a guest, and nested.

The VMM and the guest are one image: the VMM below, with its own PSWs at E[0] and E[1], and the guest's storage above
it. What comes out is a program of the machine itself, so another VMM can be put below it: Theorem 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.finite.assembler import Program, assemble
from simvirt.analyzer.toys.computer import Computer, Snapshot
from simvirt.analyzer.toys.psw import MODES, Psw
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simvirt.analyzer.finite.description import Description

VECTORS: Final = 2
"""Words at the beginning of storage: the old and the new PSW."""
_PATH: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Guest:
    """A program with the machine that it is for.

    :ivar image: its storage, from E[0] on.
    :ivar size: the words of storage of its machine.
    :ivar start: the PSW that it starts with.
    """

    image: tuple[int, ...]
    size: int
    start: Psw

    @classmethod
    def of(cls, image: Sequence[int], size: int, start: Psw | None = None) -> Guest:
        """A guest that starts in supervisor mode, behind the PSWs, with all of storage, unless told otherwise."""
        return cls(tuple(image), size, start or Psw("s", VECTORS, 0, size))


@dataclass(frozen=True, slots=True)
class Monitored:
    """A guest with a monitor below it (or above, see `in_high_core`): a program in its turn.

    :ivar guest_at: where the guest's storage begins.
    :ivar symbols: the monitor's names, for whoever looks into it.
    :ivar interprets_supervisor: it is a hybrid monitor.
    """

    whole: Guest
    guest: Guest
    guest_at: int
    symbols: Mapping[str, int]
    interprets_supervisor: bool = False

    def virtual(self, storage: Sequence[int], a: int, x: int) -> Snapshot:
        """The virtual machine's state, as the monitor keeps it while the guest does not run; A and X are given."""
        values = {name: storage[self.symbols[name]] for name in ("v_m", "v_p", "v_l", "v_b")}
        psw = Psw(MODES[values["v_m"]], values["v_p"], values["v_l"], values["v_b"])
        words = list(storage[self.guest_at : self.guest_at + self.guest.size])
        words[:VECTORS] = storage[self.symbols["OLD"]], storage[self.symbols["NEW"]]
        return Snapshot(psw, a, x, tuple(words))


def monitored(description: Description, guest: Guest, *, hybrid: bool = False) -> Monitored:
    """The guest with a VMM below it; or with a hybrid monitor, which interprets all supervisor code.

    :raises UsageError: the two together are larger than the machine can be.
    """
    at = VECTORS + _length(description, hybrid=hybrid)
    places = {"GUEST": at, "OLD": at, "NEW": at + 1}
    size = at + guest.size
    program = _assembled(description, guest, places, origin=VECTORS, hybrid=hybrid)
    vectors = (0, Psw("s", program.symbols["dispatch"], 0, size).pack())
    image = (*vectors, *program.words, *guest.image)
    return Monitored(_fitting(description, Guest.of(image, size)), guest, at, program.symbols, hybrid)


def in_high_core(description: Description, guest: Guest) -> Monitored:
    """The guest where it is anyway, with a VMM above it: nothing is relocated (§6 of the paper).

    The real PSWs are where the guest's would be. So the guest's own are kept by the VMM, and the guest must begin
    with a PSW whose L keeps it away from them, and stay there.
    """
    if guest.start.l < VECTORS:
        raise UsageError(f"a guest in low core starts with L of {VECTORS} or more, to keep off the VMM's PSWs")
    base = guest.size
    length = _length(description, hybrid=False)
    places = {"GUEST": 0, "OLD": base + length, "NEW": base + length + 1}
    program = _assembled(description, guest, places, origin=base, hybrid=False)
    size = base + length + VECTORS
    padded = [*guest.image, *[0] * (guest.size - len(guest.image))]
    own = padded[:VECTORS]
    padded[:VECTORS] = 0, Psw("s", program.symbols["dispatch"], 0, size).pack()
    start = Psw("s", program.symbols["start"], 0, size)
    return Monitored(
        _fitting(description, Guest((*padded, *program.words, *own), size, start)), guest, 0, program.symbols
    )


def nested(description: Description, guest: Guest, depth: int, *, hybrid: bool = False) -> list[Monitored]:
    """The guest under a VMM, that under another, and so on: `depth` of them, the innermost first."""
    levels: list[Monitored] = []
    for _ in range(depth):
        levels.append(monitored(description, levels[-1].whole if levels else guest, hybrid=hybrid))
    return levels


def deepest(description: Description, guest: Guest) -> int:
    """How many VMMs fit below a guest: each takes its own words, and no other resource (Theorem 2)."""
    return (description.storage.cells.run - guest.size) // (VECTORS + _length(description, hybrid=False))


def computer(description: Description, program: Guest) -> Computer:
    """A machine with this program, ready to run."""
    return Computer(description, program.image, program.size, program.start)


def _fitting(description: Description, program: Guest) -> Guest:
    if program.size > description.storage.cells.run:
        raise UsageError(
            f"guest and monitor take {program.size} words, the machine has {description.storage.cells.run}"
        )
    return program


@lru_cache(maxsize=4)
def _source(*, hybrid: bool) -> str:
    text = (_PATH / "vmm.asm").read_text(encoding="utf-8")
    return text + (_PATH / "hybrid.asm").read_text(encoding="utf-8") if hybrid else text


def _length(description: Description, *, hybrid: bool) -> int:
    nowhere = {"GUEST": 0, "OLD": 0, "NEW": 0}
    return len(_assembled(description, Guest.of((), 0), nowhere, origin=0, hybrid=hybrid).words)


def _assembled(
    description: Description, guest: Guest, places: Mapping[str, int], *, origin: int, hybrid: bool
) -> Program:
    constants = {"SIZE": guest.size, "START_P": guest.start.p, "START_L": guest.start.l, "START_B": guest.start.b}
    text = _source(hybrid=hybrid)
    if hybrid:
        constants["LAST_OPCODE"] = 18
    else:
        text += "\nsupervisor = direct\nunprivileged = reflect\n"
    return assemble(description, text, origin=origin, symbols={**constants, **places}, name="vmm.asm")
