"""Claims about one form, each with what it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simvirt.analyzer.model.properties import SENSITIVE, Evidence, Property, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from simvirt.analyzer.model.experiment import Manner, Witness
    from simvirt.analyzer.model.form import Form


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much was tried.

    :ivar observations: pairs of states of which both runs were made, for this form.
    :ivar applicable: those that say something about the claim.
    :ivar exhaustive: they are all pairs that the machine has.
    """

    observations: int = 0
    applicable: int = 0
    exhaustive: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """That a form has a property, or has it not.

    :ivar holds: None if nothing is known.
    :ivar witnesses: of an existential property that holds, one for each component that shows it; of a universal one
        that does not hold, the counter-example.
    """

    holds: bool | None
    evidence: Evidence
    coverage: Coverage = Coverage()
    witnesses: tuple[Witness, ...] = ()

    @property
    def manners(self) -> frozenset[Manner]:
        """The ways in which the witnesses show it."""
        return frozenset(witness.manner for witness in self.witnesses)


UNKNOWN = Claim(None, Evidence.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Classification:
    """All claims about one form, by property and reading."""

    form: Form
    claims: Mapping[tuple[Property, Reading], Claim] = field(default_factory=dict)

    def claim(self, which: Property, reading: Reading = Reading.REPAIRED) -> Claim:
        """The claim about one property in one reading; an unknown one where nobody tried."""
        return self.claims.get((which, reading), UNKNOWN)

    def holds(self, which: Property, reading: Reading = Reading.REPAIRED) -> bool | None:
        """Has the form this property? None if nothing is known."""
        return self.claim(which, reading).holds

    def sensitive(self, reading: Reading = Reading.REPAIRED) -> bool | None:
        """Control or behavior sensitive (Popek & Goldberg §3, with Penneman's configuration).

        A definition that no pair was tried for is passed over, as on a machine without relocation; the coverage of its
        claim says so. Without answers about control and mode nothing is said.
        """
        return self.has_any(SENSITIVE, reading)

    def has_any(self, properties: Sequence[Property], reading: Reading) -> bool | None:
        """Has it one of several properties? Without an answer about the first two nothing is said."""
        answers = [self.holds(which, reading) for which in properties]
        if True in answers:
            return True
        return None if None in answers[:2] else False

    def innocuous(self, reading: Reading = Reading.REPAIRED) -> bool | None:
        """Not sensitive."""
        sensitive = self.sensitive(reading)
        return None if sensitive is None else not sensitive

    def critical(self, reading: Reading = Reading.REPAIRED, *, under_c0: bool = True) -> bool | None:
        """Sensitive and not privileged, under the VMM's configuration C0 or for all configurations."""
        privileged = self.holds(Property.PRIVILEGED_UNDER_C0 if under_c0 else Property.PRIVILEGED, reading)
        return _and(self.sensitive(reading), None if privileged is None else not privileged)

    def properties(self, reading: Reading = Reading.REPAIRED) -> tuple[Property, ...]:
        """The properties that it has."""
        return tuple(which for which in Property if self.holds(which, reading))

    @property
    def evidence(self) -> Evidence:
        """What the answer to the main question rests on: is it critical?"""
        return self.evidence_of(SENSITIVE)

    def evidence_of(
        self, properties: Sequence[Property], reading: Reading = Reading.REPAIRED, *, under_c0: bool = True
    ) -> Evidence:
        """What it rests on that the form has one of some properties and is not privileged, or that this is not so.

        The weakest claim that the answer needs: where it is so, the best of the properties and that it is unprivileged;
        of a privileged form, that it is; else that it has none of the properties.
        """
        sensitive = self.has_any(properties, reading)
        if sensitive is None:
            return Evidence.UNKNOWN
        claims = [self.claim(which, reading) for which in properties]
        if not sensitive:
            return weakest([claim.evidence for claim in claims if claim.holds is not None])
        privileged = self.claim(Property.PRIVILEGED_UNDER_C0 if under_c0 else Property.PRIVILEGED, reading)
        if privileged.holds:
            return privileged.evidence
        best = min((claim.evidence for claim in claims if claim.holds), key=_STRENGTH.index)
        return weakest([privileged.evidence, best])

    @property
    def coverage(self) -> Coverage:
        """How many observations were made."""
        return max((claim.coverage for claim in self.claims.values()), key=lambda c: c.observations, default=Coverage())

    @property
    def witnesses(self) -> tuple[Witness, ...]:
        """All witnesses of all claims, each once, in the order of the properties."""
        found = {
            witness.identifier: witness
            for reading in (Reading.REPAIRED, Reading.LETTER)
            for which in Property
            for witness in self.claim(which, reading).witnesses
        }
        return tuple(found.values())


_STRENGTH = tuple(Evidence)


def weakest(evidence: list[Evidence]) -> Evidence:
    """The weakest of several kinds of evidence; `UNKNOWN` of none.

    >>> weakest([Evidence.PROVED, Evidence.NOT_REFUTED]).value
    'not-refuted'
    """
    return max(evidence, key=_STRENGTH.index, default=Evidence.UNKNOWN)


def _and(first: bool | None, second: bool | None) -> bool | None:
    if first is False or second is False:
        return False
    return None if first is None or second is None else True
