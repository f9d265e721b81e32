"""What of the instruction space a comparison has executed: encoding forms, prefixes, faults, kinds of code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

import iced_x86
import numpy as np

from simvirt.x86.forms import Encoding, EncodingForm, encoding_forms
from tests.differential.encodings import FEATURES, why_left_out
from tests.differential.step import Step

if TYPE_CHECKING:
    from tests.differential.batch import Batch

_CODES: Final = {
    number: name.lower().replace("_", "-") for name, number in vars(iced_x86.Code).items() if isinstance(number, int)
}
_FEATURE_NAMES: Final = frozenset(
    name for name, number in vars(iced_x86.CpuidFeature).items() if isinstance(number, int) and number in FEATURES
)
_DB: Final = 1
SAMPLE: Final = 16
_LEGACY: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")


def form_name(instruction: iced_x86.Instruction) -> str:
    """The name that `simvirt.x86.forms` has for what the instruction is an instance of."""
    return _CODES[instruction.code]


@cache
def forms_of_the_model(bits: int) -> dict[str, EncodingForm]:
    """The encoding forms that exist in code of this size on the CPU model that is compared."""
    return {
        form.name: form
        for form in encoding_forms()
        if form.exists_in(bits)
        and bits not in form.foreign_modes
        and not form.behind_wait
        and form.encoding in (Encoding.LEGACY, Encoding.VEX)
        and set(form.features) <= _FEATURE_NAMES
    }


@dataclass(slots=True)
class Coverage:
    """Counts over the steps of batches.

    :ivar completed: by kind of code and form, instructions that ran to their end.
    :ivar faulted: the same of those that ended in an exception, by its vector.
    :ivar prefixes: by kind of code and prefix byte ("rex", "rex.w" too).
    """

    completed: Counter[tuple[str, str]] = field(default_factory=Counter)
    faulted: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    prefixes: Counter[tuple[str, str]] = field(default_factory=Counter)
    page_crossings: Counter[str] = field(default_factory=Counter)
    """Operands across a page boundary, of one step in `SAMPLE`."""
    bits: dict[str, int] = field(default_factory=dict)
    rings: dict[str, int] = field(default_factory=dict)

    def add(self, batch: Batch, log: np.ndarray) -> None:
        """Count what this machine has executed."""
        cases, steps, rips, vectors = (log[name].tolist() for name in ("case", "step", "rip", "vector"))
        for row, (case_number, step, vector) in enumerate(zip(cases, steps, vectors, strict=True)):
            case = batch.cases[case_number]
            start = int.from_bytes(case.record[0x80:0x88], "little")
            ip = rips[row - 1] if step else start
            if not start <= ip < start + len(case.code):
                continue
            code = case.code[ip - start : ip - start + 15]
            flavour = case.flavour
            self.bits[flavour.name], self.rings[flavour.name] = flavour.bits, flavour.ring
            instruction = iced_x86.Decoder(flavour.bits, code, ip=ip).decode()
            name = form_name(instruction)
            if row % SAMPLE == 0 and any(a.crosses_page for a in Step(batch, log, row, log[row]).accesses):
                self.page_crossings[flavour.name] += 1
            if vector == _DB:
                self.completed[flavour.name, name] += 1
            else:
                self.faulted[flavour.name, name, vector] += 1
            for at, byte in enumerate(code):
                if byte not in _LEGACY:
                    if flavour.bits == 64 and byte & 0xF0 == 0x40:
                        self.prefixes[flavour.name, "rex.w" if byte & 8 else "rex"] += 1
                    break
                self.prefixes[flavour.name, f"{byte:02x}"] += 1
                if at == 14:
                    break

    def forms(self, kind: str) -> tuple[set[str], set[str], dict[str, str]]:
        """Of this kind of code: the forms that have been executed, that have not, and that are left out, and why."""
        bits = self.bits[kind]
        known = forms_of_the_model(bits)
        seen = {name for each, name in self.completed if each == kind}
        seen |= {name for each, name, _ in self.faulted if each == kind}
        reasons = {
            name: why for name, form in known.items() if (why := why_left_out(form, kernel=self.rings[kind] == 0))
        }
        executed = seen & known.keys()
        return (
            executed,
            known.keys() - executed - reasons.keys(),
            {n: w for n, w in reasons.items() if n not in executed},
        )

    def report(self) -> list[str]:
        """What there is to say, line by line."""
        lines = []
        for kind in self.bits:
            executed, missing, left_out = self.forms(kind)
            known = len(executed) + len(missing) + len(left_out)
            completed = {name for each, name in self.completed if each == kind} & executed
            lines.append(f"{kind}: {len(executed)} of {known} encoding forms, {len(completed)} of them to their end")
            lines += [f"  never: {name}" for name in sorted(missing)]
            reasons: dict[str, list[str]] = {}
            for name, why in sorted(left_out.items()):
                reasons.setdefault(why, []).append(name)
            lines += [f"  left out ({why}): {' '.join(names)}" for why, names in reasons.items()]
            prefixes = {prefix: count for (each, prefix), count in sorted(self.prefixes.items()) if each == kind}
            lines.append(f"  prefixes: {prefixes}")
            vectors = Counter[int]()
            for (each, _, vector), count in self.faulted.items():
                vectors[vector] += count if each == kind else 0
            lines.append(f"  exceptions: {dict(sorted((+vectors).items()))}")
            lines.append(f"  operands across a page boundary: {self.page_crossings[kind]} in one step of {SAMPLE}")
        return lines
