"""What a boot image prints, and whether it agrees with what was observed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.outcome import Called, Completed, Outcome, Trapped
from simvirt.analyzer.x86 import layout
from simvirt.analyzer.x86.components import MODE, OWN
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simvirt.analyzer.model.experiment import Witness
    from simvirt.analyzer.model.state import State

_BREAKPOINT: Final = 3
_NO_ERROR_CODE: Final = 0xFFFF_FFFF
_IF, _IOPL = 9, 12
_GENERAL_FLAGS: Final = 0x00244DD5
"""The flags in general register EFLAGS, but for RF, which a trap's frame shows as the processor likes."""
_TOUCHED: Final = 32
"""So many bytes below the stack are the replay's own, when a run ended in ring 0."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One run on another machine: the registers in the frame of the trap that ended it, and words of memory."""

    fields: dict[str, int]
    cells: dict[int, int]

    @property
    def cpl(self) -> int:
        """Where the trap came from."""
        return self.fields["cs"] & 3


def parse(text: str) -> tuple[Replayed, ...]:
    """The runs that an image has printed.

    Raises:
        UsageError: it did not come to its end.
    """
    lines = [line.strip() for line in text.splitlines()]
    if "done" not in lines:
        raise UsageError(f"the image did not come to its end; the last it printed was {lines[-1:] or 'nothing'}")
    runs = []
    for line in lines:
        if line.startswith("run "):
            pairs = [word.split("=") for word in line.split()[1:]]
            named = {name: int(value, 16) for name, value in pairs if not _is_address(name)}
            runs.append(Replayed(named, {int(name, 16): int(value, 16) for name, value in pairs if _is_address(name)}))
    return tuple(runs)


def _is_address(name: str) -> bool:
    return len(name) == 8 and set(name) <= set("0123456789abcdef")


def disagreements(witness: Witness, runs: Sequence[Replayed]) -> list[str]:
    """In what the two runs elsewhere differ from those here; empty if in nothing."""
    found = []
    starts = (witness.observation.pair.first, witness.observation.pair.second)
    for number, (start, outcome, run) in enumerate(zip(starts, witness.observation.outcomes, runs, strict=True), 1):
        found += [f"run {number}: {what}" for what in _differences(start, outcome, run)]
    return found


def _differences(start: State, outcome: Outcome, run: Replayed) -> list[str]:
    vector, eip = run.fields["vector"], run.fields["eip"]
    if isinstance(outcome, Trapped):
        error = run.fields["error"]
        code = None if error == _NO_ERROR_CODE else error
        if (vector, eip, code) != (outcome.trap.vector, start["EIP"], outcome.trap.error_code):
            return [f"{outcome.trap} here, vector {vector} error code {code} at {eip:#x} there"]
        return []
    if isinstance(outcome, Called):
        return (
            []
            if vector == outcome.trap.vector
            else [f"entered by vector {outcome.trap.vector:#x} here, {vector:#x} there"]
        )
    assert isinstance(outcome, Completed)
    return _end_differences(outcome.end, run)


def _end_differences(end: State, run: Replayed) -> list[str]:
    """The completed run: a trap on the next instruction, INT3, shows the state that it found."""
    fields = run.fields
    eip = fields["eip"] - 1 if fields["vector"] == _BREAKPOINT else fields["eip"]
    cpl = run.cpl
    seen: dict[str, object] = {
        "EIP": eip,
        MODE: cpl,
        "ESP": fields["esp"],
        "CS": OWN if fields["cs"] == layout.CODE_SEGMENTS.get(cpl) else fields["cs"],
        "EFLAGS": fields["eflags"] & _GENERAL_FLAGS,
        "EFLAGS.IF": fields["eflags"] >> _IF & 1,
        "EFLAGS.IOPL": fields["eflags"] >> _IOPL & 3,
        **{name: fields[name.lower()] for name in ("EAX", "ECX", "EDX", "EBX", "EBP", "ESI", "EDI")},
        **{name: fields[name.lower()] for name in ("DS", "ES", "FS", "GS")},
    }
    if cpl:
        seen["SS"] = OWN if fields["ss"] == layout.STACK_SEGMENTS.get(cpl) else fields["ss"]
    expected = dict(end) | {"EFLAGS": int(str(end["EFLAGS"])) & _GENERAL_FLAGS}
    touched = range(fields["esp"] - _TOUCHED, fields["esp"]) if cpl == 0 else range(0)
    for address, value in run.cells.items():
        if address not in touched:
            seen[f"[{address:#06x}]"] = value
    return [
        f"{name} = {expected[name]!r} here, {value!r} there"
        for name, value in seen.items()
        if name in expected and expected[name] != value
    ]
