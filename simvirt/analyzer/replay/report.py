"""What a boot image prints, and whether it agrees with what was observed here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.outcome import Called, Completed, Outcome, Trapped
from simvirt.analyzer.replay.boot_image import bits_of, general_names
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
_TOUCHED: Final = {32: 32, 64: 64}
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
            named = {name: int(value, 16) for name, value in pairs if not name.startswith("@")}
            cells = {int(name[1:], 16): int(value, 16) for name, value in pairs if name.startswith("@")}
            runs.append(Replayed(named, cells))
    return tuple(runs)


def disagreements(witness: Witness, runs: Sequence[Replayed]) -> list[str]:
    """In what the two runs elsewhere differ from those here; empty if in nothing."""
    found = []
    starts = (witness.observation.pair.first, witness.observation.pair.second)
    for number, (start, outcome, run) in enumerate(zip(starts, witness.observation.outcomes, runs, strict=True), 1):
        found += [f"run {number}: {what}" for what in _differences(start, outcome, run)]
    return found


def _differences(start: State, outcome: Outcome, run: Replayed) -> list[str]:
    pointer = "RIP" if bits_of(start) == 64 else "EIP"
    vector, at = run.fields["vector"], run.fields[pointer.lower()]
    if isinstance(outcome, Trapped):
        error = run.fields["error"]
        code = None if error == _NO_ERROR_CODE else error
        if (vector, at, code) != (outcome.trap.vector, start[pointer], outcome.trap.error_code):
            return [f"{outcome.trap} here, vector {vector} error code {code} at {at:#x} there"]
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
    bits = bits_of(end)
    pointer, flags = ("RIP", "RFLAGS") if bits == 64 else ("EIP", "EFLAGS")
    fields = run.fields
    found_flags = fields[flags.lower()]
    cpl = run.cpl
    seen: dict[str, object] = {
        pointer: fields[pointer.lower()] - 1 if fields["vector"] == _BREAKPOINT else fields[pointer.lower()],
        MODE: cpl,
        "CS": OWN if fields["cs"] == layout.CODE_SEGMENTS.get(cpl) else fields["cs"],
        flags: found_flags & _GENERAL_FLAGS,
        "EFLAGS.IF": found_flags >> _IF & 1,
        "EFLAGS.IOPL": found_flags >> _IOPL & 3,
        **{name: fields[name.lower()] for name in (*general_names(bits), "DS", "ES", "FS", "GS")},
    }
    if cpl or bits == 64:
        seen["SS"] = OWN if fields["ss"] == layout.STACK_SEGMENTS.get(cpl) else fields["ss"]
    expected = dict(end) | {flags: int(str(end[flags])) & _GENERAL_FLAGS}
    # A frame of 64-bit mode begins at a multiple of 16 bytes.
    stack = fields["rsp"] & ~0xF if bits == 64 else fields["esp"]
    touched = range(stack - _TOUCHED[bits], stack) if cpl == 0 else range(0)
    for address, value in run.cells.items():
        if address not in touched:
            seen[f"[{address:#06x}]"] = value
    return [
        f"{name} = {expected[name]!r} here, {value!r} there"
        for name, value in seen.items()
        if name in expected and expected[name] != value
    ]
